"""The response cache with a real ASGI server, a real cache server and httpx."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import terrace
from framework_server import Server, running, serving, until
from terrace.asgi import ResponseCache, Rule
from terrace.http import _fields as fields
from terrace.http._record import RESPONSE, Record, decode
from terrace.http._rules import Request


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


class Origin:
    """An ASGI application whose responses a test sets."""

    def __init__(self) -> None:
        self.calls = 0
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] | None = None
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None
        self.is_cut = False
        self.seen: list[dict[str, Any]] = []
        self.after = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        self.seen.append(scope)
        chunks = self.chunks or [b"body %d" % self.calls]
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if not self.is_cut:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        # A background task of the response.
        self.after += 1


class Site:
    """An application behind the response cache."""

    def __init__(self, http: httpx.AsyncClient, origin: Origin, cache: ResponseCache, client: Any) -> None:
        self.http = http
        self.origin = origin
        self.cache = cache
        self.client = client

    async def get(self, path: str = "/", **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.get(path, headers=names)


@contextlib.asynccontextmanager
async def site(target: str, *rules: Rule, **options: Any) -> AsyncIterator[Site]:
    origin = Origin()
    client = terrace.AsyncClient(target)
    options.setdefault("prefix", f"http:{secrets.token_hex(4)}:")
    chosen = list(rules) or [Rule("/*", ttl="30s", stale="5m", tags=["all"])]
    cache = ResponseCache(origin, client=client, rules=chosen, **options)
    async with serving(cache) as url, httpx.AsyncClient(base_url=url, timeout=20) as http:
        yield Site(http, origin, cache, client)
    await client.close()


async def test_hit_has_age_etag_and_cache_status(server: Server) -> None:
    async with site(server.target, shows_key=True, prefix="http:one:") as at:
        miss = await at.get("/a")
        hit = await at.get("/a")
        assert (miss.text, hit.text, at.origin.calls) == ("body 1", "body 1", 1)
        assert miss.headers["cache-status"] == 'terrace; fwd=uri-miss; stored; ttl=30; key="http:one:/a"'
        assert hit.headers["cache-status"].startswith("terrace; hit; ttl=")
        assert hit.headers["age"] == "0"
        assert "age" not in miss.headers
        assert miss.headers["etag"] == hit.headers["etag"]
        assert miss.headers["etag"].startswith('"')
        control = "max-age=30, stale-while-revalidate=300, stale-if-error=300"
        assert miss.headers["cache-control"] == hit.headers["cache-control"] == control
        assert hit.headers["content-length"] == "6"
        assert at.origin.after == 1


async def test_not_modified(server: Server) -> None:
    async with site(server.target) as at:
        at.origin.headers = [(b"content-type", b"text/plain"), (b"last-modified", b"Tue, 01 Dec 2020 00:00:00 GMT")]
        etag = (await at.get()).headers["etag"]
        for asked in (etag, f'"x", W/{etag}', "*"):
            answer = await at.get(if_none_match=asked)
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == etag
            assert "content-type" not in answer.headers
        assert (await at.get(if_none_match='"x"')).status_code == 200
        assert (await at.get(if_modified_since="Wed, 02 Dec 2020 00:00:00 GMT")).status_code == 304
        assert (await at.get(if_modified_since="Mon, 30 Nov 2020 00:00:00 GMT")).status_code == 200
        # If-None-Match has precedence.
        both = await at.get(if_none_match='"x"', if_modified_since="Wed, 02 Dec 2020 00:00:00 GMT")
        assert both.status_code == 200
        assert at.origin.calls == 1


async def test_a_miss_asks_the_application_for_the_whole_response(server: Server) -> None:
    async with site(server.target) as at:
        at.origin.chunks = [b"same"]
        etag = (await at.get("/x")).headers["etag"]
        answer = await at.get("/y", if_none_match=etag)
        assert answer.status_code == 304
        assert b"if-none-match" not in {name for name, _ in at.origin.seen[-1]["headers"]}
        assert (await at.get("/y")).text == "same"
        assert at.origin.calls == 2


async def test_one_of_many_concurrent_requests_runs_the_application(server: Server) -> None:
    async with site(server.target) as at:
        at.origin.gate = asyncio.Event()
        waiting = [asyncio.create_task(at.get("/slow")) for _ in range(30)]
        await until(lambda: at.origin.calls >= 1)
        await asyncio.sleep(0.05)
        at.origin.gate.set()
        answers = await asyncio.gather(*waiting)
        assert {answer.text for answer in answers} == {"body 1"}
        assert at.origin.calls == 1
        assert sum("stored" in answer.headers["cache-status"] for answer in answers) == 1


async def test_stale_response_is_served_while_one_request_refreshes(server: Server) -> None:
    async with site(server.target, Rule("/*", ttl=0.2, stale="5m")) as at:
        await at.get()
        await asyncio.sleep(0.3)
        at.origin.gate = asyncio.Event()
        answers = [await at.get() for _ in range(5)]
        assert {answer.text for answer in answers} == {"body 1"}
        assert answers[0].headers["cache-status"].startswith("terrace; hit; ttl=")
        await until(lambda: at.origin.calls == 2)
        at.origin.gate.set()
        await until(lambda: at.origin.after == 2)
        assert (await at.get()).text == "body 2"


async def test_stale_response_survives_failed_refreshes(server: Server) -> None:
    async with site(server.target, Rule("/*", ttl=0.1, stale="5m")) as at:
        await at.get()
        await asyncio.sleep(0.2)
        at.origin.status = 500
        for _ in range(3):
            assert (await at.get()).text == "body 1"
        await until(lambda: at.origin.calls == 2)
        assert (await at.get()).status_code == 200


async def test_stale_if_error_of_the_response(server: Server) -> None:
    async with site(server.target, Rule("/*", ttl=30)) as at:
        at.origin.headers = [(b"cache-control", b"max-age=1, stale-if-error=60")]
        await at.get()
        await asyncio.sleep(1.1)
        at.origin.status = 503
        answer = await at.get()
        assert (answer.status_code, answer.text) == (200, "body 1")
        assert "fwd=stale" in answer.headers["cache-status"]
        at.origin.error = RuntimeError("origin")
        assert (await at.get()).text == "body 1"


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ([(b"set-cookie", b"a=b")], "set-cookie"),
        ([(b"cache-control", b"no-store")], "cache-control"),
        ([(b"Cache-Control", b"max-age=60, Private")], "cache-control"),
        ([(b"cache-control", b'no-cache="x"')], "cache-control"),
        ([(b"vary", b"accept, *")], "vary"),
        ([(b"cache-control", b"max-age=0")], "ttl"),
        ([(b"cache-control", b"max-age=60, s-maxage=0")], "ttl"),
        ([(b"cache-control", b"max-age=x")], "ttl"),
        ([(b"expires", b"0")], "ttl"),
        ([(b"content-type", b"text/event-stream")], "stream"),
        ([(b"content-length", b"1048577")], "size"),
    ],
)
async def test_responses_that_are_not_stored(server: Server, headers: Any, detail: str) -> None:
    async with site(server.target) as at:
        at.origin.headers = headers
        if detail == "size":
            at.origin.chunks = [b"x" * 1_048_577]
        first, second = await at.get(), await at.get()
        assert at.origin.calls == 2
        assert first.headers["cache-status"] == f"terrace; fwd=uri-miss; detail={detail}"
        assert "hit" not in second.headers["cache-status"]
        for name, value in headers:
            assert first.headers[name.decode()] == value.decode()


async def test_status_must_be_allowed(server: Server) -> None:
    async with site(server.target, Rule("/a", ttl=30), Rule("/b", ttl=30, statuses=(200, 404))) as at:
        at.origin.status = 404
        for _ in range(2):
            assert (await at.get("/a")).status_code == (await at.get("/b")).status_code == 404
        assert at.origin.calls == 3


async def test_a_cut_body_is_not_stored(server: Server) -> None:
    async with site(server.target) as at:
        at.origin.is_cut = True
        with pytest.raises(httpx.RemoteProtocolError):
            await at.get()
        at.origin.is_cut = False
        assert (await at.get()).text == "body 2"
        assert (await at.get()).text == "body 2"


async def test_a_body_of_the_wrong_length_is_not_stored(server: Server) -> None:
    async with site(server.target) as at:
        at.origin.headers = [(b"content-length", b"100")]
        with pytest.raises(httpx.RemoteProtocolError):
            await at.get()
        at.origin.headers = []
        assert (await at.get()).text == "body 2"


async def test_an_exception_is_not_stored_and_reaches_the_server(server: Server) -> None:
    async with site(server.target) as at:
        at.origin.error = RuntimeError("origin")
        assert (await at.get()).status_code == 500
        at.origin.error = None
        await until(lambda: at.origin.calls == 1)
        assert (await at.get()).text == "body 2"


async def test_a_large_stream_passes_through(server: Server) -> None:
    async with site(server.target, Rule("/*", ttl=30, max_body=10)) as at:
        at.origin.chunks = [b"12345"] * 4
        assert (await at.get()).text == "12345" * 4
        assert (await at.get()).headers["cache-status"] == "terrace; fwd=miss; detail=uncacheable"
        at.origin.chunks = [b"12345"] * 2
        assert (await at.get("/small")).text == "1234512345"
        assert "hit" in (await at.get("/small")).headers["cache-status"]


async def test_a_client_that_leaves_does_not_cut_the_response(server: Server) -> None:
    async with site(server.target) as at:
        at.origin.gate = asyncio.Event()
        leaving = asyncio.create_task(at.get())
        await until(lambda: at.origin.calls == 1)
        leaving.cancel()
        waiting = asyncio.create_task(at.get())
        await asyncio.sleep(0.05)
        at.origin.gate.set()
        assert (await waiting).text == "body 1"
        assert at.origin.calls == 1


async def test_request_directives(server: Server) -> None:
    async with site(server.target) as at:
        answer = await at.get(cache_control="only-if-cached")
        assert (answer.status_code, at.origin.calls) == (504, 0)
        assert (await at.get(cache_control="no-store")).headers["cache-status"] == "terrace; fwd=bypass"
        assert (await at.get()).text == "body 2"
        assert (await at.get(cache_control="only-if-cached")).text == "body 2"
        reload = await at.get(cache_control="no-cache")
        assert reload.text == "body 3"
        assert reload.headers["cache-status"] == "terrace; fwd=request; stored; ttl=30"
        assert (await at.get()).text == "body 3"
        assert (await at.get(cache_control="max-age=0")).text == "body 4"
        assert (await at.get(pragma="no-cache")).text == "body 5"
        assert (await at.get(cache_control="min-fresh=60")).text == "body 6"
        assert (await at.get(cache_control="max-age=60")).text == "body 5"


async def test_a_failed_reload_keeps_the_stored_response(server: Server) -> None:
    async with site(server.target) as at:
        await at.get()
        at.origin.status = 500
        await at.get(cache_control="no-cache")
        assert at.origin.calls == 2
        assert (await at.get()).text == "body 1"


async def test_request_directives_can_be_ignored(server: Server) -> None:
    async with site(server.target, Rule("/*", ttl=30, ignore_request_directives=True)) as at:
        await at.get()
        for value in ("no-store", "no-cache", "max-age=0", "only-if-cached"):
            assert (await at.get(cache_control=value)).text == "body 1"
        assert (await at.get("/new", cache_control="only-if-cached")).text == "body 2"


async def test_authorization(server: Server) -> None:
    async with site(server.target) as at:
        assert (await at.get()).text == "body 1"
        # The response to a request without Authorization is not for one with it.
        assert (await at.get(authorization="Bearer a")).text == "body 2"
        assert (await at.get(authorization="Bearer b")).text == "body 3"
        assert (await at.get()).text == "body 1"
        at.origin.headers = [(b"cache-control", b"public")]
        assert (await at.get("/p", authorization="Bearer a")).text == "body 4"
        assert (await at.get("/p", authorization="Bearer b")).text == "body 4"


async def test_vary(server: Server) -> None:
    async with site(server.target) as at:
        at.origin.headers = [(b"vary", b"Accept-Language")]
        texts = [(await at.get(accept_language=name)).text for name in ("de", "en", "de", "en")]
        assert texts == ["body 1", "body 2", "body 1", "body 2"]
        answer = await at.get(accept_language="fr")
        assert answer.headers["cache-status"] == "terrace; fwd=vary-miss; stored; ttl=30"
        assert answer.headers["vary"] == "Accept-Language"
        # A further name: the responses without it are not used any more.
        at.origin.headers = [(b"vary", b"Accept-Language, X-Plan")]
        texts = [(await at.get(accept_language="it", x_plan=plan)).text for plan in ("a", "b", "a", "b")]
        assert texts == ["body 4", "body 5", "body 4", "body 5"]
        await at.client.invalidate_tags(["all"])
        assert (await at.get(accept_language="it", x_plan="a")).text == "body 6"


async def test_waiting_requests_share_a_new_variant(server: Server) -> None:
    async with site(server.target) as at:
        at.origin.headers = [(b"vary", b"accept-language")]
        at.origin.gate = asyncio.Event()
        waiting = [asyncio.create_task(at.get(accept_language="de")) for _ in range(10)]
        await until(lambda: at.origin.calls >= 1)
        await asyncio.sleep(0.05)
        at.origin.gate.set()
        assert {answer.text for answer in await asyncio.gather(*waiting)} == {"body 1"}


async def test_key_of_the_query(server: Server) -> None:
    rules = [Rule("/q", ttl=30, ignore_query=["utm_*"]), Rule("/p", ttl=30, query=["page"])]
    async with site(server.target, *rules) as at:
        texts = [(await at.get(f"/q?{query}")).text for query in ("a=1&b=2", "b=2&a=1&utm_x=3", "a=2", "b=2&a=1")]
        assert texts == ["body 1", "body 1", "body 2", "body 1"]
        texts = [(await at.get(f"/p?{query}")).text for query in ("page=1&x=2", "page=1", "page=2")]
        assert texts == ["body 3", "body 3", "body 4"]


async def test_head_is_answered_by_get(server: Server) -> None:
    async with site(server.target) as at:
        assert (await at.http.head("/")).headers["cache-status"] == "terrace; fwd=uri-miss"
        await at.get()
        answer = await at.http.head("/")
        assert (answer.content, answer.headers["content-length"]) == (b"", "6")
        assert "hit" in answer.headers["cache-status"]


async def test_a_change_removes_the_responses(server: Server) -> None:
    async with site(server.target) as at:
        await at.get()
        at.origin.status = 400
        await at.http.post("/")
        assert (await at.get()).text == "body 1"
        at.origin.status = 204
        at.origin.chunks = [b""]
        await at.http.delete("/")
        at.origin.status, at.origin.chunks = 200, None
        assert (await at.get()).text == "body 4"


async def test_tags_of_the_path(server: Server) -> None:
    async with site(server.target, Rule("/products/{id}", ttl=30, tags=["product:{id}"])) as at:
        for _ in range(2):
            assert [(await at.get(f"/products/{number}")).text for number in (1, 2)] == ["body 1", "body 2"]
        await at.client.invalidate_tags(["product:1"])
        assert [(await at.get(f"/products/{number}")).text for number in (1, 2)] == ["body 3", "body 2"]


async def test_a_tag_that_is_invalidated_during_the_load_prevents_the_fill(server: Server) -> None:
    for headers in ([], [(b"vary", b"accept")]):
        async with site(server.target) as at:
            at.origin.headers = headers
            at.origin.gate = asyncio.Event()
            first = asyncio.create_task(at.get())
            await until(lambda at=at: at.origin.calls == 1)  # type: ignore[misc]
            await at.client.invalidate_tags(["all"])
            at.origin.gate.set()
            assert "stored" not in (await first).headers["cache-status"]
            assert (await at.get()).text == "body 2"


async def test_without_the_cache_requests_are_answered() -> None:
    with running() as server:
        async with site(server.target) as at:
            assert (await at.get()).text == "body 1"
            server.stop()
            answers = await asyncio.gather(*(at.get() for _ in range(5)))
            assert {answer.status_code for answer in answers} == {200}
            assert answers[0].headers["cache-status"] == "terrace; fwd=miss; detail=unavailable"
            assert (await at.http.post("/")).status_code == 200


async def test_undecodable_bytes_are_a_miss(server: Server) -> None:
    async with site(server.target, prefix="http:bad:") as at:
        await at.client.set("http:bad:/", b"\x89TH9 of a later version", ttl=60)
        assert (await at.get()).text == "body 1"
        assert (await at.get()).text == "body 1"


async def test_requests_without_a_rule_pass_through(server: Server) -> None:
    async with site(server.target, Rule("/a", ttl=30)) as at:
        assert "cache-status" not in (await at.get("/b")).headers
        await at.get("/b")
        assert at.origin.calls == 2


def test_records_are_decoded_as_they_were_encoded() -> None:
    record = Record(RESPONSE, 203, 1_700_000_000.5, 3, 30, 60, 90, [(b"a", b"1"), (b"b", b""), (b"a", b"2")], b"\0body")
    data = record.encode()
    assert decode(data) == record
    for size in range(len(data) - len(record.body)):
        assert decode(data[:size]) is None
    assert decode(b"") is None


def test_cache_control_is_parsed() -> None:
    def parsed(*lines: bytes) -> dict[str, str]:
        return fields.directives([(b"cache-control", line) for line in lines])

    assert parsed(b'max-age=5, Private="a, b" , no-cache') == {"max-age": "5", "private": "a, b", "no-cache": ""}
    assert parsed(b'max-age="7"', b"max-age=9,,public") == {"max-age": "7", "public": ""}
    assert parsed(b"") == {}
    assert fields.seconds({"max-age": "9" * 30}, "max-age") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "products"}, "begins with /"),
        ({"ttl": "5 minutes"}, "expected a text such as"),
        ({"ttl": -1}, "expected 0 to"),
        ({"tags": "a"}, "tags is one str"),
        ({"statuses": (206,)}, "without 206"),
        ({"path": "/a/{id}", "tags": ["a:{name}"]}, r"\['name'\]"),
    ],
)
def test_bad_rules_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Rule(**{"path": "/", "ttl": 1, **arguments})


def test_keys_do_not_collide() -> None:
    def key(path: str, query: bytes = b"", rule: Rule | None = None, **headers: str) -> str:
        listed = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": listed}
        return (rule or Rule("/*", ttl=1)).key(Request(scope), "", False)

    assert key("/a?b") != key("/a", b"b")
    assert key("/a", b"x=1&x=2") != key("/a", b"x=2&x=1")
    assert len({key("/" + "a" * 600), key("/" + "a" * 601), key("/" + "a" * 479 + "~")}) == 3
    by_host = Rule("/*", ttl=1, host=True)
    assert key("/", rule=by_host, host="a") != key("/", rule=by_host, host="b")
    by_plan = Rule("/*", ttl=1, vary=["plan"])
    assert len({key("/", rule=by_plan), key("/", rule=by_plan, plan=""), key("/", rule=by_plan, plan="a")}) == 3
