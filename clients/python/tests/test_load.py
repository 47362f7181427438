"""get_or_load and get_or_load_many of both clients."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest
import terrace
from conftest import PATIENCE, SLOW, until
from terrace.testing import Fake, Server

REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")


def never() -> bytes:
    raise AssertionError("the loader was called")


def test_a_value_is_loaded_once(client: terrace.Client, key: str) -> None:
    calls: list[int] = []

    def load() -> str:
        calls.append(1)
        return "v"

    assert [client.get_or_load(key, load, ttl="1m", tags=["t"]) for _ in range(3)] == [b"v"] * 3
    assert len(calls) == 1
    assert client.lookup(key).tags == [b"t"]
    assert client.get_or_load(key, lambda: "w", refresh=True) == b"w"
    assert client.get(key) == b"w"


async def test_a_value_is_loaded_once_with_asyncio(aclient: Any, key: str) -> None:
    calls: list[int] = []

    async def load() -> dict[str, int]:
        calls.append(1)
        return {"a": 1}

    for _ in range(3):
        assert await aclient.get_or_load(key, load, ttl="1m", codec=terrace.Json()) == {"a": 1}
    assert len(calls) == 1
    assert await aclient.get_or_load(f"{key}:sync", lambda: b"v") == b"v"


def test_a_cached_null_is_a_value(client: terrace.Client, key: str) -> None:
    assert client.get_or_load(key, lambda: None, codec=terrace.Json()) is None
    assert client.get_or_load(key, never, codec=terrace.Json(), default="d") is None
    with pytest.raises(TypeError, match=r"the loader returned None.*terrace\.Json"):
        client.get_or_load(f"{key}:raw", lambda: None)


@pytest.mark.parametrize(("ttl", "negative_ttl", "expected"), [("10s", None, 10), (None, "20s", 20), (5, "20s", 5)])
def test_absence_is_an_answer(terrace_fake: Fake, ttl: Any, negative_ttl: Any, expected: int) -> None:
    client = terrace_fake.client()

    def load() -> bytes:
        raise terrace.NotFound(ttl=ttl)

    with pytest.raises(terrace.NotFound, match="'k'"):
        client.get_or_load("k", load, negative_ttl=negative_ttl)
    assert client.get_or_load("k", never, default=None) is None
    terrace_fake.advance(expected - 0.001)
    with pytest.raises(terrace.NotFound):
        client.get_or_load("k", never)
    terrace_fake.advance(0.002)
    assert client.get_or_load("k", lambda: b"now") == b"now"


def test_loaded_has_its_own_ttl(terrace_fake: Fake) -> None:
    client = terrace_fake.client()
    client.get_or_load("k", lambda: terrace.Loaded(b"v", ttl=10, stale=5), ttl="1h")
    assert terrace_fake.entry("k") == (b"v", 15.0, [])


def _stale(fake: Fake) -> None:
    fake.client().get_or_load("k", lambda: b"old", ttl=10, stale=100)
    fake.advance(11)


def test_a_stale_value_is_refreshed_in_the_background(terrace_fake: Fake) -> None:
    _stale(terrace_fake)
    seen: list[Any] = []

    def load() -> bytes:
        seen.append((threading.current_thread() is threading.main_thread(), REQUEST.get()))
        return b"new"

    client = terrace_fake.client()
    token = REQUEST.set("mine")
    try:
        assert client.get_or_load("k", load, ttl=10, stale=100) == b"old"
    finally:
        REQUEST.reset(token)
    # Not by calls: calls that need no waiting keep the background tasks from running (a known fault).
    until(lambda: terrace_fake.entry("k") == (b"new", 110.0, []), "the value is refreshed")
    assert seen == [(False, "mine")]


async def test_a_stale_value_is_refreshed_in_a_task(terrace_fake: Fake) -> None:
    _stale(terrace_fake)
    seen: list[Any] = []
    client: Any = terrace_fake.async_client()
    caller = asyncio.current_task()

    async def load() -> bytes:
        seen.append((asyncio.current_task() is caller, REQUEST.get()))
        return b"new"

    token = REQUEST.set("mine")
    assert await client.get_or_load("k", load, ttl=10, stale=100) == b"old"
    REQUEST.reset(token)
    async with asyncio.timeout(PATIENCE):
        while await client.get("k") != b"new":
            await asyncio.sleep(0.005)
    assert seen == [(False, "mine")]


def test_soft_timeout(terrace_fake: Fake) -> None:
    _stale(terrace_fake)
    client, release = terrace_fake.client(), threading.Event()

    def load() -> bytes:
        assert release.wait(PATIENCE)
        return b"new"

    options: dict[str, Any] = {"ttl": 10, "stale": 100}
    assert client.get_or_load("k", load, soft_timeout="50ms", **options) == b"old"
    release.set()
    until(lambda: terrace_fake.entry("k") == (b"new", 110.0, []), "the load ends")
    terrace_fake.advance(11)
    assert client.get_or_load("k", lambda: b"newer", soft_timeout=PATIENCE, **options) == b"newer"


def _in_threads(count: int, call: Callable[[], Any]) -> list[Any]:
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - a result of the test
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(results) == count
    return results


def test_a_hundred_threads_load_once(client: terrace.Client, key: str) -> None:
    calls: list[int] = []

    def load() -> bytes:
        calls.append(1)
        until(lambda: started.n_waiting == 0, "all threads call")
        return b"v"

    started = threading.Barrier(100)

    def call() -> Any:
        started.wait(PATIENCE)
        return client.get_or_load(key, load, ttl="1m")

    assert _in_threads(100, call) == [b"v"] * 100
    assert len(calls) == 1


async def test_a_hundred_tasks_load_once(aclient: Any, key: str) -> None:
    calls: list[int] = []

    async def load() -> bytes:
        calls.append(1)
        await asyncio.sleep(0.01)
        return b"v"

    values = await asyncio.gather(*(aclient.get_or_load(key, load, ttl="1m") for _ in range(100)))
    assert values == [b"v"] * 100
    assert len(calls) == 1


async def test_all_callers_of_the_process_receive_the_exception(aclient: Any, key: str) -> None:
    error = RuntimeError("origin")

    async def load() -> bytes:
        await asyncio.sleep(0.05)
        raise error

    calls = (aclient.get_or_load(key, load) for _ in range(10))
    assert await asyncio.gather(*calls, return_exceptions=True) == [error] * 10


def test_the_exception_of_a_loader_is_raised(client: terrace.Client, key: str) -> None:
    error = KeyError("origin")

    def load() -> bytes:
        raise error

    with pytest.raises(KeyError) as raised:
        client.get_or_load(key, load)
    assert raised.value is error
    assert client.get(key) is None


def test_other_processes_receive_the_text(server: Server, key: str) -> None:
    # Two clients have no flight in common, as two processes.
    with terrace.Client(server.target, **SLOW) as one, terrace.Client(server.target, **SLOW) as two:

        def load() -> bytes:
            raise RuntimeError("the origin is down")

        with pytest.raises(RuntimeError):
            one.get_or_load(key, load, share_errors=True)
        with pytest.raises(terrace.LoadFailed, match="the origin is down") as raised:
            two.get_or_load(key, never)
        assert raised.value.is_retryable


def test_a_nested_load_of_the_same_key_is_refused(client: terrace.Client, key: str) -> None:
    def outer() -> Any:
        return client.get_or_load(f"{key}:inner", lambda: client.get_or_load(key, never))

    with pytest.raises(terrace.TerraceError, match="inside the loader of this key would wait for itself"):
        client.get_or_load(key, outer)
    assert client.get_or_load(f"{key}:a", lambda: client.get_or_load(f"{key}:b", lambda: b"v")) == b"v"


async def test_a_nested_load_of_the_same_key_is_refused_with_asyncio(aclient: Any, key: str) -> None:
    async def outer() -> Any:
        return await aclient.get_or_load(key, never)

    with pytest.raises(terrace.TerraceError, match="inside the loader of this key would wait for itself"):
        await aclient.get_or_load(key, outer)


def test_undecodable_values_are_loaded_again(client: terrace.Client, key: str) -> None:
    client.set(key, "{")
    assert client.get_or_load(key, lambda: [1], codec=terrace.Json()) == [1]
    assert client.get(key) == b"[1]"


def test_an_asynchronous_loader_needs_the_async_client(client: terrace.Client, key: str) -> None:
    async def load() -> bytes:
        return b"v"

    with pytest.raises(TypeError, match="the loader is asynchronous; use AsyncClient"):
        client.get_or_load(key, load)


@pytest.mark.parametrize("form", [list, dict, tuple])
def test_many(client: terrace.Client, key: str, form: Any) -> None:
    names = [f"{key}:{number}" for number in range(4)]
    client.set(names[1], "1")
    asked: list[Any] = []

    def load(keys: list[Any]) -> Any:
        asked.append(keys)
        pairs = [(name, name[-1]) for name in keys]
        return dict(pairs) if form is dict else form(value for _, value in pairs)

    assert client.get_or_load_many(names, load, ttl="1m", tags=lambda name: [name]) == [b"0", b"1", b"2", b"3"]
    assert asked == [[names[0], names[2], names[3]]]
    assert client.lookup(names[2]).tags == [names[2].encode()]
    assert client.get_or_load_many([], load) == []


async def test_many_with_asyncio(aclient: Any, key: str) -> None:
    async def load(keys: list[Any]) -> Any:
        return {name: name[-1] for name in keys if name[-1] != "2"}

    names = [f"{key}:{number}" for number in range(3)]
    assert await aclient.get_or_load_many(names, load, default=b"-") == [b"0", b"1", b"-"]


def test_many_with_absent_and_undecodable_ones(client: terrace.Client, key: str) -> None:
    names = [f"{key}:{number}" for number in range(3)]
    client.set(names[0], "{")
    asked: list[Any] = []

    def load(keys: list[Any]) -> dict[Any, Any]:
        asked.append(keys)
        return {name: 7 for name in keys if name != names[2]}

    assert client.get_or_load_many(names, load, codec=terrace.Json()) == [7, 7, None]
    assert asked == [names[1:], names[:1]]


def test_many_with_a_wrong_number_of_results(client: terrace.Client, key: str) -> None:
    with pytest.raises(ValueError, match="the loader returned 1 results for 2 keys"):
        client.get_or_load_many([f"{key}:1", f"{key}:2"], lambda _: [b"v"])


def test_without_a_server_values_are_loaded() -> None:
    client = terrace.Client("127.0.0.1:1")
    assert client.get_or_load("k", lambda: b"v") == b"v"
    with pytest.raises(terrace.Unavailable):
        client.get_or_load("k", never, on_unavailable="error")
