"""A server and an ASGI server for the tests of the framework integrations."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import uvicorn
from terrace.testing import Server


@contextlib.contextmanager
def running(*arguments: str, l2: str = "none") -> Iterator[Server]:
    """Run a server."""
    with tempfile.TemporaryDirectory() as folder, Server(folder, l2=l2, options=arguments) as server:
        yield server


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI application on a free port, and return its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if task.done():
                raise RuntimeError("the ASGI server has ended")
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most 10 s."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "the condition is not met"
        await asyncio.sleep(0.005)
