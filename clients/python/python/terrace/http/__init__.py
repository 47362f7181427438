"""Caching of HTTP responses: rules, RFC 9111, and the encoding of stored responses. ``terrace.asgi`` uses it."""

from __future__ import annotations

from ._rules import Request, Rule
from ._store import Answer, Exchange, ResponseStore

__all__ = ["Answer", "Exchange", "Request", "ResponseStore", "Rule"]
