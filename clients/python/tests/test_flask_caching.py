"""The backend of Flask-Caching with a real server."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flask
import pytest
import terrace
from flask_caching import Cache
from framework_server import Server, running
from terrace.flask_caching import TerraceCache


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


def configured(server: Server, prefix: str = "", **config: Any) -> tuple[flask.Flask, Cache]:
    app = flask.Flask(__name__)
    app.config.update(
        CACHE_TYPE="terrace.flask_caching.TerraceCache",
        CACHE_TERRACE_TARGET=server.target,
        CACHE_KEY_PREFIX=prefix or f"{secrets.token_hex(4)}:",
        CACHE_OPTIONS={"read_timeout": 5, "write_timeout": 5, **config.pop("CACHE_OPTIONS", {})},
        **config,
    )
    return app, Cache(app)


def backend(server: Server, prefix: str = "", **config: Any) -> TerraceCache:
    app, cache = configured(server, prefix, **config)
    with app.app_context():
        found = cache.cache
    assert isinstance(found, TerraceCache)
    return found


def test_views_and_memoized_functions(server: Server) -> None:
    app, cache = configured(server)
    calls: list[int] = []

    @app.get("/")
    @cache.cached(timeout=60)
    def view() -> str:
        calls.append(1)
        return f"view {len(calls)}"

    @cache.memoize(60)
    def double(number: int) -> int:
        calls.append(number)
        return number * 2

    http = app.test_client()
    assert http.get("/").text == http.get("/").text == "view 1"
    with app.app_context():
        assert [double(2), double(2), double(3)] == [4, 4, 6]
        cache.delete_memoized(double, 2)
        assert double(2) == 4
        assert calls == [1, 2, 3, 2]
        cache.clear()
    assert http.get("/").text == "view 5"


def test_reads_and_writes(server: Server) -> None:
    values = backend(server)
    assert values.set("a", {"x": 1})
    assert values.get("a") == {"x": 1}
    assert values.has("a")
    assert not values.has("b")
    assert values.add("b", 2)
    assert not values.add("b", 3)
    assert sorted(values.set_many({"c": [1], "d": None})) == ["c", "d"]
    assert values.get_many("a", "b", "c", "d", "e") == [{"x": 1}, 2, [1], None, None]
    assert values.get_dict("b", "e") == {"b": 2, "e": None}
    assert values.delete("a")
    assert not values.delete("a")
    assert values.delete_many("b", "c") == ["b", "c"]
    assert values.get_many("b", "c") == [None, None]


def test_increments_are_atomic(server: Server) -> None:
    values = backend(server)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: [values.inc("n") for _ in range(100)], range(4)))
    assert values.get("n") == 400
    assert values.dec("n", 100) == 300
    values.set("text", "a")
    assert values.inc("text") is None


def test_timeouts(server: Server) -> None:
    values = backend(server, "times:", CACHE_DEFAULT_TIMEOUT=100)
    values.set("default", 1)
    values.set("never", 1, timeout=0)
    values.set("one", 1, timeout=7)
    values.set("past", 1, timeout=-1)
    client = terrace.Client(server.target)
    entries = {name: client.lookup(f"times:{name}") for name in ("default", "never", "one")}
    assert 90 < entries["default"].expires_in <= 100
    assert entries["never"].expires_in is None
    assert 5 < entries["one"].expires_in <= 7
    assert values.get("past") is None
    client.close()


def test_clear_keeps_other_prefixes(server: Server) -> None:
    first, second = backend(server), backend(server)
    first.set("a", 1)
    second.set("a", 2)
    first.clear()
    assert first.get("a") is None
    assert second.get("a") == 2


def test_an_outage_is_a_miss(caplog: pytest.LogCaptureFixture) -> None:
    values = TerraceCache("127.0.0.1:1")
    assert values.get("a") is None
    assert values.get_many("a", "b") == [None, None]
    assert not values.set("a", "secret")
    assert not values.has("a")
    assert values.set_many({"a": 1}) == []
    assert "Unavailable" in caplog.text
    assert "secret" not in caplog.text


def test_an_undecodable_value_is_a_miss(server: Server) -> None:
    values = backend(server, "undecodable:")
    client = terrace.Client(server.target)
    client.set("undecodable:a", b"\x80garbage")
    assert values.get("a") is None
    assert values.get_many("a") == [None]
    client.close()


def test_bad_options_are_refused(server: Server) -> None:
    with pytest.raises(ValueError, match=r"CACHE_OPTIONS has \['tokn'\]"):
        backend(server, CACHE_OPTIONS={"tokn": "x"})
