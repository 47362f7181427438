"""Fixtures of all tests: servers over each store, deadlines that a slow machine can meet."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import terrace
from terrace.testing import Server

#: Time limit of each wait. Tests reach it only if they fail.
PATIENCE = 30.0
#: Settings of a client whose operations do not fail on a slow machine.
SLOW: dict[str, Any] = {"read_timeout": PATIENCE, "write_timeout": PATIENCE}


def _is_registered(config: pytest.Config) -> bool:
    return config.pluginmanager.hasplugin("terrace") or config.pluginmanager.hasplugin("terrace.testing.plugin")


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin in a checkout that is not installed."""
    if not _is_registered(config):
        from terrace.testing import plugin

        config.pluginmanager.register(plugin, "terrace")


def until(holds: Callable[[], Any], what: str) -> Any:
    """Wait for a condition, and return its result."""
    deadline = time.monotonic() + PATIENCE
    while not (result := holds()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.005)
    return result


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without L2, which no test stops."""
    with Server(tmp_path_factory.mktemp("none"), l2="none") as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server with the embedded store, for one test, which may stop it."""
    with Server(tmp_path / "server") as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty Redis."""
    if shutil.which("redis-server") is None:
        pytest.fail("redis-server is not in PATH; install it (Debian: apt-get install redis-server)", pytrace=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def accepts() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(accepts, "redis-server accepts connections")
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture
def client(server: Server) -> Iterator[terrace.Client]:
    """A synchronous client."""
    with terrace.Client(server.target, **SLOW) as client:
        yield client


@pytest.fixture
def aclient(server: Server) -> Iterator[terrace.AsyncClient]:
    """A client for asyncio."""
    client = terrace.AsyncClient(server.target, **SLOW)
    yield client
    client._close()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key of its own for each test."""
    return f"{request.node.name}:{os.getpid()}"
