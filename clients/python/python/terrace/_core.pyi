"""The extension module. ``SyncOperations`` and ``AsyncOperations`` have the types of the operations of both clients."""

from collections.abc import AsyncIterator, Awaitable, Generator, Iterable, Iterator, Mapping
from os import PathLike
from types import TracebackType
from typing import Any, Generic, Literal, TypedDict, final, overload, type_check_only

from typing_extensions import Self, TypeVar, disjoint_base

from ._types import Data, Duration, Key, OnUnavailable, Size, Tags
from .codecs import Codec
from .errors import TerraceError

__all__ = [
    "Call",
    "Chain",
    "CoreClient",
    "CoreFake",
    "Entry",
    "Event",
    "Feed",
    "Grant",
    "Lease",
    "LoadOptions",
    "LoadReply",
    "LoopPort",
    "NearCache",
    "Tls",
    "forked",
]

_V = TypeVar("_V", default=bytes)
_T = TypeVar("_T")
_D = TypeVar("_D", default=None)

def forked() -> list[int]:
    """Forget the connections of the parent, in a child. Return the descriptors to close."""

@type_check_only
class Touched(TypedDict):
    #: The key exists.
    found: bool
    #: The TTL was changed.
    applied: bool

@type_check_only
class Invalidated(TypedDict):
    #: Number of removed keys.
    removed: int
    #: The keys are removed from L2.
    is_done: bool

@type_check_only
class NearStats(TypedDict):
    #: Reads that a copy answered.
    hits: int
    misses: int
    #: Values that were kept as copies.
    kept: int
    not_kept: int
    removed: int
    #: Copies now.
    entries: int
    #: Bytes that the copies are charged for.
    weight: int
    #: Times at which changes may have been missed, so that all copies of a node were dropped.
    discontinuities: int
    #: Change feeds that are open.
    feeds: int

@type_check_only
class ReadStats(TypedDict):
    hit_l1: int
    hit_l2: int
    stale: int
    miss: int
    error: int
    #: Reads that shared the L2 read of another caller.
    coalesced: int

@type_check_only
class L1Stats(TypedDict):
    entries: int
    bytes: int
    capacity_bytes: int

@type_check_only
class LoadStats(TypedDict):
    granted_miss: int
    granted_stale: int
    granted_early: int
    granted_forced: int
    granted_takeover: int

@type_check_only
class NodeStats(TypedDict):
    node: str
    #: Seconds since the start of the node.
    uptime: float
    reads: ReadStats
    l1: L1Stats
    loads: LoadStats

@final
class Tls:
    """TLS options: which servers a client trusts, and its own certificate. Files are read for each new connection.

    ``ca``: a PEM file of authorities; without it, the authorities of the system are trusted. ``pinned``: a PEM file whose
    first certificate is the only trusted one. ``certificate`` and ``key``: PEM files of the client. ``server_name``: the
    name in the certificate of the server, if it is not the name in the target.

    Raises ``ValueError`` if options exclude each other.
    """

    def __new__(
        cls,
        *,
        ca: str | PathLike[str] | None = None,
        pinned: str | PathLike[str] | None = None,
        certificate: str | PathLike[str] | None = None,
        key: str | PathLike[str] | None = None,
        server_name: str | None = None,
    ) -> Self: ...

@final
class NearCache:
    """Settings of a near cache: copies of values in this process, which the change feeds of the nodes keep true.

    ``prefixes``: the keys to keep (default: all). ``max_bytes``: the limit of memory (default 64 MiB), for encoded values.
    ``max_staleness``: the maximum age of an answer that another client has changed (default 3 s, at least twice the
    heartbeat and 1 s). ``heartbeat``: the interval of signs of life of a feed (default 500 ms). ``copy``: decode the value
    for each hit, instead of sharing one object between all callers.
    """

    def __new__(
        cls,
        prefixes: Tags | None = None,
        *,
        max_bytes: Size | None = None,
        max_staleness: Duration | None = None,
        heartbeat: Duration | None = None,
        copy: bool = False,
    ) -> Self: ...
    @property
    def copy(self) -> bool:
        """Each hit decodes its value, instead of sharing one object."""

