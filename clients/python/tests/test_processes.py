"""Processes that fork, end, are killed or interrupted. Each test runs programs of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path

import pytest
import terrace
from conftest import PATIENCE, SLOW, until
from terrace.testing import Server

#: Time in seconds for which a connection is idle. The server closes connections that do not answer its pings for 40 s.
IDLE = 300.0 if os.environ.get("TERRACE_CHECK_FULL") else 12.0
#: Time in seconds of the load against workers and a server that are killed.
LOAD = 60.0 if os.environ.get("TERRACE_CHECK_FULL") else 8.0
#: First lines of each program: the client of the server that the test names.
PRELUDE = f"""
import asyncio, os, signal, sys, threading, time
import terrace
target = sys.argv[1]
SLOW = {SLOW!r}
"""


def program(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program."""
    source = PRELUDE + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", source, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(running: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end of a program, and return its exit code, output and errors."""
    try:
        out, errors = running.communicate(timeout=PATIENCE * 4)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGABRT)
        out, errors = running.communicate()
        raise AssertionError(f"the program hangs: {out}\n{errors}") from None
    return running.returncode, out, errors


def succeeds(code: str, *arguments: str) -> str:
    """Run a program that ends with code 0 and without errors, and return its output."""
    status, out, errors = outcome(program(code, *arguments))
    assert (status, errors) == (0, ""), f"{status}: {out}\n{errors}"
    return out


FORKS = """
client = terrace.Client(target, **SLOW)
client.set("fork", "1")

async def reads():
    client = terrace.AsyncClient(target, **SLOW)
    assert await client.get("fork") == b"1"
    await client.close()

asyncio.run(reads())

def open_files():
    return len(os.listdir("/proc/self/fd"))

def threads():
    return len(os.listdir("/proc/self/task"))

before = open_files(), threads()
for number in range(100):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert client.get("fork") == b"1"
            if number % 10 == 0:
                asyncio.run(reads())
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0, number
    assert client.get("fork") == b"1"
# Connections of closed clients end in the background.
deadline = time.monotonic() + 30
while open_files() > before[0] or threads() > before[1]:
    assert time.monotonic() < deadline, (before, open_files(), threads())
    time.sleep(0.01)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_a_hundred_forks_leave_nothing_behind(server: Server) -> None:
    succeeds(FORKS, server.target)


INHERITED = """
client = terrace.Client(target, **SLOW)
client.set("inherited", "1")

port = f"{int(target.rpartition(':')[2]):04X}"

def sockets():
    # The connections to the server that this process has descriptors of.
    connections = {line.split()[9] for line in open("/proc/self/net/tcp") if line.split()[2].endswith(":" + port)}
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    names = {os.readlink(link) for link in links if os.path.exists(link)}
    return {inode for inode in connections if f"socket:[{inode}]" in names}

parents = sockets()
assert parents
child = os.fork()
if child == 0:
    os._exit(len(parents & sockets()))
assert os.waitpid(child, 0)[1] == 0, "the child has sockets of its parent"
assert client.get("inherited") == b"1"
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads descriptors in /proc")
def test_a_child_closes_the_connections_of_its_parent(server: Server) -> None:
    succeeds(INHERITED, server.target)


DISTINCT = """
client = terrace.Client(target, **SLOW)
client.get("warm")
# Each process draws from the same state of all generators.
ready, go = os.pipe(), os.pipe()
results = []
for _ in range(2):
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(ready[1], b"r")
        os.read(go[0], 1)
        leases = [client.get_or_lease(f"distinct:{number}", wait=0, lease=60) for number in range(50)]
        os.write(write, "".join(lease.kind[0] for lease in leases).encode())
        # The leases are held until both have asked.
        os.read(go[0], 1)
        os._exit(0)
    results.append(read)
for _ in results:
    os.read(ready[0], 1)
os.write(go[1], b"gg")
first, second = (os.read(read, 100).decode() for read in results)
os.write(go[1], b"gg")
assert all({a, b} == {"l", "b"} for a, b in zip(first, second, strict=True)), (first, second)
"""


def test_processes_of_one_fork_do_not_share_leases(server: Server) -> None:
    succeeds(DISTINCT, server.target)


MULTIPROCESSING = """
import multiprocessing
client = terrace.Client(target, **SLOW)
client.set("many", "0")

def work(_):
    return client.increment("many")

with multiprocessing.get_context("fork").Pool(4) as pool:
    numbers = pool.map(work, range(200))
assert sorted(numbers) == list(range(1, 201)), numbers
assert client.get("many") == b"200"
"""


def test_a_pool_of_forked_processes_counts_exactly(server: Server) -> None:
    with terrace.Client(server.target, **SLOW) as client:
        client.delete("many")
    succeeds(MULTIPROCESSING, server.target)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(
            """
            client = terrace.Client(target, **SLOW)
            client.get("x")
            holder = client.get_or_lease("exit:thread", lease=60)
            wait = lambda: client.get_or_lease("exit:thread", wait=60)
            threading.Thread(target=wait, daemon=True).start()
            while client.operations_in_progress() == 0:
                time.sleep(0.001)
            """,
            id="daemon thread waits",
        ),
        pytest.param(
            """
            client = terrace.Client(target, **SLOW)

            def work():
                while True:
                    client.get("x")

            for _ in range(4):
                threading.Thread(target=work, daemon=True).start()
            client.get("x")
            time.sleep(0.1)
            """,
            id="daemon threads read",
        ),
        pytest.param(
            """
            async def main():
                client = terrace.AsyncClient(target, **SLOW)
                await client.get_or_lease("exit:loop", lease=60)
                task = asyncio.create_task(client.get_or_lease("exit:loop", wait=60))
                while client.operations_in_progress() == 0:
                    await asyncio.sleep(0)

            asyncio.run(main())
            """,
            id="task waits",
        ),
        pytest.param(
            """
            client = terrace.Client(target, **SLOW)
            begun = threading.Event()

            def slow():
                begun.set()
                time.sleep(60)
                return b"v"

            client.get_or_load("exit:refresh", lambda: b"v", ttl=1e-3, stale="1h")
            while not begun.is_set():
                assert client.get_or_load("exit:refresh", slow, ttl=1e-3, stale="1h") == b"v"
            """,
            id="refresh in the background",
        ),
        pytest.param(
            """
            client = terrace.Client(target, **SLOW)
            client.get_or_load("exit:loader", lambda: sys.exit(0))
            raise AssertionError("not reached")
            """,
            id="exit in a loader",
        ),
        pytest.param("terrace.Client(target)", id="client that was never used"),
        pytest.param("client = terrace.Client(target); client.get('x'); client.close()", id="closed client"),
    ],
)
def test_an_interpreter_ends_in_any_state(server: Server, code: str) -> None:
    succeeds(code, server.target)


INTERRUPTED = """
client = terrace.Client(target, **SLOW)
holder = client.get_or_lease("interrupted", lease=300)
print("waits", flush=True)
client.get_or_lease("interrupted", wait=300)
"""


def test_ctrl_c_interrupts_a_call_that_waits(server: Server) -> None:
    running = program(INTERRUPTED, server.target)
    assert running.stdout is not None and running.stdout.readline() == "waits\n"
    # The signal may come before the call waits: both are interrupted.
    running.send_signal(signal.SIGINT)
    status, _, errors = outcome(running)
    assert status == -signal.SIGINT and "KeyboardInterrupt" in errors, f"{status}: {errors}"


HANDLER = """
client = terrace.Client(target, **SLOW)
client.set("handler", "1")
seen = []
# A handler may use the client, although a call waits.
signal.signal(signal.SIGUSR1, lambda *_: seen.append(client.get("handler")))
holder = client.get_or_lease("handled", lease=300)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()

def release():
    while not seen:
        time.sleep(0.001)
    holder.grant.fill(b"v")

threading.Thread(target=release).start()
lease = client.get_or_lease("handled", wait=60)
assert (lease.kind, lease.value, seen) == ("hit", b"v", [b"1"]), (lease.kind, seen)
"""


def test_a_signal_handler_may_use_the_client_while_a_call_waits(server: Server) -> None:
    succeeds(HANDLER, server.target)


def test_an_idle_connection_still_works(server: Server) -> None:
    with terrace.Client(server.target, **SLOW) as client:
        client.set("idle", "1")
        # Nobody calls: the keeper answers the pings of the server.
        time.sleep(IDLE)
        assert client.get("idle") == b"1"


APPLICATION = """
import itertools, os, threading
import terrace

client = terrace.Client(os.environ["TARGET"], retry_writes=True)
# Used before the fork.
try:
    client.get("preloaded", timeout=5)
except terrace.TerraceError:
    pass
numbers = itertools.count()

def application(environ, respond):
    key = f"write:{os.getpid()}:{next(numbers)}"
    try:
        client.set(key, key, timeout=5)
        client.get_or_load("shared", lambda: b"v", ttl="1s")
        body = key
    except terrace.TerraceError as error:
        body = f"failed: {type(error).__name__}"
    respond("200 OK", [("Content-Type", "text/plain")])
    return [body.encode()]
"""


class Load:
    """Requests to an HTTP server from threads."""

    def __init__(self, port: int) -> None:
        import threading

        self._url = f"http://127.0.0.1:{port}/"
        self._ends = threading.Event()
        self.written: list[str] = []
        self.failed = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._ends.is_set():
            try:
                with urllib.request.urlopen(self._url, timeout=PATIENCE) as response:
                    body = response.read().decode()
            except OSError:
                # The worker was killed.
                continue
            if body.startswith("failed"):
                self.failed += 1
            else:
                self.written.append(body)

    def end(self) -> None:
        """Wait for the last requests."""
        self._ends.set()
        for thread in self._threads:
            thread.join()


def _workers(master: int) -> list[int]:
    listed = subprocess.run(["ps", "--ppid", str(master), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def test_preforked_workers_and_the_server_are_killed_under_load(own_server: Server, tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "application.py").write_text(APPLICATION)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "4", "--threads", "2", "--bind"]
    command += [f"127.0.0.1:{port}", "--chdir", str(tmp_path), "application:application"]
    environment = {**os.environ, "TARGET": own_server.target}
    with (tmp_path / "gunicorn.log").open("wb") as log:
        master = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as response:
                    return not response.read().startswith(b"failed")
            except OSError:
                return False

        until(answers, "the workers answer")
        load = Load(port)
        end = time.monotonic() + LOAD
        kills = 0
        while time.monotonic() < end:
            written = len(load.written)
            workers = _workers(master.pid)
            if kills % 2 == 0 and workers:
                os.kill(workers[kills % len(workers)], signal.SIGKILL)
            else:
                own_server.kill()
                own_server.start()
            kills += 1
            until(lambda written=written: len(load.written) > written + 20, "requests succeed after a kill")  # type: ignore[misc]
        load.end()
        assert kills > 1 and master.poll() is None
        with terrace.Client(own_server.target, **SLOW) as client:
            keys = load.written
            values = client.get_many(keys)
        lost = [key for key, value in zip(keys, values, strict=True) if value != key.encode()]
        assert not lost, f"{len(lost)} of {len(keys)} acknowledged writes are lost: {lost[:3]}"
    finally:
        master.terminate()
        master.wait(PATIENCE)
