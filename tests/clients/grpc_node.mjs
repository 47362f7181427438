// grpc-js with plain numbers: Set, Get, and a Watch that resumes at the sequence that it received.
// Usage: grpc_node.mjs PROTO_FOLDER HOST PORT
import assert from "node:assert";
import { createRequire } from "node:module";
import { readdirSync } from "node:fs";
import { join } from "node:path";

const require = createRequire(import.meta.url);
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const version = require("./node_modules/@grpc/grpc-js/package.json").version;
const [, , protos, host, port] = process.argv;

const files = readdirSync(join(protos, "terrace/v1")).map((file) => join("terrace/v1", file));
// `longs: Number`: numbers beyond 2^53 would lose digits.
const api = grpc.loadPackageDefinition(loader.loadSync(files, { includeDirs: [protos], longs: Number, oneofs: true })).terrace.v1;
const credentials = grpc.credentials.createInsecure();
const cache = new api.Cache(`${host}:${port}`, credentials);
const invalidation = new api.Invalidation(`${host}:${port}`, credentials);
const call = (method, request) => new Promise((resolve, reject) =>
  cache[method](request, (error, response) => (error ? reject(error) : resolve(response))));
const key = (name) => Buffer.from(`clients:grpc-js:${name}`);

await call("Set", { key: key("a"), value: Buffer.from("v") });
assert.equal((await call("Get", { key: key("a") })).found.value.toString(), "v");

// Reads messages of a Watch until one satisfies `wanted`.
function watch(request, wanted) {
  return new Promise((resolve, reject) => {
    const stream = invalidation.Watch(request);
    stream.on("data", (message) => { if (wanted(message)) { stream.cancel(); resolve(message); } });
    stream.on("error", (error) => { if (error.code !== grpc.status.CANCELLED) reject(error); });
  });
}

const started = await watch({}, (message) => message.news === "started");
assert.ok(Number.isSafeInteger(started.sequence) && started.sequence < 2 ** 41, `${started.sequence}`);
const missed = [1, 2, 3].map((number) => call("Set", { key: key(`n${number}`), value: Buffer.from("v") }));
await Promise.all(missed);
const seen = new Set();
await watch({ fromSequence: started.sequence }, (message) => {
  assert.notEqual(message.news, "discontinuity", "the stream resumes without a gap");
  if (message.news === "started") assert.ok(message.started.resumed);
  for (const event of message.events?.events ?? []) if (event.subject === "key") seen.add(event.key.toString());
  return [1, 2, 3].every((number) => seen.has(key(`n${number}`).toString()));
});
cache.close();
invalidation.close();
console.log(`grpc-js ${version}: ok`);