@final
class Entry(Generic[_V]):
    """A value with its metadata. Durations are seconds."""

    @property
    def value(self) -> _V: ...
    @property
    def tier(self) -> Literal["L1", "L2"]:
        """The tier that answered."""

    @property
    def is_stale(self) -> bool:
        """L2 is unavailable, and the value is older than the coherence bound permits."""

    @property
    def expires_in(self) -> float | None:
        """Remaining TTL, with the stale part; ``None`` if the entry does not expire."""

    @property
    def fresh_for(self) -> float | None:
        """Time until the stale part of the policy begins: ``expires_in`` without a policy that has one."""

    @property
    def age(self) -> float:
        """Time since the node read the value from L2; 0 if L2 answered."""

    @property
    def tags(self) -> list[bytes]: ...
    @property
    def l1_hits(self) -> int:
        """Number of reads that L1 has answered with this entry."""

@final
class Grant:
    """Permission to load a key. ``fill``, ``fill_absent``, ``fail`` and ``release`` end it; a grant that is dropped is
    released. The methods return their result; grants of ``AsyncClient`` return a coroutine.
    """

    @property
    def lease(self) -> float:
        """Time in seconds in which no other client loads the key."""

    @property
    def reason(self) -> Literal["miss", "stale", "early", "forced", "takeover", "unspecified"]: ...
    @property
    def can_fill(self) -> bool:
        """The server can store the loaded value."""

    def fill(self, value: Data, *, ttl: Duration | None = None, stale: Duration | None = None) -> Any:
        """Store a loaded value. Return ``"stored"``, ``"changed"``, ``"invalidated"`` or ``"lease_lost"``."""

    def fill_absent(self, *, ttl: Duration | None = None) -> Any:
        """Store that the origin does not have the key. Return what ``fill`` returns."""

    def fail(self, message: str, *, retry_after: Duration | None = None) -> Any:
        """Report that the load failed, to all clients that wait."""

    def release(self) -> Any:
        """End the lease without a value: another client may load the key."""

@final
class Lease(Generic[_V]):
    """Answer to ``get_or_lease``. Durations are seconds."""

    @property
    def kind(self) -> Literal["hit", "load", "busy", "absent", "failed"]:
        """``hit``: there is a value. ``load``: load the key and end ``grant``. ``busy``: another client loads for longer
        than ``wait``. ``absent``: the origin does not have the key. ``failed``: the load of another client failed.
        """

    @property
    def value(self) -> _V | None: ...
    @property
    def needs_refresh(self) -> bool: ...
    @property
    def fresh_for(self) -> float | None: ...
    @property
    def grant(self) -> Grant | None: ...
    @property
    def leader_age(self) -> float | None: ...
    @property
    def expected(self) -> float | None: ...
    @property
    def ttl(self) -> float | None: ...
    @property
    def message(self) -> str | None: ...
    @property
    def retry_after(self) -> float | None: ...

@final
class Event:
    """A change of a feed."""

    @property
    def kind(self) -> Literal["key", "pattern", "tag", "everything", "discontinuity"]: ...
    @property
    def name(self) -> bytes | None:
        """The key, pattern or tag."""

@final
class Feed:
    """The changes of a node. Iterate over it, with ``async for`` for an ``AsyncClient``.

    Its end is a discontinuity: changes may be missing until it is opened again.
    """

    @property
    def resumed(self) -> bool:
        """The feed continued where an earlier feed ended."""

    def __iter__(self) -> Iterator[Event]: ...
    def __next__(self) -> Event: ...
    def __aiter__(self) -> AsyncIterator[Event]: ...
    def __anext__(self) -> Awaitable[Event]: ...

