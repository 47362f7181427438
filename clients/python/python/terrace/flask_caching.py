"""Cache backend for Flask-Caching.

>>> app.config["CACHE_TYPE"] = "terrace.flask_caching.TerraceCache"
>>> app.config["CACHE_TERRACE_TARGET"] = "cache-a:7400,cache-b:7400"
>>> app.config["CACHE_KEY_PREFIX"] = "shop:"
>>> cache = Cache(app)
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

from flask_caching.backends.base import BaseCache

from . import _backends
from .codecs import RAW
from .errors import DecodeError, FailedPrecondition, TerraceError

__all__ = ["TerraceCache"]

_log = logging.getLogger("terrace.flask_caching")


class TerraceCache(BaseCache):
    """Cache backend. A read that fails is logged and counts as absent, as Flask-Caching's other backends do it.

    A timeout of 0 means no TTL, and ``None`` the default timeout.
    """

    def __init__(
        self,
        target: Any = "127.0.0.1:7400",
        default_timeout: int = 300,
        key_prefix: str | None = None,
        ignore_delete_many_errors: bool = False,
        codec: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(default_timeout=default_timeout, ignore_delete_many_errors=ignore_delete_many_errors)
        self.key_prefix = "flask:" if key_prefix is None else key_prefix
        if unknown := sorted(options.keys() - set(_backends.CLIENT_OPTIONS)):
            known = sorted({*_backends.CLIENT_OPTIONS, "codec"})
            raise ValueError(f"CACHE_OPTIONS has {unknown}; expected some of {known}")
        self._codec = _backends.codec(codec)
        self._target = _backends.target(target)
        self._options = options

    @classmethod
    def factory(cls, app: Any, config: Any, args: Any, kwargs: Any) -> TerraceCache:
        """Create the backend of an application: ``CACHE_OPTIONS`` has the arguments of the client."""
        arguments = dict(kwargs)
        if not args:
            arguments.setdefault("target", config.get("CACHE_TERRACE_TARGET", "127.0.0.1:7400"))
        # Flask-Caching's own default is "flask_cache_".
        if config.get("CACHE_KEY_PREFIX") is not None:
            arguments["key_prefix"] = config["CACHE_KEY_PREFIX"]
        return cls(*args, **arguments)

    @functools.cached_property
    def _client(self) -> Any:
        return _backends.client(False, self._target, self._options, self.key_prefix)

    def _key(self, key: str) -> str:
        return self.key_prefix + key

    def _ttl(self, timeout: Any) -> Any:
        seconds = self._normalize_timeout(timeout)
        return None if seconds == 0 else seconds

    def get(self, key: str) -> Any:
        """Return a value; ``None`` for an absent key."""
        try:
            return self._client.get(self._key(key), codec=self._codec)
        except (TerraceError, DecodeError) as error:
            _log.warning("a read failed and counts as absent: %s", type(error).__name__)
            return None

    def get_many(self, *keys: str) -> list[Any]:
        """Return values; ``None`` for absent keys."""
        if not keys:
            return []
        try:
            found = self._client.get_many([self._key(key) for key in keys], codec=RAW)
            return [None if data is None else self._decoded(data) for data in found]
        except TerraceError as error:
            _log.warning("a read failed and counts as absent: %s", type(error).__name__)
            return [None] * len(keys)

    def _decoded(self, data: bytes) -> Any:
        try:
            return self._codec.decode(data)
        except Exception as error:  # noqa: BLE001 - of the codec
            _log.warning("a value cannot be decoded and counts as absent: %s", type(error).__name__)
            return None

    def has(self, key: str) -> bool:
        """Return whether a key is present."""
        try:
            return self._client.get(self._key(key), codec=RAW) is not None
        except TerraceError as error:
            _log.warning("a read failed and counts as absent: %s", type(error).__name__)
            return False

    def set(self, key: str, value: Any, timeout: Any = None) -> bool:
        """Store a value. Return whether it was stored."""
        return self._store(key, value, timeout, False)

    def add(self, key: str, value: Any, timeout: Any = None) -> bool:
        """Store a value if the key is absent. Return whether it was stored."""
        return self._store(key, value, timeout, True)

    def _store(self, key: str, value: Any, timeout: Any, if_absent: bool) -> bool:
        ttl = self._ttl(timeout)
        if ttl is not None and ttl < 0:
            # An end in the past.
            return if_absent or self.delete(key)
        try:
            return bool(self._client.set(self._key(key), value, ttl=ttl, if_absent=if_absent, codec=self._codec))
        except TerraceError as error:
            _log.warning("a value was not stored: %s", type(error).__name__)
            return False

    def set_many(self, mapping: Mapping[str, Any], timeout: Any = None) -> list[str]:
        """Store values. Return the keys that were stored."""
        if not mapping:
            return []
        entries = {self._key(key): value for key, value in mapping.items()}
        try:
            results = self._client.set_many_each(entries, ttl=self._ttl(timeout), codec=self._codec)
        except TerraceError as error:
            _log.warning("values were not stored: %s", type(error).__name__)
            return []
        return [key for key, result in zip(mapping, results, strict=True) if not isinstance(result, BaseException)]

    def delete(self, key: str) -> bool:
        """Remove a key. Return whether it was present."""
        return bool(self._client.delete(self._key(key)))

    def delete_many(self, *keys: str) -> list[str]:
        """Remove keys. Return the keys that are absent now."""
        if keys:
            self._client.delete(*(self._key(key) for key in keys))
        return list(keys)

    def clear(self) -> bool:
        """Remove the keys with this prefix; all keys of the cache without a prefix."""
        self._client.invalidate_prefix(self.key_prefix)
        return True

    def inc(self, key: str, delta: int = 1) -> int | None:
        """Add to an integer atomically; an absent key is 0. Return the sum; ``None`` if the value is no integer."""
        try:
            return int(self._client.increment(self._key(key), delta, ttl=self._ttl(None)))
        except FailedPrecondition:
            return None

    def dec(self, key: str, delta: int = 1) -> int | None:
        """Subtract from an integer atomically."""
        return self.inc(key, -delta)
