"""The fake and the fixtures for pytest."""

from __future__ import annotations

import asyncio
import http.client
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import terrace
from conftest import until
from terrace.testing import BinaryNotFound, Fake, Server, StartFailed, find_binary

pytest_plugins = ["pytester"]


def test_a_fake_has_a_manual_clock(terrace_fake: Fake) -> None:
    client = terrace_fake.client()
    assert client.set("k", "v", ttl="5m", tags=["t"])
    assert terrace_fake.entry("k") == (b"v", 300.0, [b"t"])
    terrace_fake.advance(299)
    assert terrace_fake.keys() == [b"k"]
    assert terrace_fake.entry("k") == (b"v", 1.0, [b"t"])
    terrace_fake.advance("1s")
    assert client.get("k") is None
    assert terrace_fake.keys() == []
    assert terrace_fake.entry("k") is None
    assert terrace_fake.now == 300.0


def test_clients_of_a_fake_share_its_contents(terrace_fake: Fake) -> None:
    terrace_fake.client().set("k", "v")
    client = terrace_fake.async_client(codec=terrace.Text())
    assert asyncio.run(_get(client, "k")) == "v"
    assert Fake().client().get("k") is None


async def _get(client: terrace.AsyncClient, key: str) -> Any:
    return await client.get(key)


def test_faults_end_with_recover(terrace_fake: Fake) -> None:
    client = terrace_fake.client()
    terrace_fake.fail(terrace.PermissionDenied, "not for you")
    with pytest.raises(terrace.PermissionDenied, match="not for you"):
        client.set("k", "v")
    terrace_fake.recover()
    assert client.get("k") is None

    terrace_fake.fail_key("bad", terrace.FailedPrecondition)
    assert client.get("good") is None
    with pytest.raises(terrace.FailedPrecondition, match="injected fault"):
        client.get("bad")
    terrace_fake.recover()

    terrace_fake.fail_next(2, terrace.Internal)
    for _ in range(2):
        with pytest.raises(terrace.Internal):
            client.get("k")
    assert client.get("k") is None


@pytest.mark.parametrize("kind", [ValueError, terrace.TerraceError, terrace.NotFound, "Unavailable"])
def test_only_exceptions_of_operations_are_faults(terrace_fake: Fake, kind: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="exception"):
        terrace_fake.fail(kind, "x")


def test_the_outcome_of_a_write_can_be_unknown(terrace_fake: Fake) -> None:
    client = terrace_fake.client()
    terrace_fake.unknown_next(1)
    with pytest.raises(terrace.OutcomeUnknown):
        client.increment("n")
    assert terrace_fake.entry("n") == (b"1", None, [])
    assert client.increment("n") == 2


def test_a_delay_exceeds_deadlines(terrace_fake: Fake) -> None:
    client = terrace_fake.client(read_timeout="20ms")
    terrace_fake.delay("1h")
    with pytest.raises(terrace.DeadlineExceeded):
        client.get("k")
    terrace_fake.recover()
    assert client.get("k") is None


def test_loads_are_counted(terrace_fake: Fake) -> None:
    client = terrace_fake.client()
    for _ in range(3):
        assert client.get_or_load("k", lambda: b"v", ttl="1m") == b"v"
    assert (terrace_fake.loads("k"), terrace_fake.total_loads) == (1, 1)
    terrace_fake.reset_counts()
    assert terrace_fake.loads("k") == 0
    terrace_fake.clear()
    assert terrace_fake.keys() == []
    grant = client.get_or_lease("k").grant
    assert terrace_fake.is_loading("k")
    grant.release()
    until(lambda: not terrace_fake.is_loading("k"), "the lease ends")
    assert terrace_fake.waiting == 0


def test_the_server_has_the_ports_of_all_protocols(terrace_server: Server) -> None:
    assert len({terrace_server.port, terrace_server.resp_port, terrace_server.http_port, 0}) == 4
    connection = http.client.HTTPConnection("127.0.0.1", terrace_server.http_port, timeout=30)
    connection.request("GET", "/metrics")
    assert connection.getresponse().status == 200
    with socket.create_connection(("127.0.0.1", terrace_server.resp_port), timeout=30) as resp:
        resp.sendall(b"PING\r\n")
        assert resp.recv(100) == b"+PONG\r\n"


@pytest.mark.parametrize("round", [1, 2])
def test_each_test_has_an_empty_cache(terrace_client: terrace.Client, round: int) -> None:
    assert terrace_client.get("left") is None
    terrace_client.set("left", str(round))


async def test_the_client_for_asyncio_has_an_empty_cache(terrace_async_client: terrace.AsyncClient) -> None:
    assert await terrace_async_client.get("left") is None


def test_values_survive_a_crash_and_a_restart_at_the_same_ports(own_server: Server) -> None:
    target = own_server.target
    with terrace.Client(target, read_timeout="30s", write_timeout="30s") as client:
        client.set("k", "v")
        for end in (own_server.kill, own_server.stop):
            end()
            assert not own_server.is_running
            own_server.start()
            own_server.start()
            assert own_server.target == target
            # The client connects again after its back-off.
            client.ready()
            assert client.get("k") == b"v"


def test_a_paused_server_answers_nothing(own_server: Server) -> None:
    with terrace.Client(own_server.target) as client:
        client.ready()
        own_server.pause()
        with pytest.raises(terrace.DeadlineExceeded):
            client.get("k", timeout="50ms")
        own_server.resume()
        assert client.get("k", timeout="30s") is None
        own_server.pause()
        own_server.stop()
    with pytest.raises(RuntimeError, match=r"does not run; call start\(\)"):
        own_server.pause()


def test_a_start_that_fails_shows_the_log(tmp_path: Path) -> None:
    server = Server(tmp_path, l2="redsi://x")
    with pytest.raises(StartFailed, match="redsi"):
        server.start()
    assert not server.is_running


def test_the_binary_is_named_or_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TERRACE_BINARY", str(tmp_path / "none"))
    with pytest.raises(BinaryNotFound, match="TERRACE_BINARY is .*none.*, which is not an executable file"):
        find_binary()
    monkeypatch.delenv("TERRACE_BINARY")
    binary = tmp_path / "terrace"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary() == binary


def _run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile("def test_it(terrace_client): assert terrace_client.set('k', 'v')")
    pytester.makeconftest("pytest_plugins = ['terrace.testing.plugin']")
    return pytester.runpytest_subprocess("-p", "no:terrace", *arguments)


def test_without_a_binary_tests_fail_or_are_skipped(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(pytester).assert_outcomes(passed=1)
    monkeypatch.setenv("TERRACE_BINARY", "/does/not/exist")
    failed = _run(pytester)
    failed.assert_outcomes(errors=1)
    failed.stdout.fnmatch_lines(["*TERRACE_BINARY is '/does/not/exist', which is not an executable file*"])
    _run(pytester, "--terrace-skip").assert_outcomes(skipped=1)


def test_the_plugin_starts_nothing() -> None:
    code = (
        "import sys, threading, os\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "import terrace.testing.plugin\n"
        "assert threading.active_count() == 1 and len(os.listdir('/proc/self/task')) == 1\n"
        "assert len(os.listdir('/proc/self/fd')) == before\n"
        "print([name for name in ('msgspec', 'pydantic', 'subprocess') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" or done.stdout == "['subprocess']\n"
