"""Which responses are stored, and for how long (RFC 9111 section 3 and 4.2)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from . import _fields as fields
from ._fields import Headers
from ._record import RESPONSE, Record
from ._rules import Rule

#: Streams without an end, which must not be collected.
_ENDLESS = (b"text/event-stream", b"multipart/x-mixed-replace")
_NEVER = ("no-store", "private", "no-cache")


@dataclass(slots=True)
class Life:
    """Times of a stored response in seconds."""

    ttl: float
    revalidate: float
    if_error: float


def refusal(rule: Rule, status: int, headers: Headers, is_authorized: bool) -> str | None:
    """Return why a response must not be stored; ``None`` if it can be."""
    found = fields.directives(headers)
    if status not in rule.statuses:
        return "status"
    if any(name == b"set-cookie" for name, _ in headers):
        return "set-cookie"
    if any(name in found for name in _NEVER):
        return "cache-control"
    if is_authorized and "public" not in found and "s-maxage" not in found:
        return "authorization"
    if "*" in fields.names(fields.joined(headers, b"vary") or b""):
        return "vary"
    if (fields.joined(headers, b"content-type") or b"").lower().startswith(_ENDLESS):
        return "stream"
    if fields.joined(headers, b"content-range") is not None:
        return "partial"
    length = fields.joined(headers, b"content-length")
    if length is not None and not (length.isdigit() and int(length) <= rule.max_body):
        return "size"
    return None if life(rule, headers, 0.0).ttl > 0 else "ttl"


def life(rule: Rule, headers: Headers, now: float) -> Life:
    """Return the times of a response: of its own directives, otherwise of the rule."""
    found = fields.directives(headers)
    ttl = _ttl(found, headers, now)
    stale = rule.stale
    if "must-revalidate" in found or "proxy-revalidate" in found:
        # RFC 9111 5.2.2.2: never stale, not even after an error.
        return Life(rule.ttl if ttl is None else ttl, 0.0, 0.0)
    if "s-maxage" in found:
        # RFC 9111 5.2.2.10: as proxy-revalidate. RFC 5861 directives of the same response are explicit.
        stale = 0.0
    revalidate, if_error = (fields.seconds(found, f"stale-{name}") for name in ("while-revalidate", "if-error"))
    return Life(
        rule.ttl if ttl is None else ttl,
        stale if revalidate is None else revalidate,
        stale if if_error is None else if_error,
    )


def _ttl(found: dict[str, str], headers: Headers, now: float) -> float | None:
    """Return the freshness lifetime that the application specifies (RFC 9111 4.2.1)."""
    for name in ("s-maxage", "max-age"):
        age = fields.seconds(found, name)
        if age is not None:
            return float(age)
    expires = fields.joined(headers, b"expires")
    if expires is None:
        return None
    at, sent = fields.date(expires), fields.date(fields.joined(headers, b"date"))
    return 0.0 if at is None else max(0.0, at - (now if sent is None else sent))


def record(rule: Rule, status: int, headers: Headers, body: bytes, now: float) -> Record:
    """Return the record of a response, with its validator and its lifetime."""
    span = life(rule, headers, now)
    text = fields.joined(headers, b"age") or b""
    age = float(min(int(text), 1 << 31)) if text.isdigit() and len(text) < 20 else 0.0
    kept = fields.storable(headers)
    present = {name for name, _ in kept}
    if b"etag" not in present:
        kept.append((b"etag", etag(body)))
    if b"content-length" not in present:
        kept.append((b"content-length", b"%d" % len(body)))
    if rule.cache_control is not None:
        kept = [pair for pair in kept if pair[0] not in (b"cache-control", b"expires")]
        kept.append((b"cache-control", rule.cache_control))
    elif b"cache-control" not in present and b"expires" not in present:
        kept.append((b"cache-control", _cache_control(span)))
    return Record(RESPONSE, status, now, age, span.ttl, span.revalidate, span.if_error, kept, body)


def etag(body: bytes) -> bytes:
    """Return a strong validator of a body."""
    return b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode()


def _cache_control(span: Life) -> bytes:
    parts = [f"max-age={int(span.ttl)}"]
    if span.revalidate >= 1:
        parts.append(f"stale-while-revalidate={int(span.revalidate)}")
    if span.if_error >= 1:
        parts.append(f"stale-if-error={int(span.if_error)}")
    return ", ".join(parts).encode()
