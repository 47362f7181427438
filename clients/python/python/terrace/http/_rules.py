"""Which requests are cached, and how."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote_plus

from ._fields import Headers, directives, joined

#: Longer keys have a digest instead of their end.
KEY_MAX = 480
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
_SAFE = "/:@!$&'()*+,;=~-._"
_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")

#: Text that a template such as ``product:{id}`` becomes, or a function of the request.
Tags = Iterable[str] | Callable[["Request"], Iterable[str]]


def span(value: Any, what: str) -> float:
    """Return a duration in seconds: of a number, a ``timedelta`` or a text such as ``"5m"``."""
    if isinstance(value, datetime.timedelta):
        number = value.total_seconds()
    elif isinstance(value, str):
        number = _text_span(value, what)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    else:
        raise TypeError(f'{what} is {type(value).__name__}; expected seconds, a timedelta or a text such as "5m"')
    if not 0 <= number < 1 << 31:
        raise ValueError(f"{what} is {number} s; expected 0 to 2147483647 seconds")
    return number


def _text_span(text: str, what: str) -> float:
    parts = _SPAN.findall(text)
    if not parts or _SPAN.sub("", text) or any(unit not in _UNITS for _, unit in parts):
        raise ValueError(f'{what} is {text!r}; expected a text such as "30s", "5m" or "1h 30m"')
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class Request:
    """A request, of an ASGI scope."""

    __slots__ = ("headers", "host", "method", "params", "path", "query_string", "scheme", "scope")

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query_string: bytes = scope.get("query_string", b"")
        self.headers: Headers = list(scope["headers"])
        self.scheme: str = scope.get("scheme", "http")
        self.host: bytes = self.header(b"host") or b""
        #: Values of the fields of the rule's path, such as ``{"id": "7"}``.
        self.params: Mapping[str, str] = {}

    def header(self, name: bytes) -> bytes | None:
        """Return the lines of a header field as one list; ``None`` without the field."""
        return joined(self.headers, name)

    def directives(self) -> dict[str, str]:
        """Return the directives of ``Cache-Control``, or of ``Pragma`` without it (RFC 9111 5.4)."""
        found = directives(self.headers)
        if not found and "no-cache" in directives(self.headers, b"pragma"):
            return {"no-cache": ""}
        return found

    @property
    def has_body(self) -> bool:
        """The request has content, which is not a part of the key."""
        return (self.header(b"content-length") or b"0").strip() != b"0" or self.header(b"transfer-encoding") is not None


class Rule:
    """Caches the responses to some requests.

    ``path``: ``/products/{id}``, where a field stands for one part of the path; ``*`` at the end stands for any rest.
    ``when``: a function of the request, instead of or in addition to ``path``. ``query``: names of the query parameters
    that count; ``None``: all. ``vary``: request headers that are a part of the key of each response, in addition to
    those that a response names in ``Vary``. ``host``: the scheme and the host are a part of the key.
    """

    __slots__ = (
        "cache_control", "host", "ignore_query", "ignores_directives", "max_body", "pattern", "query", "stale",
        "statuses", "tags", "ttl", "vary", "when",
    )  # fmt: skip

    def __init__(
        self,
        path: str | None = None,
        *,
        ttl: Any,
        stale: Any = 0,
        tags: Tags = (),
        when: Callable[[Request], bool] | None = None,
        query: Collection[str] | None = None,
        ignore_query: Collection[str] = (),
        vary: Iterable[str] = (),
        host: bool = False,
        statuses: Collection[int] = (200, 203),
        max_body: int = 1 << 20,
        cache_control: str | None = None,
        ignore_request_directives: bool = False,
    ) -> None:
        if path is not None and not path.startswith("/"):
            raise ValueError(f"the path of a rule is {path!r}; expected a text that begins with /")
        for name, value in (("tags", tags), ("query", query), ("ignore_query", ignore_query), ("vary", vary)):
            if isinstance(value, (str, bytes)):
                raise TypeError(f"{name} is one {type(value).__name__}; expected a list")
        if bad := [status for status in statuses if not 200 <= status <= 599 or status in (206, 304)]:
            raise ValueError(f"statuses has {bad}; expected 200 to 599 without 206 and 304")
        if max_body < 0:
            raise ValueError(f"max_body is {max_body}; expected 0 or more bytes")
        self.pattern = None if path is None else _pattern(path)
        self.ttl = span(ttl, "ttl")
        self.stale = span(stale, "stale")
        self.tags = tags if callable(tags) else [str(tag) for tag in tags]
        if self.pattern is not None and not callable(self.tags):
            _check_tags(self.tags, set(self.pattern.groupindex), path)
        self.when = when
        self.query = None if query is None else frozenset(query)
        self.ignore_query = frozenset(ignore_query)
        self.vary = sorted({name.lower() for name in vary})
        self.host = host
        self.statuses = frozenset(statuses)
        self.max_body = max_body
        self.cache_control = None if cache_control is None else cache_control.encode("latin-1")
        self.ignores_directives = ignore_request_directives

    def matches(self, request: Request) -> bool:
        """Return whether the rule is for the request, and set the ``params`` of the request."""
        if self.pattern is not None:
            found = self.pattern.fullmatch(request.path)
            if found is None:
                return False
            request.params = found.groupdict()
        return self.when is None or bool(self.when(request))

    def tags_of(self, request: Request) -> list[str]:
        """Return the tags of a response."""
        if callable(self.tags):
            return [str(tag) for tag in self.tags(request)]
        # A tag without the value would be shared by all responses.
        return [_FIELD.sub(lambda field: str(request.params[field[1]]), tag) for tag in self.tags]

    def key(self, request: Request, prefix: str, is_authorized: bool) -> str:
        """Return the key of the responses for a URL, without the headers that they vary by."""
        place = f"{request.scheme}://{quote(request.host, _SAFE)}" if self.host else ""
        query = b"&".join(self._query(request.query_string)).decode("latin-1")
        vary = self.variant(request, self.vary) if self.vary else ""
        # The responses to requests with Authorization are not shared with other requests.
        mark = "auth:" if is_authorized else ""
        rest = f"{place}{quote(request.path, _SAFE)}{'?' + query if query else ''}"
        return prefix + mark + shortened(rest, vary)

    def _query(self, query_string: bytes) -> list[bytes]:
        """Return the parameters that count, as they were sent, sorted by name. The order of equal names matters."""
        parameters = []
        for part in query_string.split(b"&"):
            raw = part.partition(b"=")[0]
            name = unquote_plus(raw.decode("latin-1"))
            counts = self.query is None or name in self.query
            if part and counts and not self._is_ignored(name):
                parameters.append((name, part))
        return [part for _, part in sorted(parameters, key=lambda parameter: parameter[0])]

    def _is_ignored(self, name: str) -> bool:
        return any(
            name.startswith(ignored[:-1]) if ignored.endswith("*") else name == ignored for ignored in self.ignore_query
        )

    @staticmethod
    def variant(request: Request, names: Iterable[str]) -> str:
        """Return the digest of the values of request headers."""
        digest = hashlib.sha256()
        for name in names:
            value = request.header(name.encode("latin-1"))
            # RFC 9111 4.1: white space between the members of a list does not count.
            parts = b"-" if value is None else b"+" + b",".join(part.strip() for part in value.split(b","))
            digest.update(b"%s\0%d\0%s" % (name.encode("latin-1"), len(parts), parts))
        return "#" + digest.hexdigest()[:32]


def shortened(text: str, end: str) -> str:
    """Return the text and its end, with a digest instead of a part of the text if it is long."""
    # `~` is not the first character after a path of this length otherwise: the digest is of the whole text.
    if len(text) <= KEY_MAX:
        return text + end
    return f"{text[:KEY_MAX]}~{hashlib.sha256(text.encode()).hexdigest()}{end}"


def _check_tags(tags: list[str], known: set[str], path: Any) -> None:
    used = {name for tag in tags for name in _FIELD.findall(tag)}
    if unknown := sorted(used - known):
        raise ValueError(f"tags has the fields {unknown}, which the path {path!r} does not have")


def _pattern(path: str) -> re.Pattern[str]:
    """Return the expression of a path."""
    base, is_open = (path[:-1], True) if path.endswith("*") else (path, False)
    parts = []
    place = 0
    for found in _FIELD.finditer(base):
        parts += [re.escape(base[place : found.start()]), f"(?P<{found[1]}>[^/]+)"]
        place = found.end()
    parts.append(re.escape(base[place:]))
    return re.compile("".join(parts) + (".*" if is_open else ""), re.DOTALL)
