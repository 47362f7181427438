"""The cache backend of Django with a real server. ``frameworks/django_suite.py`` runs the tests of Django itself."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import terrace
from django.conf import settings  # type: ignore[import-untyped]
from framework_server import Server, running

if not settings.configured:
    settings.configure()

from django.core.exceptions import ImproperlyConfigured  # type: ignore[import-untyped]
from terrace.django import TerraceCache


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


def cache(server: Server, prefix: str = "", **params: Any) -> TerraceCache:
    timeouts = {"read_timeout": 5, "write_timeout": 5}
    options = {"prefix": prefix or f"django:{secrets.token_hex(4)}:", **timeouts, **params.pop("OPTIONS", {})}
    return TerraceCache(server.target, {**params, "OPTIONS": options})


def test_increments_of_threads_are_atomic(server: Server) -> None:
    numbers = cache(server)
    numbers.set("n", 0)

    def add(_: int) -> None:
        for _ in range(100):
            numbers.incr("n")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert numbers.get("n") == 400
    assert numbers.decr("n", 150) == 250
    with pytest.raises(ValueError, match="not found"):
        numbers.incr("absent")
    numbers.set("text", "a")
    with pytest.raises(TypeError, match="not an integer"):
        numbers.incr("text")


def test_get_or_set_runs_one_load(server: Server) -> None:
    values = cache(server)
    calls, begun, end = [], threading.Event(), threading.Event()

    def load() -> str:
        calls.append(1)
        begun.set()
        assert end.wait(10)
        return "loaded"

    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(values.get_or_set, "k", load) for _ in range(8)]
        assert begun.wait(10)
        end.set()
        assert {result.result(10) for result in results} == {"loaded"}
    assert len(calls) == 1
    assert values.get_or_set("none", None) is None
    assert "none" in values
    assert values.get_or_set("zero", 5, timeout=0) == 5
    assert "zero" not in values


def test_timeouts(server: Server) -> None:
    values = cache(server, TIMEOUT=60)
    client = terrace.Client(server.target)

    def expires_in(key: str) -> Any:
        entry = client.lookup(values._key(key, None), no_touch=True, codec=terrace.Pickle())
        return None if entry is None else entry.expires_in

    values.set("default", "a")
    values.set("never", "a", timeout=None)
    values.set("zero", "a", timeout=0)
    assert 50 < expires_in("default") <= 60
    assert expires_in("never") is None
    assert values.has_key("never")
    assert not values.has_key("zero")
    assert values.touch("never", 30)
    assert 20 < expires_in("never") <= 30
    assert values.touch("never", None)
    assert expires_in("never") is None
    assert values.touch("never", 0)
    assert not values.touch("never")
    assert not values.add("default", "b")
    assert values.add("added", "b", timeout=0)
    assert "added" not in values
    client.close()


def test_clear_removes_the_keys_of_this_cache_only(server: Server) -> None:
    space = f"{secrets.token_hex(4)}:"
    plain, named = cache(server, space), cache(server, space, KEY_PREFIX="shop")
    other = cache(server)
    for values in (plain, named, other):
        values.set_many({"a": 1, "b": [2]})
        values.set("a", 3, version=2)
    named.clear()
    assert named.get_many(["a", "b"]) == {}
    assert named.get("a", version=2) is None
    assert plain.get_many(["a", "b", "c"]) == other.get_many(["a", "b", "c"]) == {"a": 1, "b": [2]}
    plain.clear()
    assert plain.get("a") is None
    assert other.get("a", version=2) == 3


def test_values_keep_their_types(server: Server) -> None:
    values = cache(server)
    samples = [0, -7, 1 << 80, True, None, 1.5, "42", b"42", {"a": [1]}, (1, 2)]
    values.set_many(dict(enumerate(samples)))
    for key, sample in enumerate(samples):
        assert values.get(key) == sample
        assert type(values.get(key)) is type(sample)
    assert values.get("absent", 9) == 9


def test_codec_and_near_cache(server: Server) -> None:
    values = cache(server, OPTIONS={"codec": "terrace.Json", "near_cache": {"max_bytes": "1MiB"}})
    values.set("a", {"x": [1]})
    values.get("a")["x"].append(2)
    assert values.get("a") == {"x": [1]}
    client = terrace.Client(server.target)
    assert client.get(values._key("a", None)) == b'{"x":[1]}'
    client.close()


def test_set_many_returns_the_keys_that_failed(server: Server) -> None:
    values = cache(server)
    large = b"x" * (9 << 20)
    assert values.set_many({"a": 1, "large": large}) == ["large"]
    assert values.get("a") == 1
    with pytest.raises(terrace.TerraceError):
        values.set_many({"large": large})


async def test_async_methods_are_native(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a thread pool was used")

    monkeypatch.setattr("django.core.cache.backends.base.sync_to_async", refuse)
    values = cache(server)
    await values.aset("a", 1)
    assert await values.aget("a") == 1
    assert await values.aadd("b", 2)
    assert not await values.aadd("b", 3)
    assert await values.aget_many(["a", "b", "c"]) == {"a": 1, "b": 2}
    assert await values.aset_many({"c": 3, "d": None}) == []
    assert await values.ahas_key("d")
    assert await values.aincr("c", 4) == 7
    assert await values.adecr("c") == 6
    assert await values.atouch("c", 10)
    assert await values.adelete("c")
    assert not await values.adelete("c")
    await values.adelete_many(["a", "d"])
    assert await values.aget("a", "gone") == "gone"
    assert await values.aincr_version("b") == 2
    assert await values.aget("b", version=2) == 2
    loads = []

    async def load() -> int:
        loads.append(1)
        await asyncio.sleep(0.02)
        return 5

    assert await asyncio.gather(*(values.aget_or_set("e", load) for _ in range(10))) == [5] * 10
    assert len(loads) == 1
    await values.aclear()
    assert await values.aget("e") is None
    await values.aclose()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokn": "x"}, r"OPTIONS has \['tokn'\]"),
        ({"codec": "terrace.Nothing"}, "cannot be imported"),
        ({"codec": 5}, "expected an object with encode and decode"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        TerraceCache("127.0.0.1:1", {"OPTIONS": options})


def test_backends_share_one_client(server: Server) -> None:
    first, second = cache(server, "shared:"), cache(server, "shared:", VERSION=2)
    first.close()
    assert first._sync is second._sync