@final
class Call:
    """A coroutine of an operation."""

    @property
    def __name__(self) -> str: ...
    @property
    def __qualname__(self) -> str: ...
    def __await__(self) -> Generator[Any, Any, Any]: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def send(self, _value: object) -> Any: ...
    def throw(self, kind: Any, value: object = None, _traceback: TracebackType | None = None) -> Any: ...
    def close(self) -> None: ...

@final
class LoopPort:
    """The port of one event loop."""

    def drain(self) -> None:
        """Continue the operations that were woken."""

@final
class Chain:
    """Loads that the present load was begun by."""

@final
class LoadOptions:
    """Options of loads. See ``Client.get_or_load``."""

    def __new__(
        cls,
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
    ) -> Self: ...

@final
class LoadReply:
    """A request to run a loader."""

    @property
    def keys(self) -> tuple[bytes, ...]: ...
    @property
    def chain(self) -> Chain | None: ...
    def loaded(self, items: list[tuple[Any, Any, Any]]) -> None:
        """End the load with one result per key: value, TTL and stale part."""

    def failed(self, exception: BaseException) -> None:
        """End the load with an exception."""

@disjoint_base
class CoreFake:
    """An in-memory cache with a manual clock, injected faults and counts."""

    def __new__(cls) -> Self: ...
    def advance(self, by: Duration) -> None:
        """Move the manual clock."""

    @property
    def now(self) -> float:
        """Time on the manual clock in seconds since the creation of the fake."""

    def _fail(self, name: str, message: str) -> None: ...
    def _fail_key(self, key: Key, name: str, message: str) -> None: ...
    def _fail_next(self, count: int, name: str) -> None: ...
    def unknown_next(self, count: int) -> None:
        """Apply the next writes, but report that their outcome is unknown."""

    def delay(self, by: Duration) -> None:
        """Delay the answer of each operation by a real time."""

    def recover(self) -> None:
        """Remove all faults and the delay."""

    def loads(self, key: Key) -> int:
        """Return the number of loads of a key that ended."""

    @property
    def total_loads(self) -> int:
        """Number of loads of all keys that ended."""

    @property
    def waiting(self) -> int:
        """Number of callers that wait for the loads of others."""

    def is_loading(self, key: Key) -> bool:
        """Return whether a client holds the load lease of a key."""

    def keys(self) -> list[bytes]:
        """Return the keys, sorted."""

    def entry(self, key: Key) -> tuple[bytes, float | None, list[bytes]] | None:
        """Return the value, remaining TTL in seconds and tags of a key; ``None`` if it does not exist."""

    def clear(self) -> None:
        """Remove all keys, tags and leases. Counts, faults and the clock remain."""

    def reset_counts(self) -> None:
        """Set all counts to 0."""

