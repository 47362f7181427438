"""Exercises redis-py or valkey-py with default settings: connect, get, set, ttl, scan, pipeline, publish and subscribe."""

import importlib
import sys
import time

library, host, port = importlib.import_module(sys.argv[1]), sys.argv[2], int(sys.argv[3])
client_class = getattr(library, "Redis", None) or library.Valkey
client = client_class(host=host, port=port)
name = sys.argv[1]


def key(text):
    return f"clients:{name}:{text}"


assert client.ping()
assert client.set(key("a"), b"\x00\xff", ex=100)
assert client.get(key("a")) == b"\x00\xff"
assert client.get(key("none")) is None
assert 90 < client.ttl(key("a")) <= 100
assert client.incrby(key("n"), 5) == 5
assert client.mset({key("x"): 1, key("y"): 2})
assert client.mget(key("x"), key("y"), key("none")) == [b"1", b"2", None]
found = set(client.scan_iter(match=key("*"), count=100))
assert {key("a").encode(), key("x").encode(), key("y").encode()} <= found, found

# The default pipeline is a transaction.
with client.pipeline() as pipeline:
    pipeline.set(key("p"), 1)
    pipeline.incr(key("p"))
    pipeline.get(key("p"))
    assert pipeline.execute() == [True, 2, b"2"]
with client.pipeline(transaction=False) as pipeline:
    for number in range(500):
        pipeline.set(key(f"many:{number}"), number)
    assert all(pipeline.execute())


def increment(watching):
    watching.multi()
    watching.incr(key("t"))


assert client.transaction(increment, key("t")) == [1]

subscriber = client.pubsub()
subscriber.subscribe(key("news"))
assert subscriber.get_message(timeout=10)["type"] == "subscribe"
client.publish(key("news"), "hello")
deadline = time.monotonic() + 10
message = None
while message is None and time.monotonic() < deadline:
    message = subscriber.get_message(timeout=1)
assert message and message["data"] == b"hello", message
subscriber.close()

assert client.info()["redis_version"] == "7.0.15"
assert client.config_get("databases") == {"databases": "3"} or client.config_get("databases") == {b"databases": b"3"}
assert client.client_list()
try:
    client.lpush(key("a"), 1)
    raise AssertionError("LPUSH on a string succeeded")
except library.ResponseError:
    pass
print(f"{name} {library.__version__}: ok")
