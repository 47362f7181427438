"""Client of the Terrace cache server.

>>> import terrace
>>> client = terrace.Client("127.0.0.1:7400")
>>> client.set("user:1", "Ada", ttl="5m")
True
>>> client.get("user:1")
b'Ada'

``Client`` is synchronous, ``AsyncClient`` is for asyncio; both have the same methods. ``get_or_load`` and the decorator
``cached`` load absent keys from their origin, once for all processes.
"""

from __future__ import annotations

import os as _os

from . import _core
from ._cached import AsyncCached, Cached, Explanation, Ignore
from ._client import AsyncClient, Client
from ._core import Entry, Event, Feed, Grant, Lease, NearCache, Tls
from ._load import Loaded
from ._types import Duration, OnUnavailable, Size
from .codecs import Codec, Json, Pickle, Raw, Text
from .errors import (
    DeadlineExceeded,
    DecodeError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    LoadFailed,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    ResourceExhausted,
    TerraceError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

__all__ = [
    "AsyncCached",
    "AsyncClient",
    "Cached",
    "Client",
    "Codec",
    "DeadlineExceeded",
    "DecodeError",
    "Duration",
    "Entry",
    "Event",
    "Explanation",
    "FailedPrecondition",
    "Feed",
    "Grant",
    "Ignore",
    "Internal",
    "InvalidArgument",
    "Json",
    "Lease",
    "LoadFailed",
    "Loaded",
    "NearCache",
    "NotFound",
    "OnUnavailable",
    "OutcomeUnknown",
    "PermissionDenied",
    "Pickle",
    "Raw",
    "ResourceExhausted",
    "Size",
    "TerraceError",
    "Text",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]

__version__ = "0.1.0"


def _forked() -> None:
    """Leave the connections of the parent: a child has its own ones."""
    for descriptor in _core.forked():
        _os.close(descriptor)


if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(after_in_child=_forked)
