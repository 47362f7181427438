"""Event loops: cancellation, several loops, other implementations of loops."""

from __future__ import annotations

import asyncio
import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import terrace
from conftest import PATIENCE, SLOW
from terrace.testing import Server


async def until(holds: Any, what: str) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.002)
    assert holds(), what


async def held(client: terrace.AsyncClient, key: str) -> terrace.Grant:
    """Take the lease of an absent key, so that others wait."""
    lease = await client.get_or_lease(key, lease=60, wait=0)
    assert lease.kind == "load" and lease.grant is not None
    return lease.grant


async def test_operations_are_coroutines(aclient: terrace.AsyncClient, key: str) -> None:
    assert asyncio.iscoroutine(aclient.get(key))
    assert await asyncio.create_task(aclient.set(key, "v")) is True  # type: ignore[arg-type]
    assert await asyncio.gather(aclient.get(key), aclient.get(key)) == [b"v", b"v"]
    assert await asyncio.wait_for(aclient.get(key), PATIENCE) == b"v"
    assert await asyncio.shield(asyncio.ensure_future(aclient.get(key))) == b"v"


async def test_a_coroutine_that_is_never_awaited_does_nothing(aclient: terrace.AsyncClient, key: str) -> None:
    never = aclient.set(key, "v")
    await aclient.get(key)
    assert await aclient.get(key) is None
    del never
    assert aclient.operations_in_progress() == 0


async def test_a_coroutine_cannot_be_awaited_twice(aclient: terrace.AsyncClient, key: str) -> None:
    operation = aclient.get(key)
    await operation
    with pytest.raises(RuntimeError, match="already awaited"):
        await operation


@pytest.mark.parametrize("way", ["cancel", "timeout", "wait_for", "close"])
async def test_cancellation_ends_the_operation(aclient: terrace.AsyncClient, key: str, way: str) -> None:
    grant = await held(aclient, key)
    waits = aclient.get_or_lease(key, wait=60)
    if way == "cancel":
        task = asyncio.create_task(waits)  # type: ignore[arg-type]
        await until(lambda: aclient.operations_in_progress() == 1, "the operation is sent")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif way == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await waits
    elif way == "wait_for":
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(waits, 0.05)
    else:
        step: Any = waits
        step.send(None)
        assert aclient.operations_in_progress() == 1
        step.close()
    assert aclient.operations_in_progress() == 0
    await grant.release()
    # Nobody else holds the lease: the canceled caller does not wait any longer.
    lease = await aclient.get_or_lease(key, wait=PATIENCE)
    assert lease.kind == "load"


async def test_a_grant_for_a_canceled_caller_is_released(aclient: terrace.AsyncClient, key: str) -> None:
    for number in range(200):
        task = asyncio.create_task(aclient.get_or_lease(f"{key}:{number}", wait=0, lease=60))  # type: ignore[arg-type]
        for _ in range(number % 7):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del task
        lease = await aclient.get_or_lease(f"{key}:{number}", wait=PATIENCE)
        assert lease.kind == "load", number
    del lease
    await until(lambda: aclient.operations_in_progress() == 0, "no operation is in progress")


async def test_a_task_group_ends_the_operations_of_its_tasks(aclient: terrace.AsyncClient, key: str) -> None:
    grant = await held(aclient, key)

    async def wait() -> None:
        await aclient.get_or_lease(key, wait=60)

    async def fail() -> None:
        await until(lambda: aclient.operations_in_progress() == 3, "three operations wait")
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(wait())
            group.create_task(fail())
    assert isinstance(raised.value.exceptions[0], ZeroDivisionError)
    await until(lambda: aclient.operations_in_progress() == 0, "no operation is in progress")
    await grant.release()


async def test_a_loader_goes_on_if_its_caller_leaves(aclient: terrace.AsyncClient, key: str) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def load() -> bytes:
        begun.set()
        await go.wait()
        return b"loaded"

    task = asyncio.create_task(aclient.get_or_load(key, load))
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    go.set()
    assert await aclient.get_or_load(key, lambda: pytest.fail("a second load")) == b"loaded"


async def test_a_canceled_loader_fails_its_callers(aclient: terrace.AsyncClient, key: str) -> None:
    async def load() -> bytes:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await asyncio.sleep(PATIENCE)
        return b"never"

    with pytest.raises(asyncio.CancelledError):
        await aclient.get_or_load(key, load)


def test_loops_of_threads_share_a_client(server: Server) -> None:
    client = terrace.AsyncClient(server.target, **SLOW)

    async def work(number: int) -> None:
        for step in range(100):
            key = f"loops:{number}:{step}"
            await client.set(key, key)
            assert await client.get(key) == key.encode()

    async def tasks(number: int) -> None:
        await asyncio.gather(*(work(number * 10 + task) for task in range(5)))

    def run(number: int) -> None:
        asyncio.run(tasks(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_many_loops_leave_no_descriptor(server: Server) -> None:
    client = terrace.AsyncClient(server.target, **SLOW)

    async def read() -> None:
        await client.get("loops")

    asyncio.run(read())
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        asyncio.run(read())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_loop_is_closed_with_operations_in_progress(server: Server) -> None:
    client = terrace.AsyncClient(server.target, **SLOW)

    async def leave() -> None:
        grant = await held(client, "closed-loop")
        asyncio.ensure_future(client.get_or_lease("closed-loop", wait=60))
        await until(lambda: client.operations_in_progress() == 1, "the operation is sent")
        del grant

    async def load_forever() -> None:
        event = asyncio.Event()
        task = asyncio.create_task(client.get_or_load("closed-loader", event.wait))
        await asyncio.sleep(0)
        await until(lambda: client.operations_in_progress() == 0, "the load was granted")
        task.cancel()

    asyncio.run(leave())
    asyncio.run(load_forever())

    async def go_on() -> bytes | None:
        await client.set("closed-loop:after", "v")
        return await client.get("closed-loop:after")

    assert asyncio.run(go_on()) == b"v"


def test_uvloop(server: Server) -> None:
    uvloop = pytest.importorskip("uvloop")
    client = terrace.AsyncClient(server.target, **SLOW)

    async def load() -> bytes:
        await asyncio.sleep(0)
        return b"v"

    async def work() -> None:
        await client.set("uvloop", "v")
        values = await asyncio.gather(*(client.get("uvloop") for _ in range(100)))
        assert values == [b"v"] * 100
        assert await client.get_or_load("uvloop:load", load) == b"v"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """A loop that cannot wait for descriptors, as the Proactor loop of Windows."""

    def add_reader(self, *_: Any) -> Any:
        raise NotImplementedError


def test_a_loop_without_readers_is_refused_by_name(server: Server) -> None:
    client = terrace.AsyncClient(server.target, **SLOW)

    async def read() -> None:
        await client.get("x")

    with (
        asyncio.Runner(loop_factory=LoopWithoutReaders) as runner,
        pytest.raises(RuntimeError, match="LoopWithoutReaders cannot wait for descriptors; use"),
    ):
        runner.run(read())


def test_an_operation_outside_of_a_loop_is_refused(server: Server) -> None:
    client = terrace.AsyncClient(server.target, **SLOW)
    operation: Any = client.get("x")
    with pytest.raises(RuntimeError, match="no running event loop"):
        operation.send(None)
