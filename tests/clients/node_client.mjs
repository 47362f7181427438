// Exercises node-redis or ioredis with default settings: connect, get, set, ttl, scan, pipeline, publish and subscribe.
import assert from "node:assert";
import { createRequire } from "node:module";

const [, , library, host, port] = process.argv;
const version = createRequire(import.meta.url)(`./node_modules/${library}/package.json`).version;
const key = (text) => `clients:node-${library}:${text}`;

async function nodeRedis() {
  const { createClient } = await import("redis");
  const client = createClient({ socket: { host, port: Number(port) } });
  client.on("error", (error) => { throw error; });
  await client.connect();
  assert.equal(await client.set(key("a"), "v", { EX: 100 }), "OK");
  assert.equal(await client.get(key("a")), "v");
  assert.equal(await client.get(key("none")), null);
  assert.ok((await client.ttl(key("a"))) > 90);
  let found = [];
  for await (const part of client.scanIterator({ MATCH: key("*"), COUNT: 100 })) found = found.concat(part);
  assert.ok(found.includes(key("a")));
  assert.deepEqual(await client.multi().set(key("p"), "1").incr(key("p")).get(key("p")).exec(), ["OK", 2, "2"]);
  assert.equal((await Promise.all(Array.from({ length: 500 }, (_, n) => client.set(key(`m:${n}`), `${n}`)))).length, 500);
  const subscriber = client.duplicate();
  await subscriber.connect();
  const heard = new Promise((resolve) => { subscriber.subscribe(key("news"), resolve).then(() => client.publish(key("news"), "hello")); });
  assert.equal(await heard, "hello");
  await subscriber.close();
  await client.close();
}

async function ioredis() {
  const { default: Redis } = await import("ioredis");
  const client = new Redis(Number(port), host);
  assert.equal(await client.set(key("a"), "v", "EX", 100), "OK");
  assert.equal(await client.get(key("a")), "v");
  assert.equal(await client.get(key("none")), null);
  assert.ok((await client.ttl(key("a"))) > 90);
  let cursor = "0", found = [];
  do {
    const [next, part] = await client.scan(cursor, "MATCH", key("*"), "COUNT", 100);
    cursor = next;
    found = found.concat(part);
  } while (cursor !== "0");
  assert.ok(found.includes(key("a")));
  const pipeline = client.pipeline();
  for (let n = 0; n < 500; n++) pipeline.set(key(`m:${n}`), n);
  assert.ok((await pipeline.exec()).every(([error, reply]) => error === null && reply === "OK"));
  assert.deepEqual(await client.multi().set(key("p"), "1").incr(key("p")).exec(), [[null, "OK"], [null, 2]]);
  const subscriber = new Redis(Number(port), host);
  const heard = new Promise((resolve) => subscriber.on("message", (_, message) => resolve(message)));
  await subscriber.subscribe(key("news"));
  await client.publish(key("news"), "hello");
  assert.equal(await heard, "hello");
  await subscriber.quit();
  await client.quit();
}

await { redis: nodeRedis, ioredis }[library]();
console.log(`${library === "redis" ? "node-redis" : library} ${version}: ok`);
