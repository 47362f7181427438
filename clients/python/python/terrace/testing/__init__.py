"""A fake of the cache and a real server, for the tests of applications.

``Fake`` is a cache in memory with a manual clock and injected faults. ``Server`` runs the real server. The plugin for
pytest provides both as fixtures: see :mod:`terrace.testing.plugin`.
"""

from __future__ import annotations

from typing import Any

from .. import _core
from .._client import AsyncClient, Client
from ..errors import TerraceError
from ._server import BinaryNotFound, Server, StartFailed, find_binary

__all__ = ["BinaryNotFound", "Fake", "Server", "StartFailed", "find_binary"]

Kind = type[TerraceError]
Key = str | bytes


def _name(kind: Kind) -> str:
    """Return the name under which the extension module knows an exception."""
    if not (isinstance(kind, type) and issubclass(kind, TerraceError)):
        raise TypeError(f"the kind of a fault is {kind!r}; expected an exception class of terrace, such as Unavailable")
    return kind.__name__


class Fake(_core.CoreFake):
    """A cache in memory, with a manual clock, injected faults and counts.

    It has the operations of a server without L2. Its clients are ordinary clients, so that the code under test needs
    no change, and all logic of the client itself is tested with it.

    >>> fake = Fake()
    >>> client = fake.client()
    >>> client.set("user:1", "Ada", ttl="5m")
    True
    >>> fake.advance("5m")
    >>> client.get("user:1") is None
    True

    TTLs, leases and back-off follow the manual clock. Deadlines of operations and loads, :meth:`delay` and the
    heartbeats of ``watch`` follow the real clock. Nothing is evicted, and a client of a fake has no near cache.
    """

    def client(self, **settings: Any) -> Client:
        """Return a synchronous client of this cache. ``settings`` are those of :class:`terrace.Client`."""
        return Client("fake", _fake=self, **settings)

    def async_client(self, **settings: Any) -> AsyncClient:
        """Return a client for asyncio of this cache. ``settings`` are those of :class:`terrace.AsyncClient`."""
        return AsyncClient("fake", _fake=self, **settings)

    def fail(self, kind: Kind, message: str = "injected fault") -> None:
        """Make all operations fail until :meth:`recover`.

        Nothing is applied. Waiting callers fail at once, and change feeds end.
        """
        self._fail(_name(kind), message)

    def fail_key(self, key: Key, kind: Kind, message: str = "injected fault") -> None:
        """Make all operations on a key fail until :meth:`recover`.

        An operation on many keys fails if it has the key. Nothing is applied.
        """
        self._fail_key(key, _name(kind), message)

    def fail_next(self, count: int, kind: Kind) -> None:
        """Make the next ``count`` operations fail, after those of earlier calls. Nothing is applied."""
        self._fail_next(count, _name(kind))
