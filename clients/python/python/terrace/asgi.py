"""Response cache for Starlette, FastAPI and any other ASGI application.

>>> from starlette.applications import Starlette
>>> from starlette.middleware import Middleware
>>> from terrace.asgi import ResponseCache, Rule
>>> client = terrace.AsyncClient("127.0.0.1:7400")
>>> rules = [Rule("/products/{id}", ttl="30s", stale="5m", tags=["product:{id}"])]
>>> app = Starlette(routes=routes, middleware=[Middleware(ResponseCache, client=client, rules=rules)])
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from .http import Answer, Exchange, Request, ResponseStore, Rule
from .http import _policy as policy
from .http._fields import Headers

__all__ = ["Request", "ResponseCache", "Rule"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Refreshes of a process at a time. Further ones are left to other requests and processes.
REFRESHES_MAX = 64
_UNSAFE = frozenset(("POST", "PUT", "PATCH", "DELETE"))
#: The application answers in full; the cache compares the validators of the client.
_CONDITIONS = frozenset((b"if-none-match", b"if-modified-since", b"if-range"))
#: Extensions with which a body would not pass through ``send``.
_EXTENSIONS = frozenset(
    ("http.response.pathsend", "http.response.zerocopysend", "http.response.trailers", "http.response.push")
)
_log = logging.getLogger("terrace.http")


class ResponseCache:
    """ASGI middleware that caches responses.

    ``rules``: a list of rules, of which the first one that matches counts, or a function of the request that returns
    a rule or ``None``. Requests without a rule pass through unchanged. Further arguments are those of
    ``terrace.http.ResponseStore``.
    """

    def __init__(
        self,
        app: App,
        *,
        client: Any,
        rules: Iterable[Rule] | Callable[[Request], Rule | None],
        prefix: str = "http:",
        name: str = "terrace",
        wait: Any = "3s",
        lease: Any = None,
        uncacheable_ttl: Any = "10s",
        shows_key: bool = False,
    ) -> None:
        self.app = app
        self.store = ResponseStore(client, prefix, name, wait, lease, uncacheable_ttl, shows_key)
        self._rules = rules if callable(rules) else list(rules)
        self._refreshes: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request from the cache, or from the application."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        rule = self._rule(request)
        if rule is None:
            return await self.app(scope, receive, send)
        if request.method not in ("GET", "HEAD"):
            return await self._changed(rule, request, scope, receive, send)
        exchange = await self.store.find(rule, request)
        if exchange.record is not None:
            # Before the answer: it takes as long as the client reads.
            self._refresh(exchange, scope)
            return await _send(send, self.store.answer(exchange, exchange.record, is_hit=True))
        if exchange.is_refused:
            status = [(b"content-length", b"0"), (b"cache-status", self.store.status(exchange))]
            return await _send(send, Answer(504, status, b""))
        await forward(self.store, self.app, exchange, scope, receive, send)

    def _rule(self, request: Request) -> Rule | None:
        if callable(self._rules):
            return self._rules(request)
        return next((rule for rule in self._rules if rule.matches(request)), None)

    async def _changed(self, rule: Rule, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer a request that may change the resource, and remove its responses."""

        async def forget_first(message: Message) -> None:
            # The client may read the resource as soon as it has the answer.
            if message["type"] == "http.response.start" and message["status"] < 400 and request.method in _UNSAFE:
                await self.store.forget(rule, request)
            await send(message)

        await self.app(scope, receive, forget_first)

    def _refresh(self, exchange: Exchange, scope: Scope) -> None:
        """Load the response again in the background, if this request has the permission."""
        if exchange.grant is None:
            return
        # A grant that is dropped is released.
        refresh = Exchange(
            exchange.rule, exchange.request, exchange.key, exchange.is_authorized, fallback=exchange.record,
            grant=exchange.grant, slot=exchange.slot, vary=exchange.vary, forward="stale",
        )  # fmt: skip
        exchange.grant = None
        if len(self._refreshes) >= REFRESHES_MAX:
            return
        task = asyncio.get_running_loop().create_task(self._load(refresh, _full(scope)))
        self._refreshes.add(task)
        task.add_done_callback(self._refreshes.discard)

    async def _load(self, exchange: Exchange, scope: Scope) -> None:
        async def send(_: Message) -> None:
            """Leave out what the client has already."""

        try:
            await forward(self.store, self.app, exchange, scope, _empty_body(), send)
        except Exception as error:  # noqa: BLE001 - of the application; no request waits for it
            _log.warning("a response was not refreshed: %s", type(error).__name__)


async def forward(
    store: ResponseStore, app: App, exchange: Exchange, scope: Scope, receive: Receive, send: Send
) -> None:
    """Let the application answer, and store its response if the exchange has the permission."""
    collected = _Response(store, exchange, receive, send)
    try:
        await app(_full(scope) if exchange.may_store else scope, collected.receive, collected.send)
        await collected.end()
    except Exception as error:
        if not await collected.failed(error):
            raise
    finally:
        collected.release()
        # A body that was cut.
        await asyncio.shield(store.drop(exchange))


