"""The backend of dogpile.cache with a real server, and the suites that dogpile.cache ships for backends."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import terrace
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE
from dogpile.testing.fixtures import _GenericBackendTestSuite, _GenericMutexTestSuite, _GenericSerializerTestSuite
from framework_server import Server, running
from terrace.dogpile import TerraceBackend


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[Server]:
    with running() as server:
        _ARGUMENTS.update(target=server.target, read_timeout=5, write_timeout=5, prefix=f"{secrets.token_hex(4)}:")
        _LOCAL.update(_ARGUMENTS, distributed_lock=False)
        yield server


#: Of the suites, which have them as an attribute of the class.
_ARGUMENTS: dict[str, Any] = {}
_LOCAL: dict[str, Any] = {}


#: Variants of the first suite, which sleeps for most of its 16 s.
full = pytest.mark.skipif(not os.environ.get("TERRACE_CHECK_FULL"), reason="only with TERRACE_CHECK_FULL=1")


class _Config:
    backend = "terrace"
    config_args: dict[str, Any] = {"arguments": _ARGUMENTS}  # noqa: RUF012


class TestBackend(_Config, _GenericBackendTestSuite):
    pass


@full
class TestSerializer(_Config, _GenericSerializerTestSuite, _GenericBackendTestSuite):
    pass


class TestMutex(_Config, _GenericMutexTestSuite):
    pass


@full
class TestBackendWithoutDistributedLock(_Config, _GenericBackendTestSuite):
    config_args: dict[str, Any] = {"arguments": _LOCAL}  # noqa: RUF012


def test_the_entry_point_is_this_backend() -> None:
    assert isinstance(make_region().configure("terrace", arguments=_ARGUMENTS).backend, TerraceBackend)


def test_regions_of_processes_create_a_value_once(server: Server) -> None:
    regions = [make_region().configure("terrace", arguments={**_ARGUMENTS}) for _ in range(4)]
    calls, begun, end = [], threading.Event(), threading.Event()

    def create() -> str:
        calls.append(1)
        begun.set()
        assert end.wait(10)
        return "created"

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(region.get_or_create, "once", create) for region in regions]
        assert begun.wait(10)
        end.set()
        assert [result.result(10) for result in results] == ["created"] * 4
    assert len(calls) == 1


def test_a_lock_ends_with_its_timeout(server: Server) -> None:
    backend = TerraceBackend({**_ARGUMENTS, "lock_timeout": 0.1})
    lost, waiting = backend.get_mutex("lost"), backend.get_mutex("lost")
    assert lost.acquire()
    assert waiting.acquire()
    # The end of a lost lock does not end the lock of its successor.
    lost.release()
    assert not backend.get_mutex("lost").acquire(False)
    waiting.release()
    assert not waiting.locked()


def test_ttl_and_prefix(server: Server) -> None:
    backend = TerraceBackend({**_ARGUMENTS, "ttl": "1h", "prefix": "named:"})
    backend.set_serialized_multi({"a": b"1", "b": b"2"})
    client = terrace.Client(server.target)
    entry = client.lookup("named:a")
    assert (entry.value, 3_500 < entry.expires_in <= 3_600) == (b"1", True)
    assert backend.get_serialized_multi(["a", "c", "b"]) == [b"1", NO_VALUE, b"2"]
    client.close()


def test_without_the_server_a_lock_does_not_stop_the_application() -> None:
    mutex = TerraceBackend({"target": "127.0.0.1:1"}).get_mutex("k")
    assert mutex.acquire()
    assert not mutex.locked()
    mutex.release()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="lock_timeout is 1000"):
        TerraceBackend({"lock_timeout": 1_000})
