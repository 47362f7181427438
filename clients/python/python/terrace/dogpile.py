"""Backend for dogpile.cache.

>>> region = make_region().configure(
...     "terrace",
...     expiration_time=300,
...     arguments={"target": "cache-a:7400,cache-b:7400", "prefix": "shop:", "ttl": "1h"},
... )
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from dogpile.cache.api import NO_VALUE, BytesBackend

from . import _backends
from .codecs import RAW
from .errors import OutcomeUnknown, TerraceError

__all__ = ["TerraceBackend"]

#: Times in seconds between two attempts to acquire a lock.
_DELAY_MIN, _DELAY_MAX = 0.005, 0.1
#: TTL in seconds of the value of a released lock.
_RELEASED = 0.001
_log = logging.getLogger("terrace.dogpile")


class TerraceBackend(BytesBackend):
    """Backend of bytes, which the region serializes.

    Arguments: ``target``; ``prefix`` of the keys; ``ttl``, after which the server removes values (longer than
    ``expiration_time``, so that stale values exist while one process creates a new one; default: none);
    ``distributed_lock`` (default ``True``): one process at a time creates a value; ``lock_timeout``: time in seconds
    after which another process may create it, 0.1 to 300; and the arguments of ``terrace.Client``.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        # The dictionary belongs to the caller.
        options = dict(arguments)
        self._target = _backends.target(options.pop("target", "127.0.0.1:7400"))
        self._prefix = str(options.pop("prefix", "dogpile:"))
        self._ttl = options.pop("ttl", None)
        self._is_locking = bool(options.pop("distributed_lock", True))
        self._lock_timeout = float(options.pop("lock_timeout", 30))
        if not 0.1 <= self._lock_timeout <= 300:
            raise ValueError(f"lock_timeout is {self._lock_timeout} s; expected 0.1 to 300 seconds")
        known = _backends.CLIENT_OPTIONS
        # A region may have arguments for several backends.
        self._options = {name: value for name, value in options.items() if name in known}
        if unknown := sorted(options.keys() - set(known)):
            _log.warning("ignored unknown arguments %s; known are %s", unknown, sorted(known))

    @property
    def _client(self) -> Any:
        return _backends.client(False, self._target, self._options, self._prefix)

    def has_lock_timeout(self) -> bool:
        """Return whether a lock ends by itself."""
        return self._is_locking

    def get_mutex(self, key: str) -> Any:
        """Return the lock of a key; ``None`` selects a lock of the process."""
        return _Mutex(self._client, f"{self._prefix}lock:{key}", self._lock_timeout) if self._is_locking else None

    def get_serialized(self, key: str) -> Any:
        """Return the bytes of a key, or ``NO_VALUE``."""
        return self._client.get(self._prefix + key, NO_VALUE, codec=RAW)

    def get_serialized_multi(self, keys: Iterable[str]) -> Any:
        """Return the bytes of each key, or ``NO_VALUE``."""
        names = [self._prefix + key for key in keys]
        found = self._client.get_many(names, codec=RAW) if names else []
        return [NO_VALUE if data is None else data for data in found]

    def set_serialized(self, key: str, value: bytes) -> None:
        """Store the bytes of a key."""
        self._client.set(self._prefix + key, value, ttl=self._ttl, codec=RAW)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """Store the bytes of keys."""
        if mapping:
            entries = {self._prefix + key: value for key, value in mapping.items()}
            self._client.set_many(entries, ttl=self._ttl, codec=RAW)

    def delete(self, key: str) -> None:
        """Remove a key."""
        self._client.delete(self._prefix + key)

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Remove keys."""
        if names := [self._prefix + key for key in keys]:
            self._client.delete(*names)


class _Mutex:
    """Lock of a key over all processes: a key with a random value and a TTL, which only its owner can remove.

    An empty value is a lock that was released. Without the server, each process creates the value: an outage of the
    cache must not stop the application.
    """

    def __init__(self, client: Any, key: str, timeout: float) -> None:
        self._client = client
        self._key = key
        self._timeout = timeout
        self._guard = threading.Lock()
        self._token: bytes | None = None

    def acquire(self, wait: bool = True) -> bool:
        """Acquire the lock. Return whether it was acquired; a waiting call ends after two times the lock timeout."""
        token = secrets.token_bytes(16)
        end = time.monotonic() + 2 * self._timeout
        delay = _DELAY_MIN
        while not self._is_acquired(token):
            if not wait or time.monotonic() >= end:
                return False
            # Jitter, so that the processes that wait do not ask at the same time.
            time.sleep(random.uniform(delay / 2, delay))
            delay = min(2 * delay, _DELAY_MAX)
        return True

    def _is_acquired(self, token: bytes) -> bool:
        try:
            if not self._is_set(token):
                return False
        except TerraceError as error:
            _log.warning("a lock is not available, and its value is created without it: %s", type(error).__name__)
            return True
        with self._guard:
            self._token = token
        return True

    def _is_set(self, token: bytes) -> bool:
        options = {"ttl": self._timeout, "codec": RAW}
        try:
            # The value of a released lock may expire between the first two.
            for condition in ({"if_absent": True}, {"if_equal": b""}, {"if_absent": True}):
                if self._client.set(self._key, token, **condition, **options):
                    return True
            return False
        except OutcomeUnknown:
            return bool(self._value() == token)

    def _value(self) -> Any:
        # Unlike `get`, it does not read a near cache.
        entry = self._client.lookup(self._key, no_touch=True, codec=RAW)
        return None if entry is None else entry.value

    def release(self) -> None:
        """Release the lock, unless it has ended and another process has it."""
        with self._guard:
            token, self._token = self._token, None
        if token is None:
            return
        try:
            self._client.set(self._key, b"", if_equal=token, ttl=_RELEASED, codec=RAW)
        except TerraceError as error:
            _log.debug("the end of a lock was not stored: %s", type(error).__name__)

    def locked(self) -> bool:
        """Return whether a process has the lock."""
        try:
            return bool(self._value())
        except TerraceError:
            return False