def _empty_body() -> Receive:
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            # No client that could disconnect. The application is cancelled by its own deadline only.
            await asyncio.get_running_loop().create_future()
        sent = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive


def _full(scope: Scope) -> Scope:
    """Return the scope of a request for the whole response."""
    copy = dict(scope)
    copy["headers"] = [pair for pair in scope["headers"] if pair[0].lower() not in _CONDITIONS]
    copy["extensions"] = {
        name: value for name, value in (scope.get("extensions") or {}).items() if name not in _EXTENSIONS
    }
    return copy


async def _send(send: Send, answer: Answer) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})


class _Response:
    """Collects the response of the application. One that cannot be stored passes through."""

    def __init__(self, store: ResponseStore, exchange: Exchange, receive: Receive, send: Send) -> None:
        self._store = store
        self._exchange = exchange
        self._receive = receive
        self._send = send
        self._start: Message | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._passes = asyncio.Event()
        self._is_answered = False
        if not exchange.may_store and exchange.fallback is None:
            self._passes.set()

    async def receive(self) -> Message:
        """Return a message of the client. The response is for other clients too: a disconnect does not end it."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            await self._passes.wait()
        return message

    def release(self) -> None:
        """Let what the application has left behind see the end of the connection."""
        self._passes.set()

    async def send(self, message: Message) -> None:
        """Take a message of the application."""
        kind = message["type"]
        if kind == "http.response.start":
            await self._begin(message)
        elif self._is_answered:
            # The stored response was sent instead.
            return
        elif self._passes.is_set() or kind != "http.response.body":
            await self._send(message)
        else:
            await self._collect(message)

    async def _begin(self, message: Message) -> None:
        exchange, status = self._exchange, message["status"]
        headers: Headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
        self._start = {**message, "headers": headers}
        if status >= 500 and exchange.fallback is not None and self._store_age_is_allowed():
            await self._store.refuse(exchange, "status", status)
            return await self._answer_stale(f"status-{status}")
        if exchange.may_store:
            reason = policy.refusal(exchange.rule, status, headers, exchange.is_authorized)
            if reason is None:
                return
            await self._store.refuse(exchange, reason, status)
        await self._pass()

    def _store_age_is_allowed(self) -> bool:
        record = self._exchange.fallback
        return record is not None and record.age_at(self._store.clock()) <= record.ttl + record.if_error

    async def _answer_stale(self, detail: str) -> None:
        exchange = self._exchange
        assert exchange.fallback is not None
        self._is_answered = True
        exchange.detail = detail
        await _send(self._send, self._store.answer(exchange, exchange.fallback, is_hit=False))

    async def _pass(self) -> None:
        """Send the collected messages, and all further messages."""
        assert self._start is not None
        self._passes.set()
        status = (b"cache-status", self._store.status(self._exchange))
        await self._send({**self._start, "headers": [*self._start["headers"], status]})
        if self._body:
            body, self._body = b"".join(self._body), []
            await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _collect(self, message: Message) -> None:
        chunk = bytes(message.get("body", b""))
        self._body.append(chunk)
        self._size += len(chunk)
        if self._size > self._exchange.rule.max_body:
            await self._store.refuse(self._exchange, "size")
            await self._pass()
            if not message.get("more_body", False):
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not message.get("more_body", False):
            await self._finish(b"".join(self._body))

    async def _finish(self, body: bytes) -> None:
        assert self._start is not None
        status, headers = self._start["status"], self._start["headers"]
        declared = [value for name, value in headers if name == b"content-length"]
        if any(int(length) != len(body) for length in declared):
            # Not what the application meant to send. The server reports it.
            await self._store.drop(self._exchange)
            self._exchange.detail = "length"
            return await self._pass_whole()
        record, is_stored = await self._store.store(self._exchange, status, headers, body)
        self._is_answered = True
        await _send(self._send, self._store.answer(self._exchange, record, is_hit=False, is_stored=is_stored))

    async def _pass_whole(self) -> None:
        await self._pass()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def end(self) -> None:
        """Send what an application without the end of its body has left behind."""
        if self._start is not None and not self._is_answered and not self._passes.is_set():
            self._exchange.detail = "incomplete"
            await self._store.drop(self._exchange)
            await self._pass()

    async def failed(self, error: Exception) -> bool:
        """Answer with the stored response after an exception. Return whether there is one."""
        exchange = self._exchange
        if self._is_answered or self._passes.is_set():
            # A background task of the application, or a part of the body was sent.
            return False
        await self._store.refuse(exchange, "error", 500)
        if self._store_age_is_allowed():
            _log.warning("the application failed; the stored response was sent: %s", type(error).__name__)
            await self._answer_stale("error")
            return True
        if self._start is not None:
            # The client sees a cut response, as without the cache.
            await self._pass()
        return False
