"""Parts that the cache backends of Django, Flask-Caching and dogpile.cache share."""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from ._client import AsyncClient, Client
from ._core import NearCache, Tls
from .codecs import Pickle

#: Options that become arguments of a client.
CLIENT_OPTIONS = (
    ("near_cache", "tls", "token", "token_file", "routing", "read_timeout", "write_timeout", "connect_timeout")
    + ("max_message", "retry_writes")
)  # fmt: skip
_NUMBER = re.compile(rb"-?[0-9]{1,19}")
_I64 = range(-(1 << 63), 1 << 63)

_clients: dict[tuple[Any, ...], Any] = {}
_lock = threading.Lock()


class Numbers:
    """A codec with integers as decimal text, so that the server can increment them."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec

    def encode(self, value: Any, /) -> bytes:
        """Return the bytes of a value."""
        # A bool is not a number here.
        if type(value) is int and value in _I64:
            return b"%d" % value
        encoded: bytes = self._codec.encode(value)
        return encoded

    def decode(self, data: bytes, /) -> Any:
        """Return the value of these bytes."""
        return int(data) if _NUMBER.fullmatch(data) else self._codec.decode(data)


def codec(named: Any) -> Numbers:
    """Return a codec: of an object, a class or its dotted name; ``None`` means pickle."""
    if isinstance(named, str):
        module, _, name = named.rpartition(".")
        try:
            named = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"the codec {named!r} cannot be imported: {error}") from error
    if isinstance(named, type):
        named = named()
    if named is None:
        named = Pickle()
    if not (hasattr(named, "encode") and hasattr(named, "decode")):
        raise TypeError(f"the codec is {type(named).__name__}; expected an object with encode and decode")
    return Numbers(named)


def target(location: Any) -> str:
    """Return the target of a client, of a text or a list of addresses."""
    if isinstance(location, str):
        return location or "127.0.0.1:7400"
    if isinstance(location, Iterable):
        return ",".join(str(address) for address in location)
    raise TypeError(f"the address of the cache is {type(location).__name__}; expected a text or a list of texts")


def client(is_async: bool, location: Any, options: Mapping[str, Any], prefix: str) -> Any:
    """Return the client for these settings. All backends of a process with equal settings share it."""
    if unknown := sorted(options.keys() - set(CLIENT_OPTIONS)):
        raise TypeError(f"unknown options {unknown}; expected some of {sorted(CLIENT_OPTIONS)}")
    key = (is_async, target(location), prefix, repr(sorted(options.items())))
    with _lock:
        if key not in _clients:
            kind = AsyncClient if is_async else Client
            _clients[key] = kind(target(location), **_arguments(options, prefix))
        return _clients[key]


def _arguments(options: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    arguments = dict(options)
    near, tls = arguments.get("near_cache"), arguments.get("tls")
    if near is True:
        near = {}
    if isinstance(near, Mapping):
        # Callers may change the objects that they receive.
        arguments["near_cache"] = NearCache(**{"prefixes": [prefix], "copy": True, **near})
    elif near is False:
        arguments["near_cache"] = None
    if isinstance(tls, Mapping):
        arguments["tls"] = Tls(**tls)
    return arguments