@disjoint_base
class CoreClient:
    """A client. The operations are typed in ``SyncOperations`` and ``AsyncOperations``."""

    def __new__(
        cls,
        target: str,
        is_async: bool,
        codec: Codec[Any] | None,
        fake: CoreFake | None,
        *,
        near_cache: NearCache | None,
        tls: Tls | None,
        token: str | None,
        token_file: str | PathLike[str] | None,
        routing: str,
        read_timeout: Duration | None,
        write_timeout: Duration | None,
        connect_timeout: Duration | None,
        max_message: Size | None,
        retry_writes: bool,
    ) -> Self: ...
    def get(self, key: Key, default: Any = None, *, codec: Any = None, timeout: Duration | None = None) -> Any: ...
    def get_many(self, keys: Iterable[Key], *, codec: Any = None, timeout: Duration | None = None) -> Any: ...
    def get_many_each(self, keys: Iterable[Key], *, codec: Any = None, timeout: Duration | None = None) -> Any: ...
    def lookup(
        self, key: Key, *, codec: Any = None, no_touch: bool = False, timeout: Duration | None = None
    ) -> Any: ...
    def set(
        self,
        key: Key,
        value: Any,
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        tags: Tags | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        if_equal: Any = None,
        codec: Any = None,
        timeout: Duration | None = None,
    ) -> Any: ...
    def set_many(
        self,
        entries: Any,
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: Any = None,
        timeout: Duration | None = None,
    ) -> Any: ...
    def set_many_each(
        self,
        entries: Any,
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: Any = None,
        timeout: Duration | None = None,
    ) -> Any: ...
    def delete(self, *keys: Key, timeout: Duration | None = None) -> Any: ...
    def touch(
        self,
        key: Key,
        ttl: Duration | None = None,
        *,
        only: Literal["longer", "shorter"] | None = None,
        timeout: Duration | None = None,
    ) -> Any: ...
    def increment(
        self, key: Key, delta: int = 1, *, ttl: Duration | None = None, timeout: Duration | None = None
    ) -> Any: ...
    def invalidate_pattern(
        self, pattern: Key, *, dry_run: bool = False, wait: bool = False, timeout: Duration | None = None
    ) -> Any: ...
    def invalidate_prefix(
        self, prefix: Key, *, dry_run: bool = False, wait: bool = False, timeout: Duration | None = None
    ) -> Any: ...
    def invalidate_tags(self, tags: Tags, *, timeout: Duration | None = None) -> Any: ...
    def get_or_lease(
        self,
        key: Key,
        *,
        stale: Duration | None = None,
        lease: Duration | None = None,
        wait: Duration | None = None,
        tags: Tags | None = None,
        refresh: bool = False,
        codec: Any = None,
        timeout: Duration | None = None,
    ) -> Any: ...
    def watch(self, prefixes: Tags | None = None, *, heartbeat: Duration | None = None) -> Any: ...
    def ready(self) -> Any: ...
    def stats(self) -> Any: ...
    def near_stats(self) -> NearStats | None:
        """Return the statistics of the near cache of this process; ``None`` without a near cache."""

    def operations_in_progress(self) -> int:
        """Return the number of operations that have no result."""

    def _near(self, key: Key, codec: Codec[Any] | None, missing: Any) -> Any: ...
    def _load(
        self,
        key: Key,
        options: LoadOptions,
        tags: Tags,
        run: Any,
        chain: Chain | None,
        refresh: bool,
        timeout: Duration | None,
        missing: Any,
    ) -> Any: ...
    def _load_many(
        self,
        keys: list[tuple[Key, Tags]],
        options: LoadOptions,
        run: Any,
        chain: Chain | None,
        timeout: Duration | None,
    ) -> Any: ...
    def _close(self) -> None: ...

