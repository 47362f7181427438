"""Fixtures for pytest. The package registers this plugin; tests only name the fixtures.

==========================  =======================================================================================
``terrace_server``          A real server, started for the first test that requires it and stopped at the end.
``terrace_client``          A ``terrace.Client`` of that server. Each test begins with an empty cache.
``terrace_async_client``    A ``terrace.AsyncClient`` of that server. Each test begins with an empty cache.
``terrace_fake``            A new ``terrace.testing.Fake``.
==========================  =======================================================================================

Each pytest run of an environment with this package imports this module: it imports the rest only in the fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .. import AsyncClient, Client
    from . import Fake, Server


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the fixtures."""
    group = parser.getgroup("terrace")
    group.addoption(
        "--terrace-skip",
        action="store_true",
        help="Skip tests that require the Terrace server if its binary is not found, instead of failing them.",
    )
    group.addoption(
        "--terrace-l2",
        default=None,
        metavar="URL",
        help="L2 store of the Terrace server of the tests. Default: the embedded store, in a temporary folder.",
    )


@pytest.fixture(scope="session")
def terrace_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server at free ports, for all tests of the run."""
    from . import BinaryNotFound, Server

    try:
        server = Server(tmp_path_factory.mktemp("terrace"), l2=request.config.getoption("--terrace-l2"))
    except BinaryNotFound as error:
        if request.config.getoption("--terrace-skip"):
            pytest.skip(str(error))
        pytest.fail(str(error), pytrace=False)
    with server:
        yield server


def _emptied(server: Server) -> None:
    """Remove all keys of a server. Starts the server if an earlier test has stopped it."""
    from .. import Client

    server.start()
    with Client(server.target, write_timeout="30s") as client:
        client.ready()
        client.invalidate_pattern("*", wait=True)


@pytest.fixture
def terrace_client(terrace_server: Server) -> Iterator[Client]:
    """A synchronous client of ``terrace_server``, with an empty cache."""
    from .. import Client

    _emptied(terrace_server)
    with Client(terrace_server.target) as client:
        yield client


@pytest.fixture
def terrace_async_client(terrace_server: Server) -> Iterator[AsyncClient]:
    """A client for asyncio of ``terrace_server``, with an empty cache."""
    from .. import AsyncClient

    _emptied(terrace_server)
    client = AsyncClient(terrace_server.target)
    yield client
    # Not a coroutine: the fixture works with each plugin for asyncio.
    client._close()


@pytest.fixture
def terrace_fake() -> Fake:
    """A new cache in memory."""
    from . import Fake

    return Fake()
