"""Header fields: lists of pairs of bytes with names in lower case, as in ASGI."""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

Headers = list[tuple[bytes, bytes]]

_DIRECTIVE = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^,]*)))?[^,]*(?:,|$)')
_ETAG = re.compile(rb'(?:W/)?"[^"]*"')

#: Fields of a connection, not of a response (RFC 9110 7.6.1), and fields that each answer has anew.
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authentication-info", b"proxy-connection")
    + (b"te", b"trailer", b"transfer-encoding", b"upgrade", b"age", b"cache-status")
)


def all_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the values of a field, in order."""
    return [value for field, value in headers if field.lower() == name]


def joined(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the lines of a field as one list; ``None`` without the field."""
    values = all_values(headers, name)
    return b", ".join(values) if values else None


def directives(headers: Iterable[tuple[bytes, bytes]], name: bytes = b"cache-control") -> dict[str, str]:
    """Return the directives of ``Cache-Control``; those without a value have an empty text."""
    found: dict[str, str] = {}
    for line in all_values(headers, name):
        for directive, quoted, token in _DIRECTIVE.findall(line.decode("latin-1")):
            # RFC 9111 4.2.1: of repeated directives, the first one may be used.
            found.setdefault(directive.lower(), (quoted or token).strip())
    return found


def seconds(found: dict[str, str], name: str) -> int | None:
    """Return the value of a directive; 0 if it is not a number, ``None`` without the directive."""
    text = found.get(name)
    if text is None:
        return None
    # RFC 9111 1.2.2: larger values mean 2^31. RFC 9111 4.2.1: an invalid value means stale.
    return min(int(text), 1 << 31) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def date(value: bytes | None) -> float | None:
    """Return the time of a date in seconds; ``None`` if it is absent or invalid."""
    try:
        return None if value is None else parsedate_to_datetime(value.decode("latin-1")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def names(value: bytes) -> list[str]:
    """Return the field names of a list such as ``Vary``, sorted and in lower case."""
    return sorted({name.strip().lower() for name in value.decode("latin-1").split(",") if name.strip()})


def matches_etag(asked: bytes, etag: bytes) -> bool:
    """Return whether ``If-None-Match`` matches, by the weak comparison of RFC 9110 8.8.3.2."""
    if asked.strip() == b"*":
        return True
    opaque = etag.removeprefix(b"W/")
    return any(tag.removeprefix(b"W/") == opaque for tag in _ETAG.findall(asked))


def storable(headers: Headers) -> Headers:
    """Return the fields of a response that are stored with it (RFC 9111 3.1)."""
    connection = joined(headers, b"connection")
    dropped = _HOP_BY_HOP | {name.encode("latin-1") for name in names(connection or b"")}
    return [(name.lower(), value) for name, value in headers if name.lower() not in dropped]
