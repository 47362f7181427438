"""A real server in a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

#: Time limit for the start and the end of a server. Both usually take less than a second.
PATIENCE = 60.0
_POLL = 0.01
#: Number of lines of the log in the message of a failed start.
_SHOWN_LINES = 20


class BinaryNotFound(RuntimeError):
    """No server binary was found."""


class StartFailed(RuntimeError):
    """The server did not start. The message has the end of its log."""


def _candidates() -> Iterator[Path]:
    """Return the places of a binary after TERRACE_BINARY, in their order."""
    on_path = shutil.which("terrace")
    if on_path:
        yield Path(on_path)
    for start in (Path(__file__).resolve(), Path.cwd()):
        for folder in start.parents if start.is_file() else (start, *start.parents):
            if (folder / "clients" / "conformance").is_dir():
                yield from (folder / "target" / profile / "terrace" for profile in ("release", "debug"))


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def find_binary() -> Path:
    """Return the server binary: of the environment variable TERRACE_BINARY, PATH, or the target folder of a checkout.

    Raises :class:`BinaryNotFound` if there is none.
    """
    named = os.environ.get("TERRACE_BINARY")
    if named:
        if not _is_executable(Path(named)):
            raise BinaryNotFound(f"TERRACE_BINARY is {named!r}, which is not an executable file")
        return Path(named)
    found = next(filter(_is_executable, _candidates()), None)
    if found is None:
        raise BinaryNotFound(
            "no server binary was found; set the environment variable TERRACE_BINARY to its path, "
            "install `terrace` in a folder of PATH, or build it with `cargo build` in the checkout"
        )
    return found


class Server:
    """A server that runs in a folder, at free ports of the loopback address.

    The ports remain the same when it is started again. ``l2`` is the L2 store, as in ``terrace serve --l2``: by
    default the embedded store in the folder, whose values survive a restart.
    """

    def __init__(
        self, folder: str | Path, *, l2: str | None = None, options: Sequence[str] = (), binary: Path | None = None
    ) -> None:
        self._folder = Path(folder)
        self._binary = find_binary() if binary is None else Path(binary)
        self._l2 = f"embedded:{self._folder / 'data'}" if l2 is None else l2
        self._options = list(options)
        self._ports = {"grpc": 0, "resp": 0, "http": 0}
        self._process: subprocess.Popen[bytes] | None = None
        #: File with the log of the server.
        self.log = self._folder / "terrace.log"

    def __repr__(self) -> str:
        return f"Server({self.target!r})"

    @property
    def port(self) -> int:
        """Port of gRPC, for the clients of this package; 0 before the first start."""
        return self._ports["grpc"]

    @property
    def resp_port(self) -> int:
        """Port of RESP, for clients of Redis; 0 before the first start."""
        return self._ports["resp"]

    @property
    def http_port(self) -> int:
        """Port of HTTP, with metrics and health; 0 before the first start."""
        return self._ports["http"]

    @property
    def target(self) -> str:
        """Target for a client: host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id. Raises RuntimeError if the server does not run."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """The process exists."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server, and return when it is ready. A server that runs remains as it is."""
        if self.is_running:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        addresses = self._folder / "addresses"
        command = [str(self._binary), "serve", "--l2", self._l2, *self._options]
        for name, port in self._ports.items():
            command += [f"--{name}", f"127.0.0.1:{port}"]
        with addresses.open("wb") as out, self.log.open("ab") as log:
            # A group of its own: Ctrl-C in the terminal of the tests ends it by stop(), in order.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True, cwd=self._folder
            )
        try:
            self._await_ready(addresses)
        except BaseException:
            self.kill()
            raise

    def _await_ready(self, addresses: Path) -> None:
        process = self._running()
        deadline = time.monotonic() + PATIENCE
        while True:
            has_ended = process.poll() is not None
            lines = addresses.read_text().splitlines(keepends=True)
            if "ready\n" in lines:
                break
            if has_ended:
                raise StartFailed(f"{self._binary} ended with code {process.returncode}; its log:\n{self._log_end()}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{self._binary} was not ready within {PATIENCE:.0f} s; its log:\n{self._log_end()}")
            time.sleep(_POLL)
        for line in lines:
            name, _, address = line.strip().partition(" ")
            if name in self._ports:
                self._ports[name] = int(address.rpartition(":")[2])

    def _log_end(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError("the server does not run; call start()")
        return self._process

    def stop(self) -> None:
        """Stop the server in order: it drains and exits. A server that does not run remains as it is."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server at once, as a crash does. A server that does not run remains as it is."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        # A paused process ends only when it continues.
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)

    def pause(self) -> None:
        """Pause the process: it keeps its connections and answers nothing until :meth:`resume`."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        # The signal takes effect later: until then the server may answer.
        while os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG) is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server did not pause within {PATIENCE:.0f} s")
            time.sleep(_POLL)

    def resume(self) -> None:
        """Continue the process after :meth:`pause`."""
        self._running().send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
