"""Operations of both clients, their arguments, deadlines and exceptions."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import pickle
import threading
from typing import Any

import msgspec
import pydantic
import pytest
import terrace
from conftest import PATIENCE, until
from terrace.testing import Fake, Server


@dataclasses.dataclass
class Plain:
    name: str
    age: int


class Struct(msgspec.Struct):
    name: str
    age: int


class Model(pydantic.BaseModel):
    name: str
    age: int


def test_reads_and_writes(client: terrace.Client, key: str) -> None:
    assert client.get(key) is None
    assert client.get(key, "default") == "default"
    assert client.set(key, "v", ttl="5m", stale="1m", tags=["t", b"\xff"])
    assert client.get(key.encode()) == b"v"
    entry = client.lookup(key)
    assert (entry.value, entry.tier, entry.is_stale, set(entry.tags)) == (b"v", "L1", False, {b"t", b"\xff"})
    assert 300 < entry.expires_in <= 360 and 0 <= entry.age < PATIENCE
    assert client.touch(key, "1h", only="longer") == {"found": True, "applied": True}
    assert client.delete(key, f"{key}:absent") == 1
    assert client.lookup(key) is None
    assert client.touch(key) == {"found": False, "applied": False}


def test_conditions(client: terrace.Client, key: str) -> None:
    assert not client.set(key, "1", if_present=True)
    assert client.set(key, "1", if_absent=True)
    assert not client.set(key, "2", if_absent=True)
    assert not client.set(key, "2", if_equal="0")
    assert client.set(key, "2", if_equal=b"1")
    assert client.increment(key, 40) == 42
    assert client.increment(key, -1, ttl=datetime.timedelta(hours=1)) == 41


def test_many_keys(client: terrace.Client, key: str) -> None:
    names = [f"{key}:{number}" for number in range(3)]
    assert client.set_many({names[0]: "0", names[1]: b"1"}, ttl=60, tags=[key]) is None
    assert client.get_many(names) == [b"0", b"1", None]
    assert client.get_many([]) == []
    assert client.set_many_each([(names[2], "2")]) == [None]
    found, failed = client.get_many_each([names[2], ""])
    assert found == b"2" and isinstance(failed, terrace.InvalidArgument)
    assert client.invalidate_tags([key]) == 1
    assert client.get_many(names) == [None, None, b"2"]


def test_invalidation(client: terrace.Client, key: str) -> None:
    client.set_many({f"{key}:a": "", f"{key}:b": ""})
    assert client.invalidate_prefix(f"{key}:", dry_run=True)["removed"] == 2
    assert client.get(f"{key}:a") == b""
    assert client.invalidate_prefix(f"{key}:", wait=True) == {"removed": 2, "is_done": True}
    client.set(f"{key}:a", "")
    client.invalidate_pattern(f"{key}:?", wait=True)
    assert client.get(f"{key}:a") is None


def test_leases(client: terrace.Client, key: str) -> None:
    lease = client.get_or_lease(key, lease="1m")
    assert (lease.kind, lease.grant.reason, lease.grant.can_fill) == ("load", "miss", True)
    assert 59 < lease.grant.lease <= 60
    assert client.get_or_lease(key, wait=0).kind == "busy"
    assert lease.grant.fill("v", ttl="1m", stale="1m") == "stored"
    with pytest.raises(terrace.InvalidArgument, match="the grant was used already"):
        lease.grant.fill("v")
    assert client.get_or_lease(key).value == b"v"


def test_a_dropped_grant_is_released(client: terrace.Client, key: str) -> None:
    assert client.get_or_lease(key, lease="1m").kind == "load"
    assert client.get_or_lease(key, lease="1m", wait=PATIENCE).kind == "load"


def test_a_grant_with_a_bad_argument_remains(client: terrace.Client, key: str) -> None:
    grant = client.get_or_lease(key).grant
    with pytest.raises(TypeError, match="the value is int; expected str or bytes"):
        grant.fill(1)
    with pytest.raises(ValueError, match="invalid duration"):
        grant.fill("v", ttl="soon")
    assert grant.fill("v") == "stored"


async def test_the_async_client_has_the_same_methods(aclient: terrace.AsyncClient, key: str) -> None:
    client: Any = aclient
    assert await client.get(key, 1) == 1
    assert await client.set(key, {"a": None}, codec=terrace.Json())
    assert await client.get(key, codec=terrace.Json()) == {"a": None}
    assert (await client.lookup(key)).value == b'{"a":null}'
    assert await client.delete(key) == 1
    assert await client.increment(key) == 1
    assert await client.get_many([key, "absent"]) == [b"1", None]
    grant = (await client.get_or_lease(f"{key}:lease")).grant
    assert await grant.fill_absent(ttl="1m") == "stored"
    assert (await client.get_or_lease(f"{key}:lease")).kind == "absent"
    await client.ready()
    assert len(await client.stats()) == 1


def test_public_methods_are_the_same() -> None:
    def names(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert names(terrace.Client) == names(terrace.AsyncClient)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda c: c.get(1), TypeError, "the key is int; expected str or bytes"),
        (lambda c: c.get(None), TypeError, "the key is NoneType; expected str or bytes"),
        (lambda c: c.get(""), terrace.InvalidArgument, "key"),
        (lambda c: c.get("x" * 70_000), terrace.TerraceError, "key"),
        (lambda c: c.get("\ud800"), UnicodeEncodeError, "surrogates"),
        (lambda c: c.get_many("abc"), TypeError, "a list of str or bytes is required, not one str"),
        (lambda c: c.get_many([1]), TypeError, "an item of the list is int; expected str or bytes"),
        (lambda c: c.delete(1), TypeError, "the key is int; expected str or bytes"),
        (lambda c: c.set("k", 1), TypeError, r"the value is int; expected str or bytes, or a codec such as"),
        (lambda c: c.set("k", "v", ttl="soon"), ValueError, 'invalid duration "soon": .*; expected a text such as'),
        (lambda c: c.set("k", "v", ttl=-1), ValueError, "a duration is -1 s; expected 0 or more seconds"),
        (lambda c: c.set("k", "v", ttl=float("nan")), ValueError, "a duration is NaN s; expected 0 or more seconds"),
        (lambda c: c.set("k", "v", ttl=True), TypeError, "a duration is bool; expected seconds, a timedelta or"),
        (lambda c: c.set("k", "v", ttl=10**400), (ValueError, OverflowError), "too large"),
        (lambda c: c.set("k", "v", tags="t"), TypeError, "a list of str or bytes is required, not one str"),
        (lambda c: c.set("k", "v", if_absent=True, if_present=True), terrace.InvalidArgument, "exclude each other"),
        (
            lambda c: c.touch("k", only="more"),
            terrace.InvalidArgument,
            'only is "more"; expected "longer" or "shorter"',
        ),
        (lambda c: c.increment("k", 2**63), OverflowError, "too"),
        (lambda c: c.set_many([("a", "b", "c")]), ValueError, "tuple of length 2"),
        (lambda c: c.set_many(5), TypeError, "int"),
        (lambda c: c.get_or_load("k", lambda: b"", ttl="5x"), ValueError, "invalid duration"),
        (lambda c: c.get_or_load("k", lambda: b"", on_unavailable="x"), ValueError, 'on_unavailable is "x"; expected'),
        (lambda c: c.get_or_load("k", lambda: b"", tll="5s"), TypeError, "tll"),
    ],
)
def test_arguments_are_checked(call: Any, error: Any, text: str) -> None:
    fake = Fake()
    with pytest.raises(error, match=text):
        call(fake.client())
    assert fake.keys() == [] and fake.total_loads == 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"target": ""}, 'invalid address "": it is empty; expected host:port'),
        ({"routing": "x"}, 'routing is "x"; expected "key" or "any"'),
        ({"token": "a", "token_file": "b"}, "token and token_file exclude each other"),
        ({"read_timeout": "x"}, 'invalid duration "x": .*; expected a text such as "30s" or "5m"'),
        ({"max_message": "x"}, 'invalid size "x": .*; expected a text such as "64MiB"'),
        ({"near_cache": terrace.NearCache(max_staleness="1s")}, "max_staleness"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        terrace.Client(**{"target": "127.0.0.1:1", **settings})


def test_a_token_is_not_shown() -> None:
    assert repr(terrace.Client("127.0.0.1:1", token="secret")) == "Client('127.0.0.1:1')"


@pytest.mark.parametrize("kind", [terrace.Client, terrace.AsyncClient])
def test_clients_are_not_pickled(kind: Any) -> None:
    with pytest.raises(TypeError, match="create one in each process instead of pickling it"):
        pickle.dumps(kind("127.0.0.1:1"))


def test_a_closed_client_is_unavailable(server: Server) -> None:
    client = terrace.Client(server.target)
    client.ready()
    client.close()
    client.close()
    with pytest.raises(terrace.Unavailable, match="the client is closed"):
        client.get("k")


def test_no_server() -> None:
    with pytest.raises(terrace.Unavailable, match="127.0.0.1:1") as raised:
        terrace.Client("127.0.0.1:1", read_timeout=PATIENCE).get("k")
    assert raised.value.is_retryable


@pytest.mark.parametrize(
    ("kind", "bases", "is_retryable"),
    [
        (terrace.Unavailable, (), True),
        (terrace.DeadlineExceeded, (TimeoutError,), True),
        (terrace.ResourceExhausted, (), False),
        (terrace.InvalidArgument, (ValueError,), False),
        (terrace.FailedPrecondition, (), False),
        (terrace.PermissionDenied, (), False),
        (terrace.Unauthenticated, (), False),
        (terrace.Unimplemented, (), False),
        (terrace.OutcomeUnknown, (), False),
        (terrace.LoadFailed, (), True),
        (terrace.Internal, (), False),
    ],
)
def test_exceptions(kind: Any, bases: tuple[type, ...], is_retryable: bool) -> None:
    fake = Fake()
    fake.fail(kind, "why")
    with pytest.raises(kind, match="why") as raised:
        fake.client().get("k")
    assert type(raised.value) is kind
    assert isinstance(raised.value, (terrace.TerraceError, *bases))
    assert (raised.value.is_retryable, raised.value.retry_after) == (is_retryable, None)
    again = pickle.loads(pickle.dumps(raised.value))
    assert (type(again), str(again)) == (kind, "why")


def test_a_busy_server_names_the_time_of_a_repetition() -> None:
    assert terrace.ResourceExhausted("x", 1.5).is_retryable
    again = pickle.loads(pickle.dumps(terrace.ResourceExhausted("x", 1.5)))
    assert (str(again), again.retry_after) == ("x", 1.5)


def test_the_wrong_type_of_a_value(client: terrace.Client, key: str) -> None:
    client.set(key, "text")
    with pytest.raises(terrace.FailedPrecondition):
        client.increment(key)


def test_deadlines(own_server: Server) -> None:
    with terrace.Client(own_server.target, read_timeout="20ms", write_timeout=PATIENCE) as client:
        client.set("k", "v")
        own_server.pause()
        with pytest.raises(terrace.DeadlineExceeded):
            client.get("k")
        with pytest.raises((terrace.DeadlineExceeded, terrace.OutcomeUnknown)):
            client.set("k", "w", timeout="20ms")
        own_server.resume()
        until(lambda: client.operations_in_progress() == 0, "no operation is in progress")
        assert client.get("k", timeout=PATIENCE) in (b"v", b"w")


@pytest.mark.parametrize(
    ("codec", "value", "stored"),
    [
        (terrace.Json(), {"a": [1, None, "é"]}, '{"a":[1,null,"é"]}'.encode()),
        (terrace.Json(), None, b"null"),
        (terrace.Json(Plain), Plain("Ada", 36), b'{"name":"Ada","age":36}'),
        (terrace.Json(Struct), Struct("Ada", 36), b'{"name":"Ada","age":36}'),
        (terrace.Json(Model), Model(name="Ada", age=36), b'{"name":"Ada","age":36}'),
        (terrace.Json(list[Model]), [Model(name="Ada", age=36)], b'[{"name":"Ada","age":36}]'),
        (terrace.Json(Plain | None), None, b"null"),
        (terrace.Json(datetime.date), datetime.date(2020, 1, 2), b'"2020-01-02"'),
        (terrace.Text(), "é", "é".encode()),
        (terrace.Pickle(), {1, 2}, None),
    ],
)
def test_codecs(codec: Any, value: Any, stored: bytes | None) -> None:
    fake = Fake()
    client = fake.client(codec=codec)
    client.set("k", value)
    assert client.get("k") == value
    assert type(client.get("k")) is type(value)
    assert client.get_many(["k", "absent"]) == [value, None]
    assert client.lookup("k").value == value
    if stored is not None:
        assert fake.entry("k") == (stored, None, [])
    assert client.set("k", value, if_equal=value)


def test_undecodable_values(client: terrace.Client, key: str) -> None:
    client.set(key, "{")
    with pytest.raises(terrace.DecodeError, match="cannot decode a value of 1 bytes") as raised:
        client.get(key, codec=terrace.Json())
    assert isinstance(raised.value.__cause__, ValueError)
    assert isinstance(raised.value, (ValueError, terrace.FailedPrecondition))
    with pytest.raises(terrace.DecodeError):
        client.get(key, codec=terrace.Json(Model))


def test_the_exception_of_an_encoder_is_raised(client: terrace.Client, key: str) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        client.set(key, object(), codec=terrace.Json())


def test_watch(client: terrace.Client, key: str) -> None:
    feed = client.watch([key])
    assert not feed.resumed
    client.set(f"{key}:1", "v")
    client.set("other", "v")
    client.invalidate_tags([key])
    client.delete(f"{key}:1")
    events = [next(feed) for _ in range(3)]
    assert {(event.kind, event.name) for event in events} == {
        ("key", f"{key}:1".encode()),
        ("tag", key.encode()),
    }


async def test_watch_of_the_async_client(aclient: Any, key: str) -> None:
    feed = await aclient.watch([key])
    await aclient.set(key, "v")
    async for event in feed:
        assert (event.kind, event.name, repr(event)) == ("key", key.encode(), f"Event(key, {key.encode()!r})")
        break


def test_a_feed_ends_with_its_server(own_server: Server) -> None:
    with terrace.Client(own_server.target) as client:
        client.ready()
        feed = client.watch()
        own_server.kill()
        with contextlib.suppress(terrace.Unavailable):
            assert {event.kind for event in feed} <= {"discontinuity"}


def test_threads_share_a_client(client: terrace.Client, key: str) -> None:
    seen: list[Any] = []

    def work(number: int) -> None:
        name = f"{key}:{number}"
        for round in range(50):
            client.set(name, str(round))
            if client.get(name) != str(round).encode():
                seen.append((number, round))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == []
