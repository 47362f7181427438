"""Measures the client against redis-py, in the same run.

    python clients/python/bench.py [--rounds 15] [--only sync,asyncio,near,import] [--server PATH]

Each row prints the median of the rounds of both, and the median of their ratios. The yardstick is redis-py against
redis-server; the client reads from a Terrace server that holds the values in L1. Values have 100 bytes. Times are wall
time per operation; CPU time is that of this process. Requires redis-py, redis-server and a release build of the server.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
import terrace

VALUE = b"v" * 100
KEY = "bench:key"
ROOT = Path(__file__).resolve().parents[2]
#: Time in seconds that a server may take to start.
START_PATIENCE = 30.0

#: Wall time and CPU time in microseconds per operation.
Sample = tuple[float, float]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(command: list[str], port: int) -> Iterator[int]:
    """Run a server until the end of the block."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + START_PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > limit or child.poll() is not None:
                    raise RuntimeError(f"{command[0]} does not listen on port {port}") from None
                time.sleep(0.02)
        yield port
    finally:
        child.kill()
        child.wait()


def measured(run: Callable[[], Any], operations: int) -> Sample:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return (time.perf_counter() - wall) / operations * 1e6, (time.process_time() - cpu) / operations * 1e6


def compare(
    name: str, required: float, rounds: int, ours: Callable[[], Sample], yardstick: Callable[[], Sample]
) -> None:
    """Measure both in turn, and print a row."""
    ours(), yardstick()
    pairs = []
    for number in range(rounds):
        # The order changes, so that neither is always the first after a pause.
        if number % 2:
            theirs, mine = yardstick(), ours()
        else:
            mine, theirs = ours(), yardstick()
        pairs.append((mine, theirs))
    wall, cpu = (statistics.median(mine[part] for mine, _ in pairs) for part in (0, 1))
    their_wall, their_cpu = (statistics.median(theirs[part] for _, theirs in pairs) for part in (0, 1))
    ratio = statistics.median(mine[0] / theirs[0] for mine, theirs in pairs)
    cpu_ratio = statistics.median(mine[1] / theirs[1] for mine, theirs in pairs)
    print(
        f"{name:44} {wall:8.2f} us {their_wall:8.2f} us  ratio {ratio:5.3f} (required {required})   "
        f"CPU {cpu:7.2f} {their_cpu:7.2f} us  ratio {cpu_ratio:5.3f}",
        flush=True,
    )


def alone(name: str, required: float, unit: str, rounds: int, run: Callable[[], float]) -> None:
    """Print a row without a yardstick."""
    run()
    value = statistics.median(run() for _ in range(rounds))
    print(f"{name:44} {value:8.3f} {unit} (required {required} {unit})", flush=True)


def one_thread(get: Callable[[str], Any], operations: int) -> Sample:
    def run() -> None:
        for _ in range(operations):
            get(KEY)

    return measured(run, operations)


def threads(get: Callable[[str], Any], count: int, operations: int) -> Sample:
    def work() -> None:
        for _ in range(operations // count):
            get(KEY)

    def run() -> None:
        workers = [threading.Thread(target=work) for _ in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return measured(run, operations)


def sync_rows(target: str, redis_port: int, rounds: int) -> None:
    client = terrace.Client(target)
    theirs = redis.Redis(port=redis_port)
    compare("sync, 1 thread", 0.65, rounds, lambda: one_thread(client.get, 3000), lambda: one_thread(theirs.get, 3000))
    compare(
        "sync, 16 threads (time: 0.5 is 2 x throughput)",
        0.5,
        rounds,
        lambda: threads(client.get, 16, 16_000),
        lambda: threads(theirs.get, 16, 16_000),
    )
    client.close()


def asyncio_rows(target: str, redis_port: int, rounds: int) -> None:
    for concurrent, required, operations in ((50, 0.15, 10_000), (200, 0.10, 10_000)):
        with asyncio.Runner() as runner:
            client = terrace.AsyncClient(target)
            theirs: Any = redis.asyncio.Redis(port=redis_port, max_connections=2 * concurrent)

            def sample(
                get: Callable[[str], Any],
                runner: asyncio.Runner = runner,
                concurrent: int = concurrent,
                operations: int = operations,
            ) -> Sample:
                async def caller() -> None:
                    for _ in range(operations // concurrent):
                        await get(KEY)

                async def all_callers() -> None:
                    await asyncio.gather(*(caller() for _ in range(concurrent)))

                return measured(lambda: runner.run(all_callers()), operations)

            compare(
                f"asyncio, {concurrent} concurrent",
                required,
                rounds,
                lambda sample=sample, client=client: sample(client.get),  # type: ignore[misc]
                lambda sample=sample, theirs=theirs: sample(theirs.get),  # type: ignore[misc]
            )
            runner.run(client.close())
            runner.run(theirs.aclose())


def near_rows(target: str, rounds: int) -> None:
    client = terrace.Client(target, near_cache=terrace.NearCache(["bench:"]))

    @client.cached("bench:user:{user_id}", ttl="5m")
    def user(user_id: int) -> dict[str, int]:
        return {"id": user_id}

    def wait_for_copy(read: Callable[[], Any]) -> None:
        limit = time.monotonic() + START_PATIENCE
        hits = client.near_stats()
        while time.monotonic() < limit:
            read()
            stats = client.near_stats()
            if stats is not None and hits is not None and stats["hits"] > hits["hits"]:
                return
            time.sleep(0.01)
        raise RuntimeError("the near cache keeps no copy")

    wait_for_copy(lambda: client.get(KEY))
    wait_for_copy(lambda: user(1))
    count = 100_000

    def hit() -> float:
        get = client.get
        begun = time.perf_counter()
        for _ in range(count):
            get(KEY)
        return (time.perf_counter() - begun) / count * 1e6

    def cached() -> float:
        begun = time.perf_counter()
        for _ in range(count):
            user(1)
        return (time.perf_counter() - begun) / count * 1e6

    alone("near cache hit, sync", 0.35, "us", rounds, hit)
    alone("cached decorator, near cache hit", 1.5, "us", rounds, cached)
    client.close()


def import_row(target: str, rounds: int) -> None:
    program = f"import terrace; terrace.Client({target!r}).get({KEY!r})"

    def timed(code: str) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return (time.perf_counter() - begun) * 1e3

    alone(
        "import and first Get, cold (process start excluded)", 150, "ms", rounds, lambda: timed(program) - timed("pass")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="sync,asyncio,near,import")
    parser.add_argument("--server", default=str(ROOT / "target/release/terrace"))
    options = parser.parse_args()
    only = options.only.split(",")
    if not os.access(options.server, os.X_OK):
        parser.error(f"{options.server} does not exist; run `cargo build --release`, or use --server")
    if shutil.which("redis-server") is None:
        parser.error("redis-server is not installed")
    redis_port, grpc_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        redis_command = ["redis-server", "--port", str(redis_port), "--save", "", "--dir", folder]
        serve = [options.server, "serve", "--grpc", f"127.0.0.1:{grpc_port}", "--l2", "none"]
        ports = ["--resp", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        with process(redis_command, redis_port), process(serve + ports, grpc_port):
            target = f"127.0.0.1:{grpc_port}"
            redis.Redis(port=redis_port).set(KEY, VALUE)
            with terrace.Client(target) as client:
                client.set(KEY, VALUE)
            print(f"{'':44} {'terrace':>11} {'redis-py':>11}")
            if "sync" in only:
                sync_rows(target, redis_port, options.rounds)
            if "asyncio" in only:
                asyncio_rows(target, redis_port, options.rounds)
            if "near" in only:
                near_rows(target, options.rounds)
            if "import" in only:
                import_row(target, options.rounds)


if __name__ == "__main__":
    main()
