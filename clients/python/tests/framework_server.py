"""A server binary and an ASGI server for the tests of the framework integrations."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import uvicorn

_ROOT = pathlib.Path(__file__).resolve().parents[3]


def binary() -> str:
    """Return the path of the server binary."""
    named = os.environ.get("TERRACE_BINARY")
    candidates = [named] if named else [str(_ROOT / "target" / kind / "terrace") for kind in ("debug", "release")]
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate
    raise FileNotFoundError(f"no server binary at {candidates}; set TERRACE_BINARY, or run cargo build")


class Server:
    """A running server."""

    def __init__(self, *arguments: str, l2: str = "none", grpc: str = "127.0.0.1:0") -> None:
        command = [binary(), "serve", "--grpc", grpc, "--resp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--l2", l2]
        self._process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._log: list[str] = []
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._log.extend, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        self.target = self._ready()

    def _ready(self) -> str:
        assert self._process.stdout is not None
        target = ""
        for line in self._process.stdout:
            if found := re.search(r"grpc\D*?((?:\d+\.){3}\d+:\d+)", line, re.IGNORECASE):
                target = found[1]
            if line.strip() == "ready":
                return target
        self._reader.join(10)
        raise RuntimeError(f"the server has ended: {''.join(self._log)}")

    def stop(self) -> None:
        """Stop the server at once."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def running(*arguments: str, l2: str = "none") -> Iterator[Server]:
    """Run a server."""
    server = Server(*arguments, l2=l2)
    try:
        yield server
    finally:
        server.stop()


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
