"""The scenarios in clients/conformance, over each store and against the fake. The README there defines the format."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import terrace
from conformance_steps import KINDS, Executor, Fault, Saved, check_names, matches, result_of, to_bytes
from conftest import PATIENCE, SLOW, until
from terrace.testing import Fake, Server

Scenario = dict[str, Any]
FOLDER = Path(__file__).resolve().parents[2] / "conformance"
#: Time after which all nodes follow an invalidation: docs/concepts/invalidation.md.
OTHER_NODES_WITHIN = 1.0
#: Time that passes on the clock of a fake before a step is repeated.
FAKE_PAUSE = 0.01


def scenarios() -> list[tuple[str, Scenario]]:
    """Return the scenarios of all files, with the names of their files."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        content = json.loads(path.read_text())
        check_names(content, {"about", "scenarios"})
        found += [(path.stem, scenario) for scenario in content["scenarios"]]
    return found


class Cache:
    """The cache that scenarios run against."""

    def __init__(self, client: Any, fake: Fake | None = None, invalidates_within: float = 0.0) -> None:
        self.executor = Executor(client)
        self.fake = fake
        self.invalidates_within = invalidates_within

    async def pause(self) -> None:
        """Let time pass before a step is repeated."""
        await asyncio.sleep(0.005)
        if self.fake is not None:
            self.fake.advance(FAKE_PAUSE)

    async def run(self, scenario: Scenario) -> None:
        """Run one scenario; raise a Fault for the step that did not have its result."""
        check_names(scenario, {"name", "stores", "steps"})
        saved = Saved()
        for number, step in enumerate(scenario["steps"], 1):
            try:
                await self._run_step(step, saved)
            except Fault as fault:
                raise Fault(f"{scenario['name']}: step {number}: {fault}\n    {json.dumps(step)}") from fault
            if step["do"].startswith("invalidate"):
                await asyncio.sleep(self.invalidates_within)

    async def _run_step(self, step: dict[str, Any], saved: Saved) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await self._try_step(step, saved)
            except Fault:
                if step.get("eventually") is not True or time.monotonic() > deadline:
                    raise
            await self.pause()

    async def _try_step(self, step: dict[str, Any], saved: Saved) -> None:
        expected = step.get("error")
        if expected is not None:
            check_names(expected, {"kind", "message_has"})
            if expected["kind"] not in KINDS:
                raise Fault(f"unknown kind of error {expected['kind']!r}")
        try:
            result, grant = await self.executor.execute(step, saved)
        except terrace.TerraceError as error:
            kind = type(error).__name__
            if not expected or kind != expected["kind"] or expected.get("message_has", "") not in str(error):
                raise Fault(f"failed with {kind}: {error}") from error
            return
        if expected is not None:
            raise Fault(f"succeeded with {result!r:.200}")
        if "expect" in step and not matches(step["expect"], result):
            raise Fault(f"the result is {result!r:.200}")
        if step["do"] == "get_or_lease" and "save" in step:
            if grant is None:
                raise Fault("the result has no grant")
            saved.grants[step["save"]] = grant


def check_all(store: str, cache: Cache) -> None:
    """Run all scenarios of a store."""

    async def run() -> list[str]:
        faults = []
        for file, scenario in scenarios():
            if store in scenario.get("stores", (store,)):
                try:
                    await cache.run(scenario)
                except Fault as fault:
                    faults.append(f"{file}: {fault}")
        return faults

    faults = asyncio.run(run())
    assert not faults, f"{len(faults)} faults over {store}:\n" + "\n".join(faults)