@type_check_only
class SyncOperations(CoreClient, Generic[_V]):
    """Operations of a synchronous client."""

    @overload
    def get(self, key: Key, default: _D = ..., *, codec: None = None, timeout: Duration | None = None) -> _V | _D: ...
    @overload
    def get(self, key: Key, default: _D = ..., *, codec: Codec[_T], timeout: Duration | None = None) -> _T | _D:
        """Return the value of a key; ``default`` if the key is absent.

        ``codec`` converts the value instead of the codec of the client. ``timeout`` limits the whole call, with its
        repetitions (default: ``read_timeout`` of the client, 250 ms).

        Raises a ``TerraceError`` if the cache does not answer: a failed read is never a miss. Raises ``DecodeError`` if
        the codec cannot read the value.

        >>> client.get("user:1")
        b'Ada'
        """

    @overload
    def get_many(
        self, keys: Iterable[Key], *, codec: None = None, timeout: Duration | None = None
    ) -> list[_V | None]: ...
    @overload
    def get_many(self, keys: Iterable[Key], *, codec: Codec[_T], timeout: Duration | None = None) -> list[_T | None]:
        """Return the values of keys, in their order; ``None`` for absent keys.

        Raises the first error of a key; ``get_many_each`` returns the errors per key.

        >>> client.get_many(["user:1", "user:2"])
        [b'Ada', None]
        """

    @overload
    def get_many_each(
        self, keys: Iterable[Key], *, codec: None = None, timeout: Duration | None = None
    ) -> list[_V | TerraceError | None]: ...
    @overload
    def get_many_each(
        self, keys: Iterable[Key], *, codec: Codec[_T], timeout: Duration | None = None
    ) -> list[_T | TerraceError | None]:
        """Return one result per key, in their order: the value, ``None`` for an absent key, or an exception."""

    @overload
    def lookup(
        self, key: Key, *, codec: None = None, no_touch: bool = False, timeout: Duration | None = None
    ) -> Entry[_V] | None: ...
    @overload
    def lookup(
        self, key: Key, *, codec: Codec[_T], no_touch: bool = False, timeout: Duration | None = None
    ) -> Entry[_T] | None:
        """Return the value of a key with its metadata: TTL, age, tier, tags; ``None`` if the key is absent.

        ``no_touch``: the read does not count as a use and does not extend the TTL of a policy with touch on read.
        """

    @overload
    def set(
        self: SyncOperations[bytes],
        key: Key,
        value: Data,
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        tags: Tags | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        if_equal: Data | None = None,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> bool: ...
    @overload
    def set(
        self,
        key: Key,
        value: _V,
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        tags: Tags | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        if_equal: _V | None = None,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> bool: ...
    @overload
    def set(
        self,
        key: Key,
        value: _T,
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        tags: Tags | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        if_equal: _T | None = None,
        codec: Codec[_T],
        timeout: Duration | None = None,
    ) -> bool:
        """Store a value. Return ``False`` if a condition was not met; without a condition the result is ``True``.

        ``ttl``: the time until the entry expires (default: by the policy of the key on the server). ``stale``: a further
        time, added to ``ttl``, in which ``get_or_load`` returns the old value while one client loads the new one.
        ``tags``: labels for ``invalidate_tags``. ``if_absent``, ``if_present``, ``if_equal``: conditions; at most one of
        them. ``timeout``: default 500 ms (``write_timeout`` of the client).

        Raises ``OutcomeUnknown`` if the write was sent and the connection or the time ended before its answer.

        >>> client.set("user:1", "Ada", ttl="5m", tags=["team:7"])
        True
        """

    @overload
    def set_many(
        self: SyncOperations[bytes],
        entries: Mapping[Any, Data] | Iterable[tuple[Key, Data]],
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> None: ...
    @overload
    def set_many(
        self,
        entries: Mapping[Any, _V] | Iterable[tuple[Key, _V]],
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> None: ...
    @overload
    def set_many(
        self,
        entries: Mapping[Any, _T] | Iterable[tuple[Key, _T]],
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: Codec[_T],
        timeout: Duration | None = None,
    ) -> None:
        """Store the entries of a mapping, or of an iterable of keys and values. They share ``ttl`` and ``tags``.

        Raises the first error of a key; other entries may be stored then. ``set_many_each`` returns the errors per key.

        >>> client.set_many({"user:1": "Ada", "user:2": "Grace"}, ttl="5m")
        """

    @overload
    def set_many_each(
        self: SyncOperations[bytes],
        entries: Mapping[Any, Data] | Iterable[tuple[Key, Data]],
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> list[TerraceError | None]: ...
    @overload
    def set_many_each(
        self,
        entries: Mapping[Any, _V] | Iterable[tuple[Key, _V]],
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> list[TerraceError | None]: ...
    @overload
    def set_many_each(
        self,
        entries: Mapping[Any, _T] | Iterable[tuple[Key, _T]],
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: Codec[_T],
        timeout: Duration | None = None,
    ) -> list[TerraceError | None]:
        """Store entries as ``set_many`` does. Return one result per entry: ``None``, or an exception."""

    def delete(self, *keys: Key, timeout: Duration | None = None) -> int:
        """Delete keys, also from all near caches. Return the number of keys that existed.

        A load that is in progress does not store its value afterwards.
        """

    def touch(
        self,
        key: Key,
        ttl: Duration | None = None,
        *,
        only: Literal["longer", "shorter"] | None = None,
        timeout: Duration | None = None,
    ) -> Touched:
        """Change the TTL of a key. ``ttl=None`` removes it: the entry does not expire.

        ``only``: change the TTL only if it becomes longer, or shorter. Return ``{"found": bool, "applied": bool}``.
        """

    def increment(
        self, key: Key, delta: int = 1, *, ttl: Duration | None = None, timeout: Duration | None = None
    ) -> int:
        """Add ``delta`` to a decimal number of 64 bits, and return the new number. An absent key counts as 0.

        ``ttl`` applies to a key that this call creates. Raises ``FailedPrecondition`` if the value is not a number.

        >>> client.increment("visits", ttl="1h")
        1
        """

    def invalidate_pattern(
        self, pattern: Key, *, dry_run: bool = False, wait: bool = False, timeout: Duration | None = None
    ) -> Invalidated:
        """Invalidate all keys that match a glob pattern, such as ``"user:*:cart"``.

        The keys are invisible when the call returns; ``wait`` waits until they are also removed from L2. ``dry_run``
        counts the keys only. Return ``{"removed": int, "is_done": bool}``.
        """

    def invalidate_prefix(
        self, prefix: Key, *, dry_run: bool = False, wait: bool = False, timeout: Duration | None = None
    ) -> Invalidated:
        """Invalidate all keys that begin with a prefix. See ``invalidate_pattern``."""

    def invalidate_tags(self, tags: Tags, *, timeout: Duration | None = None) -> int:
        """Invalidate all entries with one of these tags. Return the number of tags that were in use.

        >>> client.invalidate_tags(["team:7"])
        1
        """

    @overload
    def get_or_lease(
        self,
        key: Key,
        *,
        stale: Duration | None = None,
        lease: Duration | None = None,
        wait: Duration | None = None,
        tags: Tags | None = None,
        refresh: bool = False,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> Lease[_V]: ...
    @overload
    def get_or_lease(
        self,
        key: Key,
        *,
        stale: Duration | None = None,
        lease: Duration | None = None,
        wait: Duration | None = None,
        tags: Tags | None = None,
        refresh: bool = False,
        codec: Codec[_T],
        timeout: Duration | None = None,
    ) -> Lease[_T]:
        """Return the value of a key, or the permission to load it. The building block of ``get_or_load``, which most
        applications should use.
        """

    def watch(self, prefixes: Tags | None = None, *, heartbeat: Duration | None = None) -> Feed:
        """Open a feed of the changes of a node, optionally only of keys with these prefixes. Iterate over it.

        The feed ends with a discontinuity: changes may be missing until it is opened again.
        """

    def ready(self) -> None:
        """Wait until a node is ready. Not required before other operations, which connect by themselves."""

    def stats(self) -> list[NodeStats]:
        """Return the statistics of all nodes, since the start of each node."""

@type_check_only
class AsyncOperations(CoreClient, Generic[_V]):
    """Operations of a client for asyncio."""

    @overload
    async def get(
        self, key: Key, default: _D = ..., *, codec: None = None, timeout: Duration | None = None
    ) -> _V | _D: ...
    @overload
    async def get(self, key: Key, default: _D = ..., *, codec: Codec[_T], timeout: Duration | None = None) -> _T | _D:
        """Return the value of a key; ``default`` if the key is absent.

        ``codec`` converts the value instead of the codec of the client. ``timeout`` limits the whole call, with its
        repetitions (default: ``read_timeout`` of the client, 250 ms).

        Raises a ``TerraceError`` if the cache does not answer: a failed read is never a miss. Raises ``DecodeError`` if
        the codec cannot read the value.

        >>> await client.get("user:1")
        b'Ada'
        """

    @overload
    async def get_many(
        self, keys: Iterable[Key], *, codec: None = None, timeout: Duration | None = None
    ) -> list[_V | None]: ...
    @overload
    async def get_many(
        self, keys: Iterable[Key], *, codec: Codec[_T], timeout: Duration | None = None
    ) -> list[_T | None]:
        """Return the values of keys, in their order; ``None`` for absent keys.

        Raises the first error of a key; ``get_many_each`` returns the errors per key.

        >>> await client.get_many(["user:1", "user:2"])
        [b'Ada', None]
        """

    @overload
    async def get_many_each(
        self, keys: Iterable[Key], *, codec: None = None, timeout: Duration | None = None
    ) -> list[_V | TerraceError | None]: ...
    @overload
    async def get_many_each(
        self, keys: Iterable[Key], *, codec: Codec[_T], timeout: Duration | None = None
    ) -> list[_T | TerraceError | None]:
        """Return one result per key, in their order: the value, ``None`` for an absent key, or an exception."""

    @overload
    async def lookup(
        self, key: Key, *, codec: None = None, no_touch: bool = False, timeout: Duration | None = None
    ) -> Entry[_V] | None: ...
    @overload
    async def lookup(
        self, key: Key, *, codec: Codec[_T], no_touch: bool = False, timeout: Duration | None = None
    ) -> Entry[_T] | None:
        """Return the value of a key with its metadata: TTL, age, tier, tags; ``None`` if the key is absent.

        ``no_touch``: the read does not count as a use and does not extend the TTL of a policy with touch on read.
        """

    @overload
    async def set(
        self: AsyncOperations[bytes],
        key: Key,
        value: Data,
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        tags: Tags | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        if_equal: Data | None = None,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> bool: ...
    @overload
    async def set(
        self,
        key: Key,
        value: _V,
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        tags: Tags | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        if_equal: _V | None = None,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> bool: ...
    @overload
    async def set(
        self,
        key: Key,
        value: _T,
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        tags: Tags | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        if_equal: _T | None = None,
        codec: Codec[_T],
        timeout: Duration | None = None,
    ) -> bool:
        """Store a value. Return ``False`` if a condition was not met; without a condition the result is ``True``.

        ``ttl``: the time until the entry expires (default: by the policy of the key on the server). ``stale``: a further
        time, added to ``ttl``, in which ``get_or_load`` returns the old value while one client loads the new one.
        ``tags``: labels for ``invalidate_tags``. ``if_absent``, ``if_present``, ``if_equal``: conditions; at most one of
        them. ``timeout``: default 500 ms (``write_timeout`` of the client).

        Raises ``OutcomeUnknown`` if the write was sent and the connection or the time ended before its answer.

        >>> await client.set("user:1", "Ada", ttl="5m", tags=["team:7"])
        True
        """

    @overload
    async def set_many(
        self: AsyncOperations[bytes],
        entries: Mapping[Any, Data] | Iterable[tuple[Key, Data]],
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> None: ...
    @overload
    async def set_many(
        self,
        entries: Mapping[Any, _V] | Iterable[tuple[Key, _V]],
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> None: ...
    @overload
    async def set_many(
        self,
        entries: Mapping[Any, _T] | Iterable[tuple[Key, _T]],
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: Codec[_T],
        timeout: Duration | None = None,
    ) -> None:
        """Store the entries of a mapping, or of an iterable of keys and values. They share ``ttl`` and ``tags``.

        Raises the first error of a key; other entries may be stored then. ``set_many_each`` returns the errors per key.

        >>> await client.set_many({"user:1": "Ada", "user:2": "Grace"}, ttl="5m")
        """

    @overload
    async def set_many_each(
        self: AsyncOperations[bytes],
        entries: Mapping[Any, Data] | Iterable[tuple[Key, Data]],
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> list[TerraceError | None]: ...
    @overload
    async def set_many_each(
        self,
        entries: Mapping[Any, _V] | Iterable[tuple[Key, _V]],
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> list[TerraceError | None]: ...
    @overload
    async def set_many_each(
        self,
        entries: Mapping[Any, _T] | Iterable[tuple[Key, _T]],
        *,
        ttl: Duration | None = None,
        tags: Tags | None = None,
        codec: Codec[_T],
        timeout: Duration | None = None,
    ) -> list[TerraceError | None]:
        """Store entries as ``set_many`` does. Return one result per entry: ``None``, or an exception."""

    async def delete(self, *keys: Key, timeout: Duration | None = None) -> int:
        """Delete keys, also from all near caches. Return the number of keys that existed.

        A load that is in progress does not store its value afterwards.
        """

    async def touch(
        self,
        key: Key,
        ttl: Duration | None = None,
        *,
        only: Literal["longer", "shorter"] | None = None,
        timeout: Duration | None = None,
    ) -> Touched:
        """Change the TTL of a key. ``ttl=None`` removes it: the entry does not expire.

        ``only``: change the TTL only if it becomes longer, or shorter. Return ``{"found": bool, "applied": bool}``.
        """

    async def increment(
        self, key: Key, delta: int = 1, *, ttl: Duration | None = None, timeout: Duration | None = None
    ) -> int:
        """Add ``delta`` to a decimal number of 64 bits, and return the new number. An absent key counts as 0.

        ``ttl`` applies to a key that this call creates. Raises ``FailedPrecondition`` if the value is not a number.

        >>> await client.increment("visits", ttl="1h")
        1
        """

    async def invalidate_pattern(
        self, pattern: Key, *, dry_run: bool = False, wait: bool = False, timeout: Duration | None = None
    ) -> Invalidated:
        """Invalidate all keys that match a glob pattern, such as ``"user:*:cart"``.

        The keys are invisible when the call returns; ``wait`` waits until they are also removed from L2. ``dry_run``
        counts the keys only. Return ``{"removed": int, "is_done": bool}``.
        """

    async def invalidate_prefix(
        self, prefix: Key, *, dry_run: bool = False, wait: bool = False, timeout: Duration | None = None
    ) -> Invalidated:
        """Invalidate all keys that begin with a prefix. See ``invalidate_pattern``."""

    async def invalidate_tags(self, tags: Tags, *, timeout: Duration | None = None) -> int:
        """Invalidate all entries with one of these tags. Return the number of tags that were in use.

        >>> await client.invalidate_tags(["team:7"])
        1
        """

    @overload
    async def get_or_lease(
        self,
        key: Key,
        *,
        stale: Duration | None = None,
        lease: Duration | None = None,
        wait: Duration | None = None,
        tags: Tags | None = None,
        refresh: bool = False,
        codec: None = None,
        timeout: Duration | None = None,
    ) -> Lease[_V]: ...
    @overload
    async def get_or_lease(
        self,
        key: Key,
        *,
        stale: Duration | None = None,
        lease: Duration | None = None,
        wait: Duration | None = None,
        tags: Tags | None = None,
        refresh: bool = False,
        codec: Codec[_T],
        timeout: Duration | None = None,
    ) -> Lease[_T]:
        """Return the value of a key, or the permission to load it. The building block of ``get_or_load``, which most
        applications should use.
        """

    async def watch(self, prefixes: Tags | None = None, *, heartbeat: Duration | None = None) -> Feed:
        """Open a feed of the changes of a node, optionally only of keys with these prefixes. Iterate over it.

        The feed ends with a discontinuity: changes may be missing until it is opened again.
        """

    async def ready(self) -> None:
        """Wait until a node is ready. Not required before other operations, which connect by themselves."""

    async def stats(self) -> list[NodeStats]:
        """Return the statistics of all nodes, since the start of each node."""
