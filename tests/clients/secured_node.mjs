// node-redis, ioredis and grpc-js with TLS, a user and a token.
//
// Usage: secured_node.mjs PROTO_FOLDER HOST RESP_PORT GRPC_PORT CA_FILE USER TOKEN
// The user may read and write keys that start with the prefix `app:`.
import assert from "node:assert";
import { readFileSync } from "node:fs";
import { createClient } from "redis";
import Redis from "ioredis";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [, , protos, host, port, grpcPort, authority, user, token] = process.argv;
const ca = readFileSync(authority);

const client = createClient({ username: user, password: token, socket: { host, port: Number(port), tls: true, ca } });
await client.connect();
await client.set("app:1", "v");
assert.equal(await client.get("app:1"), "v");
await assert.rejects(client.get("other:1"), /NOPERM/);
await client.close();
console.log("node-redis with TLS and a token: ok");

const ioredis = new Redis({ host, port: Number(port), username: user, password: token, tls: { ca } });
assert.equal(await ioredis.get("app:1"), "v");
await assert.rejects(ioredis.flushall(), /NOPERM/);
await ioredis.quit();
console.log("ioredis with TLS and a token: ok");

const definition = loader.loadSync("terrace/v1/cache.proto", { includeDirs: [protos] });
const { Cache } = grpc.loadPackageDefinition(definition).terrace.v1;
const transport = grpc.credentials.createSsl(ca);
const withToken = (text) => grpc.credentials.combineChannelCredentials(
  transport,
  grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set("authorization", `Bearer ${text}`);
    done(null, metadata);
  }),
);
function get(credentials, key) {
  const cache = new Cache(`${host}:${grpcPort}`, credentials);
  return new Promise((resolve, reject) => {
    const deadline = new Date(Date.now() + 10_000);
    cache.Get({ key: Buffer.from(key) }, { deadline }, (error, found) => (error ? reject(error) : resolve(found)));
  }).finally(() => cache.close());
}
assert.equal((await get(withToken(token), "app:1")).found.value.toString(), "v");
const failsWith = (code) => (error) => error.code === code;
await assert.rejects(get(withToken(token), "other:1"), failsWith(grpc.status.PERMISSION_DENIED));
await assert.rejects(get(withToken("wrong"), "app:1"), failsWith(grpc.status.UNAUTHENTICATED));
await assert.rejects(get(transport, "app:1"), failsWith(grpc.status.UNAUTHENTICATED));
console.log("grpc-js with TLS and a token: ok");
