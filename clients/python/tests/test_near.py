"""The near cache: copies of values in the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import terrace
from conftest import SLOW, until
from terrace.testing import Server

Make = Callable[..., terrace.Client]
JSON: Any = terrace.Json()


@pytest.fixture
def near(server: Server) -> Iterator[Make]:
    """Make synchronous clients with a near cache that is ready."""
    made = []

    def make(*prefixes: str, **settings: Any) -> terrace.Client:
        cache = terrace.NearCache(list(prefixes) or None, **settings)
        client = terrace.Client(server.target, near_cache=cache, **SLOW)
        made.append(client)
        client.ready()
        until(lambda: client.near_stats()["feeds"] == 1, "the change feed has begun")
        return client

    yield make
    for client in made:
        client.close()


def _kept(client: Any, key: str, codec: Any = None) -> Any:
    """Read a key until the near cache has it, and return the object of a hit."""

    def hit() -> bool:
        before = client.near_stats()["hits"]
        client.get(key, codec=codec)
        return bool(client.near_stats()["hits"] > before)

    until(hit, "the near cache has the key")
    return client.get(key, codec=codec)


def test_a_hit_is_the_same_object(near: Make, key: str) -> None:
    client = near()
    client.set(key, {"a": 1}, codec=JSON)
    value = _kept(client, key, JSON)
    assert value == {"a": 1}
    assert client.get(key, codec=JSON) is value
    assert client.get_or_load(key, lambda: None, codec=JSON) is value
    # Another codec has its own objects.
    assert client.get(key) == b'{"a":1}'
    assert client.get(key, codec=terrace.Text()) == '{"a":1}'


def test_a_copy_that_cannot_be_decoded_is_loaded_again(near: Make, key: str) -> None:
    client = near()
    client.set(key, b"of another version")
    _kept(client, key)
    assert client.get_or_load(key, lambda: {"a": 1}, ttl="1h", codec=JSON) == {"a": 1}
    with terrace.Client(client._target, **SLOW) as other:
        assert other.get(key, codec=JSON) == {"a": 1}


def test_a_hit_is_a_copy_if_required(near: Make, key: str) -> None:
    client = near(copy=True)
    client.set(key, {"a": 1}, codec=JSON)
    value = _kept(client, key, JSON)
    value["a"] = 2
    assert client.get(key, codec=JSON) == {"a": 1}


def test_a_change_by_another_client_ends_a_copy(near: Make, client: terrace.Client, key: str) -> None:
    mine = near()
    client.set(key, "1", tags=[key])
    assert _kept(mine, key) == b"1"
    client.set(key, "2", tags=[key])
    until(lambda: mine.get(key) == b"2", "the copy ends with a write")
    assert _kept(mine, key) == b"2"
    client.invalidate_tags([key])
    until(lambda: mine.get(key) is None, "the copy ends with its tag")


@pytest.mark.parametrize("end", ["set", "delete", "increment", "invalidate_prefix"])
def test_an_own_write_ends_a_copy_at_once(near: Make, key: str, end: str) -> None:
    client = near()
    client.set(key, "1")
    assert _kept(client, key) == b"1"
    calls: dict[str, tuple[Callable[[], Any], bytes | None]] = {
        "set": (lambda: client.set(key, "2"), b"2"),
        "delete": (lambda: client.delete(key), None),
        "increment": (lambda: client.increment(key), b"2"),
        "invalidate_prefix": (lambda: client.invalidate_prefix(key), None),
    }
    call, expected = calls[end]
    call()
    assert client.get(key) == expected


def test_only_keys_of_the_prefixes_are_kept(near: Make, key: str) -> None:
    client = near(f"{key}:yes:")
    for name in ("yes", "no"):
        client.set(f"{key}:{name}:1", "v")
    _kept(client, f"{key}:yes:1")
    entries = client.near_stats()["entries"]
    for _ in range(5):
        assert client.get(f"{key}:no:1") == b"v"
    assert client.near_stats()["entries"] == entries == 1


def test_a_decorated_function_returns_the_same_object(near: Make, key: str) -> None:
    client = near()

    @client.cached(f"{key}:{{a}}")
    def function(a: int) -> dict[str, int]:
        return {"a": a}

    until(lambda: function(1) is function(1), "the near cache has the result")


def test_without_a_server_copies_end(own_server: Server, key: str) -> None:
    client = terrace.Client(own_server.target, near_cache=terrace.NearCache(), **SLOW)
    client.ready()
    until(lambda: client.near_stats()["feeds"] == 1, "the change feed has begun")
    client.set(key, "v")
    _kept(client, key)
    own_server.kill()

    def fails() -> bool:
        try:
            return client.get(key, timeout="1s") is None
        except terrace.TerraceError:
            return True

    until(fails, "the copies end with max_staleness")
    client.close()


async def test_asyncio(server: Server, client: terrace.Client, key: str) -> None:
    mine: Any = terrace.AsyncClient(server.target, near_cache=terrace.NearCache(), **SLOW)
    await mine.ready()
    while mine.near_stats()["feeds"] == 0:
        await asyncio.sleep(0.005)
    await mine.set(key, [1], codec=JSON)
    while await mine.get(key, codec=JSON) is not await mine.get(key, codec=JSON):
        await asyncio.sleep(0.005)
    client.set(key, "[2]")
    while await mine.get(key, codec=JSON) != [2]:
        await asyncio.sleep(0.005)
    await mine.close()


def test_a_client_without_a_near_cache_has_no_statistics(client: terrace.Client) -> None:
    assert client.near_stats() is None
