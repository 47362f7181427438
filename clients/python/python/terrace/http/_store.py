"""Looks up and stores responses. A failure of the cache never fails a request."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..codecs import RAW
from ..errors import TerraceError
from . import _fields as fields
from . import _policy as policy
from ._fields import Headers
from ._record import PASS, RESPONSE, VARY, Record, RecordCodec
from ._rules import Request, Rule

_log = logging.getLogger("terrace.http")
_MISSING: Any = object()
#: Lifetime in seconds of the names that the responses of a URL vary by.
_VARY_TTL = 86_400
#: Time in seconds for which the next request after a failed one does not wait for another one.
_FAILED_TTL = 1
#: More request headers than these are not stored: each combination of their values is a response of its own.
_VARY_MAX = 16


@dataclass(slots=True)
class Answer:
    """A response for the client."""

    status: int
    headers: Headers
    body: bytes


@dataclass(slots=True)
class Exchange:
    """One request: the stored response that answers it, or why the application must answer it."""

    rule: Rule
    request: Request
    key: str
    is_authorized: bool = False
    #: The stored response to answer with.
    record: Record | None = None
    #: A stored response for the case that the application fails.
    fallback: Record | None = None
    #: Permission to store the response of the application.
    grant: Any = None
    #: The key of ``grant``, which is ``key`` or one of its variants.
    slot: str = ""
    #: The names and the generation of the variants.
    vary: tuple[list[str], str] | None = None
    #: Why the application answers, of RFC 9211 2.2.
    forward: str = "miss"
    detail: str = ""
    #: The application must not be called: ``only-if-cached``.
    is_refused: bool = False

    @property
    def may_store(self) -> bool:
        """The response of the application is collected."""
        return self.grant is not None


@dataclass
class ResponseStore:
    """Responses in the cache.

    ``client`` is an ``AsyncClient``. ``name`` is the name of the cache in ``Cache-Status``; ``wait`` is the time for
    which a request waits for another one that loads the same response; ``uncacheable_ttl`` is the time for which
    requests do not wait for each other after a response that must not be stored.
    """

    client: Any
    prefix: str = "http:"
    name: str = "terrace"
    wait: Any = "3s"
    lease: Any = None
    uncacheable_ttl: Any = "10s"
    shows_key: bool = False
    clock: Callable[[], float] = time.time
    _codec: RecordCodec = field(default_factory=RecordCodec)

    async def find(self, rule: Rule, request: Request) -> Exchange:
        """Return the stored response, or a permission to store the response of the application."""
        is_authorized = request.header(b"authorization") is not None
        exchange = Exchange(rule, request, rule.key(request, self.prefix, is_authorized), is_authorized)
        asked = {} if rule.ignores_directives else request.directives()
        if _is_bypassed(request, asked):
            exchange.forward = "bypass"
            exchange.is_refused = "only-if-cached" in asked
            return exchange
        try:
            await self._find(exchange, asked)
        except TerraceError as error:
            _log.debug("the cache cannot answer; the application answers: %s", type(error).__name__)
            exchange.forward, exchange.detail = "miss", "unavailable"
        if exchange.record is None:
            exchange.is_refused = "only-if-cached" in asked
        return exchange

    async def _find(self, exchange: Exchange, asked: dict[str, str]) -> None:
        only_peek = exchange.request.method == "HEAD" or "only-if-cached" in asked
        reloads = _reloads(asked)
        exchange.slot, exchange.forward = exchange.key, "uri-miss"
        record: Record | None = None
        tags = exchange.rule.tags_of(exchange.request)
        # The URL, and then the variant that it names.
        for _ in range(2):
            if only_peek or (reloads and exchange.vary is None):
                record = await self.client.get(exchange.slot, codec=self._codec)
            else:
                record = await self._lease(exchange, tags, reloads)
            if record is None or record.kind != VARY or exchange.vary is not None:
                break
            await self.drop(exchange)
            exchange.vary = _vary(record)
            exchange.slot = exchange.key + exchange.vary[1] + Rule.variant(exchange.request, exchange.vary[0])
            exchange.forward = "vary-miss"
        if reloads and not only_peek and exchange.vary is None:
            record = await self._lease(exchange, tags, True) or record
        self._judge(exchange, record, asked)
        await self._settle(exchange, record, tags)

    async def _settle(self, exchange: Exchange, record: Record | None, tags: list[str]) -> None:
        """Keep the permission only for responses that need a refresh.

        The server knows the stale part of the rule, and not the one of a response with its own directives.
        """
        if record is None or exchange.record is None:
            return
        is_stale = record.age_at(self.clock()) > record.ttl
        grant = exchange.grant
        if grant is not None and not is_stale and grant.reason == "stale":
            await self.drop(exchange)
        elif grant is None and is_stale and record.revalidate > exchange.rule.stale:
            found = await self.client.get_or_lease(
                exchange.slot, lease=self.lease, wait=0, tags=tags, refresh=True, codec=self._codec
            )
            exchange.grant = found.grant

    async def _lease(self, exchange: Exchange, tags: list[str], refresh: bool) -> Record | None:
        """Return the stored record, and set the permission to load it."""
        rule = exchange.rule
        if not refresh:
            copy = self.client._near(exchange.slot, self._codec, _MISSING)
            if isinstance(copy, Record) and (copy.kind != RESPONSE or copy.age_at(self.clock()) <= copy.ttl):
                return copy
        # A value that cannot be decoded is loaded again.
        for forced in (refresh, True):
            found = await self.client.get_or_lease(
                exchange.slot, stale=rule.stale, lease=self.lease, wait=self.wait, tags=tags, refresh=forced,
                codec=self._codec,
            )  # fmt: skip
            exchange.grant = found.grant
            record: Record | None = found.value
            if found.kind != "hit" or record is not None or found.grant is not None:
                break
        if exchange.grant is not None and not exchange.grant.can_fill:
            exchange.grant = None
        if found.kind in ("busy", "failed"):
            exchange.detail = found.kind
        return record

    def _judge(self, exchange: Exchange, record: Record | None, asked: dict[str, str]) -> None:
        """Decide whether a stored response answers the request (RFC 9111 section 4)."""
        if record is None or record.kind == VARY:
            return
        if record.kind == PASS:
            exchange.forward, exchange.detail = "miss", "uncacheable"
            return
        age = record.age_at(self.clock())
        staleness = age - record.ttl
        exchange.forward = "stale" if staleness > 0 else "request"
        if staleness <= record.if_error:
            exchange.fallback = record
        if _reloads(asked) or not _accepts(record, age, asked):
            return
        if staleness <= record.revalidate:
            exchange.record = record

    async def store(self, exchange: Exchange, status: int, headers: Headers, body: bytes) -> tuple[Record, bool]:
        """Store a complete response. Return its record, and whether it was stored."""
        record = policy.record(exchange.rule, status, headers, body, self.clock())
        grant, exchange.grant = exchange.grant, None
        if grant is None:
            return record, False
        try:
            return record, await self._fill(exchange, grant, record)
        except (TerraceError, ValueError) as error:
            _log.warning("a response was not stored: %s", type(error).__name__)
            return record, False

    async def _fill(self, exchange: Exchange, grant: Any, record: Record) -> bool:
        names = fields.names(fields.joined(record.headers, b"vary") or b"")
        known = exchange.vary[0] if exchange.vary else []
        stale = max(record.revalidate, record.if_error)
        ttl = record.ttl - record.age
        if ttl <= 0:
            await grant.fill(Record(PASS).encode(), ttl=self.uncacheable_ttl, stale=0)
            return False
        if set(names) <= set(known):
            return bool(await grant.fill(record.encode(), ttl=ttl, stale=stale) == "stored")
        names = sorted({*names, *known})
        if len(names) > _VARY_MAX:
            await grant.fill(Record(PASS).encode(), ttl=self.uncacheable_ttl, stale=0)
            return False
        return await self._fill_variant(exchange, grant, record, names, ttl, stale)

    async def _fill_variant(
        self, exchange: Exchange, grant: Any, record: Record, names: list[str], ttl: float, stale: float
    ) -> bool:
        """Store a response whose ``Vary`` was not known.

        The grant proves that no tag was invalidated since the application began. The lease of the variant is taken
        before the grant is used, so that one of the two is in force at each time.
        """
        generation = secrets.token_hex(4)
        slot = exchange.key + "~" + generation + Rule.variant(exchange.request, names)
        tags = exchange.rule.tags_of(exchange.request)
        lease = await self.client.get_or_lease(slot, stale=exchange.rule.stale, wait=0, tags=tags, codec=self._codec)
        listed = Record(VARY, headers=[(b"~" + generation.encode(), ",".join(names).encode())]).encode()
        if exchange.vary is None:
            filled = await grant.fill(listed, ttl=_VARY_TTL, stale=0)
        else:
            # The response of the previous names is not read again.
            filled = await grant.fill(Record(PASS).encode(), ttl=_FAILED_TTL, stale=0)
            await self.client.set(exchange.key, listed, ttl=_VARY_TTL, tags=tags, codec=RAW)
        if lease.grant is None:
            return False
        if filled != "stored":
            await lease.grant.release()
            return False
        return bool(await lease.grant.fill(record.encode(), ttl=ttl, stale=stale) == "stored")

    async def refuse(self, exchange: Exchange, reason: str, status: int = 200) -> None:
        """End a load whose response must not be stored, so that other requests do not wait for each other."""
        exchange.detail = exchange.detail or reason
        grant, exchange.grant = exchange.grant, None
        if grant is None:
            return
        try:
            if status < 500:
                await grant.fill(Record(PASS).encode(), ttl=self.uncacheable_ttl, stale=0)
            elif exchange.fallback is not None:
                # The stored response remains, and the server delays the next attempt.
                await grant.fail(f"status {status}")
            else:
                await grant.fill(Record(PASS).encode(), ttl=_FAILED_TTL, stale=0)
        except TerraceError as error:
            _log.debug("the end of a load was not reported: %s", type(error).__name__)

    async def drop(self, exchange: Exchange) -> None:
        """Release the permission to store."""
        grant, exchange.grant = exchange.grant, None
        if grant is None:
            return
        try:
            await grant.release()
        except TerraceError as error:
            _log.debug("the end of a load was not reported: %s", type(error).__name__)

    async def forget(self, rule: Rule, request: Request) -> None:
        """Remove the responses of a URL, after a request that may have changed it (RFC 9111 4.4)."""
        keys = [rule.key(request, self.prefix, is_authorized) for is_authorized in (False, True)]
        try:
            await self.client.delete(*keys)
        except TerraceError as error:
            _log.warning("the responses of a changed URL were not removed: %s", type(error).__name__)

    def answer(self, exchange: Exchange, record: Record, *, is_hit: bool, is_stored: bool = False) -> Answer:
        """Return the response for the client: 304 if its copy is current."""
        age = record.age_at(self.clock())
        headers = list(record.headers)
        if is_hit or age >= 1:
            headers.append((b"age", b"%d" % age))
        headers.append((b"cache-status", self._status(exchange, record.ttl - int(age), is_hit, is_stored)))
        if _is_current(exchange.request, record):
            kept = (b"content-type", b"content-length", b"content-encoding", b"content-language")
            return Answer(304, [pair for pair in headers if pair[0] not in kept], b"")
        return Answer(record.status, headers, b"" if exchange.request.method == "HEAD" else record.body)

    def status(self, exchange: Exchange) -> bytes:
        """Return ``Cache-Status`` of a response that is not stored."""
        return self._status(exchange, None, False, False)

    def _status(self, exchange: Exchange, ttl: float | None, is_hit: bool, is_stored: bool) -> bytes:
        parts = [self.name, "hit" if is_hit else f"fwd={exchange.forward}"]
        if is_stored:
            parts.append("stored")
        if ttl is not None and (is_hit or is_stored):
            parts.append(f"ttl={int(ttl)}")
        if self.shows_key:
            text = "".join(letter if " " <= letter <= "~" else "?" for letter in exchange.key)
            parts.append('key="' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
        if exchange.detail and not is_hit and not is_stored:
            parts.append(f"detail={exchange.detail}")
        return "; ".join(parts).encode()


def _vary(record: Record) -> tuple[list[str], str]:
    (generation, names) = record.headers[0] if record.headers else (b"", b"")
    return fields.names(names), generation.decode()


def _is_bypassed(request: Request, asked: dict[str, str]) -> bool:
    """Return whether the cache has no part in a request."""
    special = (b"range", b"if-match", b"if-unmodified-since", b"upgrade")
    return "no-store" in asked or request.has_body or any(request.header(name) is not None for name in special)


def _reloads(asked: dict[str, str]) -> bool:
    return "no-cache" in asked or fields.seconds(asked, "max-age") == 0


def _accepts(record: Record, age: float, asked: dict[str, str]) -> bool:
    """Return whether a request accepts a response of this age (RFC 9111 5.2.1)."""
    oldest, freshest = fields.seconds(asked, "max-age"), fields.seconds(asked, "min-fresh")
    if oldest is not None and age > oldest and "max-stale" not in asked:
        return False
    if freshest is not None and record.ttl - age < freshest:
        return False
    stalest = fields.seconds(asked, "max-stale") if asked.get("max-stale") else None
    return stalest is None or age - record.ttl <= stalest


def _is_current(request: Request, record: Record) -> bool:
    """Return whether the copy of the client is current (RFC 9110 13.2.2)."""
    if record.status != 200:
        return False
    asked = request.header(b"if-none-match")
    if asked is not None:
        etag = fields.joined(record.headers, b"etag")
        return etag is not None and fields.matches_etag(asked, etag)
    since = fields.date(request.header(b"if-modified-since"))
    changed = fields.date(fields.joined(record.headers, b"last-modified"))
    return since is not None and changed is not None and changed <= since