#: Redis may be slow on a busy machine; all other settings are the defaults.
PATIENT = ["--l2-read-timeout", "30s", "--l2-write-timeout", "30s"]

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that end with the test."""
    with ExitStack() as stack:

        def start(l2: str | None, name: str = "node") -> Server:
            server = stack.enter_context(Server(tmp_path / name, l2=l2, options=PATIENT))
            # Each worker has connections of its own, and a client cannot choose its worker.
            until(lambda: all(_reaches_l2(server) for _ in range(16)), "all workers reach L2")
            return server

        yield start


def _reaches_l2(server: Server) -> bool:
    with socket.create_connection(("127.0.0.1", server.resp_port), PATIENCE) as connection:
        connection.sendall(b"EXISTS warm\r\n")
        return connection.recv(100) == b":0\r\n"


both = pytest.mark.parametrize("kind", [terrace.Client, terrace.AsyncClient])


def connected(kind: Any, target: str, **settings: Any) -> Any:
    """Return a client whose nodes are ready."""
    client = kind(target, **SLOW, **settings)

    async def wait() -> None:
        await result_of(client.ready())
        deadline = time.monotonic() + PATIENCE
        while not await _answers(client):
            assert time.monotonic() < deadline, "not all nodes answer"
            # More than the pause after which a synchronous client connects on its own.
            await asyncio.sleep(0.2)

    asyncio.run(wait())
    return client


async def _answers(client: Any) -> bool:
    try:
        await result_of(client.stats())
    except terrace.Unavailable:
        return False
    return True


@both
@pytest.mark.parametrize("store", ["none", "embedded", "redis"])
def test_one_node(kind: Any, store: str, start: Start, request: pytest.FixtureRequest) -> None:
    l2 = None if store == "embedded" else "none"
    if store == "redis":
        l2 = f"{request.getfixturevalue('redis_url')}/{1 if kind is terrace.Client else 2}"
    check_all(store, Cache(connected(kind, start(l2).target)))


# One client: what differs between two nodes is in the engine, which both clients share.
@pytest.mark.parametrize("kind", [terrace.AsyncClient])
def test_two_nodes_over_one_redis(kind: Any, start: Start, redis_url: str) -> None:
    l2 = f"{redis_url}/{3 if kind is terrace.Client else 4}"
    target = ",".join(start(l2, name).target for name in ("one", "two"))
    check_all("redis", Cache(connected(kind, target), invalidates_within=OTHER_NODES_WITHIN))


@both
@pytest.mark.parametrize("store", ["none", "redis"])
def test_near_cache(kind: Any, store: str, start: Start, request: pytest.FixtureRequest) -> None:
    l2 = "none"
    if store == "redis":
        l2 = f"{request.getfixturevalue('redis_url')}/{5 if kind is terrace.Client else 6}"
    client = connected(kind, start(l2).target, near_cache=terrace.NearCache())
    until(lambda: client.near_stats()["feeds"] == 1, "the change feed has begun")
    check_all(store, Cache(client))


@both
def test_fake(kind: Any) -> None:
    fake = Fake()
    client = fake.client() if kind is terrace.Client else fake.async_client()
    check_all("none", Cache(client, fake))


def _used(step: dict[str, Any]) -> Iterator[bytes]:
    for item in [step, *step.get("entries", ())]:
        for field in ("keys", "tags"):
            if isinstance(item.get(field), list):
                yield from map(to_bytes, item[field])
        if "key" in item:
            yield to_bytes(item["key"])


def test_scenarios_are_found_and_share_no_key() -> None:
    owners: dict[bytes, str] = {}
    names = set()
    for file, scenario in scenarios():
        name = f"{file}: {scenario['name']}"
        names.add(name)
        for key in filter(None, (key for step in scenario["steps"] for key in _used(step))):
            assert owners.setdefault(key, name) == name
    assert len(names) == len(scenarios()) > 30


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ({"do": "get", "key": "k", "expect": "v"}, "the result is None"),
        ({"do": "set", "key": "k", "value": "v", "error": {"kind": "Internal"}}, "succeeded with True"),
        ({"do": "get", "key": "", "error": {"kind": "Internal"}}, "failed with InvalidArgument"),
        ({"do": "get", "key": "", "expect": None}, "failed with InvalidArgument"),
        ({"do": "get", "key": "", "error": {"kind": "InvalidArgument", "message_has": "xyz"}}, "failed with Invalid"),
        ({"do": "get", "key": "", "error": {"kind": "Broken"}}, "unknown kind of error 'Broken'"),
        ({"do": "get", "kee": "k"}, "unknown field 'kee'"),
        ({"do": "pop", "key": "k"}, "unknown operation 'pop'"),
        ({"do": "get_or_lease", "key": "full", "save": "g"}, "the result has no grant"),
        ({"do": "fill", "grant": "g", "value": "v"}, "no grant 'g'"),
        ({"do": "next_event", "watch": "w"}, "no watch 'w'"),
        ({"do": "stats", "expect": {"nodes": 2}}, "the result is"),
    ],
)
@both
def test_the_runner_notices_wrong_results(kind: Any, step: dict[str, Any], why: str) -> None:
    fake = Fake()
    fake.client().set("full", "v")
    client = fake.client() if kind is terrace.Client else fake.async_client()
    with pytest.raises(Fault, match=why):
        asyncio.run(Cache(client).run({"name": "n", "steps": [step]}))


@pytest.mark.parametrize(
    ("expected", "result", "is_equal"),
    [
        ("a", "a", True),
        ({"hex": "61"}, "a", True),
        ({"hex": "ff"}, {"hex": "ff"}, True),
        ({"repeat": "ab", "times": 2}, "abab", True),
        ("a", None, False),
        (1, True, False),
        (True, 1, False),
        ({"min": 1, "max": 2}, 2, True),
        ({"min": 1}, 0, False),
        ({"max": 1}, None, False),
        ({"any_of": ["a", "b"]}, "b", True),
        ({"any_of": ["a", "b"]}, "c", False),
        ({"length": 2, "each": None}, [None, None], True),
        ({"length": 2, "each": None}, [None, 1], False),
        ({"length": 2, "each": None}, [None], False),
        ([1, None], [1, None], True),
        ([1], [1, None], False),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": None}, {"b": 2}, False),
        ({}, "a", False),
    ],
)
def test_results_are_compared_as_described(expected: Any, result: Any, is_equal: bool) -> None:
    assert matches(expected, result) == is_equal
