"""Cache backend for Django.

>>> CACHES = {
...     "default": {
...         "BACKEND": "terrace.django.TerraceCache",
...         "LOCATION": "cache-a:7400,cache-b:7400",
...         "OPTIONS": {"prefix": "shop:", "near_cache": {"max_bytes": "32MiB"}},
...     }
... }

The methods with ``a``, such as ``aget``, are native coroutines.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Django has no type hints.
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, default_key_func  # type: ignore[import-untyped]
from django.core.exceptions import ImproperlyConfigured  # type: ignore[import-untyped]

from . import _backends
from .codecs import RAW
from .errors import FailedPrecondition

__all__ = ["TerraceCache"]

#: Options of Django's other backends, which the server's settings replace.
_UNUSED = {"MAX_ENTRIES", "CULL_FREQUENCY"}
#: TTL in seconds of a number that expires between the two parts of ``incr``.
_GONE = 0.001


class TerraceCache(BaseCache):  # type: ignore[misc]
    """Cache backend. All backends of a process with equal settings share one client."""

    def __init__(self, location: Any, params: dict[str, Any]) -> None:
        super().__init__(params)
        options = {name: value for name, value in (params.get("OPTIONS") or {}).items() if name not in _UNUSED}
        self._prefix = str(options.pop("prefix", "django:"))
        try:
            self._codec = _backends.codec(options.pop("codec", None))
            self._location = _backends.target(location)
            if unknown := sorted(options.keys() - set(_backends.CLIENT_OPTIONS)):
                known = sorted({*_backends.CLIENT_OPTIONS, "codec", "prefix"})
                raise ValueError(f"OPTIONS has {unknown}; expected some of {known}")
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"terrace.django.TerraceCache: {error}") from error
        self._options = options

    @functools.cached_property
    def _sync(self) -> Any:
        return _backends.client(False, self._location, self._options, self._prefix)

    @functools.cached_property
    def _async(self) -> Any:
        return _backends.client(True, self._location, self._options, self._prefix)

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> Any:
        """Return the TTL in seconds; ``None`` for a key without one."""
        if timeout == DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else max(0, timeout)

    def _key(self, key: Any, version: int | None) -> str:
        return self._prefix + str(self.make_and_validate_key(key, version=version))

    def _keys(self, keys: Iterable[Any], version: int | None) -> dict[str, Any]:
        return {self._key(key, version): key for key in keys}

    @property
    def _cleared(self) -> str:
        """The prefix of all keys of this cache."""
        return f"{self._prefix}{self.key_prefix}:" if self.key_func is default_key_func else self._prefix

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store a value if the key is absent. Return whether it was stored."""
        name, ttl = self._key(key, version), self.get_backend_timeout(timeout)
        if ttl == 0:
            return self._sync.get(name, codec=RAW) is None
        return bool(self._sync.set(name, value, ttl=ttl, if_absent=True, codec=self._codec))

    async def aadd(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store a value if the key is absent. Return whether it was stored."""
        name, ttl = self._key(key, version), self.get_backend_timeout(timeout)
        if ttl == 0:
            return await self._async.get(name, codec=RAW) is None
        return bool(await self._async.set(name, value, ttl=ttl, if_absent=True, codec=self._codec))

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Return a value, or the default."""
        return self._sync.get(self._key(key, version), default, codec=self._codec)

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Return a value, or the default."""
        return await self._async.get(self._key(key, version), default, codec=self._codec)

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Store a value."""
        name, ttl = self._key(key, version), self.get_backend_timeout(timeout)
        if ttl == 0:
            self._sync.delete(name)
        else:
            self._sync.set(name, value, ttl=ttl, codec=self._codec)

    async def aset(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Store a value."""
        name, ttl = self._key(key, version), self.get_backend_timeout(timeout)
        if ttl == 0:
            await self._async.delete(name)
        else:
            await self._async.set(name, value, ttl=ttl, codec=self._codec)

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Set the TTL of a key. Return whether the key was found."""
        name, ttl = self._key(key, version), self.get_backend_timeout(timeout)
        return bool(self._sync.delete(name) if ttl == 0 else self._sync.touch(name, ttl)["found"])

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Set the TTL of a key. Return whether the key was found."""
        name, ttl = self._key(key, version), self.get_backend_timeout(timeout)
        if ttl == 0:
            return bool(await self._async.delete(name))
        return bool((await self._async.touch(name, ttl))["found"])

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Remove a key. Return whether it was present."""
        return bool(self._sync.delete(self._key(key, version)))

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        """Remove a key. Return whether it was present."""
        return bool(await self._async.delete(self._key(key, version)))

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Return the values of the keys that are present."""
        names = self._keys(keys, version)
        return self._found(names, self._sync.get_many(list(names), codec=RAW) if names else [])

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Return the values of the keys that are present."""
        names = self._keys(keys, version)
        return self._found(names, await self._async.get_many(list(names), codec=RAW) if names else [])

    def _found(self, names: dict[str, Any], values: list[bytes | None]) -> dict[Any, Any]:
        # A cached None differs from an absent key.
        pairs = zip(names.values(), values, strict=True)
        return {key: self._codec.decode(value) for key, value in pairs if value is not None}

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """Store values. Return the keys that were not stored; raise an exception if none was."""
        names, ttl = self._keys(data, version), self.get_backend_timeout(timeout)
        if not names:
            return []
        if ttl == 0:
            self._sync.delete(*names)
            return []
        entries = {name: data[key] for name, key in names.items()}
        return _failed(names, self._sync.set_many_each(entries, ttl=ttl, codec=self._codec))

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """Store values. Return the keys that were not stored; raise an exception if none was."""
        names, ttl = self._keys(data, version), self.get_backend_timeout(timeout)
        if not names:
            return []
        if ttl == 0:
            await self._async.delete(*names)
            return []
        entries = {name: data[key] for name, key in names.items()}
        return _failed(names, await self._async.set_many_each(entries, ttl=ttl, codec=self._codec))

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Remove keys."""
        if names := self._keys(keys, version):
            self._sync.delete(*names)

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Remove keys."""
        if names := self._keys(keys, version):
            await self._async.delete(*names)

    def get_or_set(self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> Any:
        """Return a value, or store the default: one process calls it, and the others wait for its result."""
        name, ttl = self._key(key, version), self.get_backend_timeout(timeout)
        load = default if callable(default) else lambda: default
        if ttl == 0:
            value = self._sync.get(name, self._missing_key, codec=self._codec)
            return load() if value is self._missing_key else value
        return self._sync.get_or_load(name, load, ttl=ttl, stale=0, codec=self._codec)

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """Return a value, or store the default: one process calls it, and the others wait for its result."""
        name, ttl = self._key(key, version), self.get_backend_timeout(timeout)
        load: Callable[[], Any] = default if callable(default) else lambda: default
        if ttl == 0:
            value = await self._async.get(name, self._missing_key, codec=self._codec)
            return load() if value is self._missing_key else value
        return await self._async.get_or_load(name, load, ttl=ttl, stale=0, codec=self._codec)

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Return whether a key is present."""
        return self._sync.get(self._key(key, version), codec=RAW) is not None

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        """Return whether a key is present."""
        return await self._async.get(self._key(key, version), codec=RAW) is not None

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to an integer atomically. Its TTL does not change."""
        name = self._key(key, version)
        if self._sync.get(name, codec=RAW) is None:
            raise ValueError(f"Key '{key}' not found")
        try:
            return int(self._sync.increment(name, delta, ttl=_GONE))
        except FailedPrecondition as error:
            raise _not_a_number(key) from error

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to an integer atomically. Its TTL does not change."""
        name = self._key(key, version)
        if await self._async.get(name, codec=RAW) is None:
            raise ValueError(f"Key '{key}' not found")
        try:
            return int(await self._async.increment(name, delta, ttl=_GONE))
        except FailedPrecondition as error:
            raise _not_a_number(key) from error

    def clear(self) -> bool:
        """Remove the keys of this cache, of all versions, and no other keys."""
        self._sync.invalidate_prefix(self._cleared)
        return True

    async def aclear(self) -> bool:
        """Remove the keys of this cache, of all versions, and no other keys."""
        await self._async.invalidate_prefix(self._cleared)
        return True


def _not_a_number(key: Any) -> TypeError:
    return TypeError(f"the value of {key!r} is not an integer of 64 bits")


def _failed(names: dict[str, Any], results: list[Any]) -> list[Any]:
    """Return the keys without a stored value."""
    failed = [key for key, result in zip(names.values(), results, strict=True) if isinstance(result, BaseException)]
    if len(failed) == len(names):
        raise results[0]
    return failed
