"""The clients."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

from . import _core
from ._cached import AsyncDecorator, Decorator, Settings
from ._load import CHAIN, Loaded, item, loop_runner, thread_runner
from ._types import Data, Duration, Key, OnUnavailable, Size, Tags
from .codecs import Codec
from .errors import DecodeError, NotFound

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Never, Self, TypeVar

    from ._core import AsyncOperations, SyncOperations

    V = TypeVar("V", default=bytes)
    T = TypeVar("T")
    K = TypeVar("K", bound=Key)
    #: The default of a key that does not exist. Without one, there is no such result.
    D = TypeVar("D", default=Never)
    E = TypeVar("E", default=None)
    #: Results of a loader of many keys.
    Results: TypeAlias = (
        Mapping[K, T | Loaded[T] | NotFound] | Mapping[K, T] | Iterable[T | Loaded[T] | NotFound] | Iterable[T]
    )
else:
    V = object

    class SyncOperations(_core.CoreClient):
        """The operations, which the extension module implements."""

        __class_getitem__ = classmethod(lambda cls, _: cls)

    AsyncOperations = SyncOperations

#: An argument that was not given.
UNSET: Any = type("Unset", (), {"__repr__": lambda self: "UNSET", "__slots__": ()})()
_MISSING: Any = object()


def _decode_error(data: bytes, cause: Exception) -> DecodeError:
    error = DecodeError(f"cannot decode a value of {len(data)} bytes: {cause}")
    error.__cause__ = cause
    return error


def _absent(key: Key, default: Any) -> Any:
    if default is UNSET:
        raise NotFound(f"the origin does not have the key {key!r}")
    return default


def _loads(key: Key, codec: Codec[Any] | None, default: Any, refresh: bool) -> Generator[bool, Any, Any]:
    """Get or load, without input and output: yield whether to load a present key, receive its bytes, return its value."""
    for is_last in (False, True):
        data = yield refresh or is_last
        if data is _MISSING:
            return _absent(key, default)
        if codec is None:
            return data
        try:
            return codec.decode(data)
        except Exception as cause:
            # Stored by another version of the application: it is loaded again, once.
            if is_last:
                raise _decode_error(data, cause) from cause


class _Base:
    """Parts of both clients."""

    _is_async: bool
    _codec: Codec[Any] | None
    _target: str
    #: The default of ``get_or_load`` in decorated functions.
    _unset = UNSET

    if not TYPE_CHECKING:

        def __new__(
            cls,
            target: str = "127.0.0.1:7400",
            *,
            near_cache: _core.NearCache | None = None,
            codec: Any = None,
            tls: _core.Tls | bool | None = None,
            token: str | None = None,
            token_file: Any = None,
            routing: str = "key",
            read_timeout: Any = None,
            write_timeout: Any = None,
            connect_timeout: Any = None,
            max_message: Any = None,
            retry_writes: bool = False,
            _fake: Any = None,
        ) -> Any:
            """Create a client. Its class describes the arguments."""
            arguments: dict[str, Any] = {
                "near_cache": near_cache,
                "tls": _core.Tls() if tls is True else (tls or None),
                "token": token,
                "token_file": token_file,
                "routing": routing,
                "read_timeout": read_timeout,
                "write_timeout": write_timeout,
                "connect_timeout": connect_timeout,
                "max_message": max_message,
                "retry_writes": retry_writes,
            }
            client = super().__new__(cls, target, cls._is_async, codec, _fake, **arguments)
            client._codec = codec
            client._target = target
            return client

        def __init__(self, *_: Any, **__: Any) -> None:
            """Take the arguments of ``__new__``."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._target!r})"

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} has connections; create one in each process instead of pickling it")


class Client(_Base, SyncOperations[V]):
    """A synchronous client. One client serves all threads of a process, and the processes that are forked from it.

    ``target``: the nodes, as ``"cache-a:7400,cache-b:7400"``, ``"dns:///terrace.example:7400"`` or
    ``"unix:/run/terrace/grpc.sock"``. All nodes must have the same L2.

    ``codec``: converts values (default: they are bytes). ``near_cache``: keeps copies in this process. ``tls``: ``True``
    for the authorities of the system, or ``Tls(...)``. ``token``, ``token_file``: the token of the user; the file is read
    for each connection. ``routing``: ``"key"`` (each key is in the L1 of one node) or ``"any"`` (the node with the fewest
    operations in progress). ``read_timeout``: default 250 ms. ``write_timeout``: default 500 ms. ``connect_timeout``:
    default 2 s. ``max_message``: maximum size of a message from the server (64 MiB). ``retry_writes``: repeat a ``set`` or ``touch`` whose
    outcome is unknown; a repetition can undo a newer write.

    The constructor does not connect: the first operation does. Raises ``ValueError`` or ``InvalidArgument`` for an
    argument that is not valid.
    """

    _is_async = False

    if TYPE_CHECKING:

        @overload
        def __new__(
            cls,
            target: str = ...,
            *,
            near_cache: _core.NearCache | None = None,
            codec: None = None,
            tls: _core.Tls | bool | None = None,
            token: str | None = None,
            token_file: str | PathLike[str] | None = None,
            routing: Literal["key", "any"] = "key",
            read_timeout: Duration | None = None,
            write_timeout: Duration | None = None,
            connect_timeout: Duration | None = None,
            max_message: Size | None = None,
            retry_writes: bool = False,
        ) -> Client[bytes]: ...
        @overload
        def __new__(
            cls,
            target: str = ...,
            *,
            near_cache: _core.NearCache | None = None,
            codec: Codec[T],
            tls: _core.Tls | bool | None = None,
            token: str | None = None,
            token_file: str | PathLike[str] | None = None,
            routing: Literal["key", "any"] = "key",
            read_timeout: Duration | None = None,
            write_timeout: Duration | None = None,
            connect_timeout: Duration | None = None,
            max_message: Size | None = None,
            retry_writes: bool = False,
        ) -> Client[T]: ...
        @overload
        def __new__(cls, target: str, *, _fake: _core.CoreFake, **settings: Any) -> Client[Any]: ...
        def __new__(cls, *arguments: Any, **named: Any) -> Any: ...

    @overload
    def get_or_load(
        self: Client[bytes],
        key: Key,
        loader: Callable[[], Data | Loaded[Data]],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: None = None,
        default: D = UNSET,
        refresh: bool = False,
        timeout: Duration | None = None,
    ) -> bytes | D: ...
    @overload
    def get_or_load(
        self,
        key: Key,
        loader: Callable[[], V | Loaded[V]],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: None = None,
        default: D = UNSET,
        refresh: bool = False,
        timeout: Duration | None = None,
    ) -> V | D: ...
    @overload
    def get_or_load(
        self,
        key: Key,
        loader: Callable[[], T | Loaded[T]],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: Codec[T],
        default: D = UNSET,
        refresh: bool = False,
        timeout: Duration | None = None,
    ) -> T | D: ...
    def get_or_load(
        self,
        key: Key,
        loader: Callable[[], Any],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: Codec[Any] | None = None,
        default: Any = UNSET,
        refresh: bool = False,
        timeout: Duration | None = None,
    ) -> Any:
        """Return the value of a key, and load it from its origin if it is absent: once for all processes.

        ``loader``: returns the value; ``Loaded`` for its own TTL. It raises ``NotFound`` if the origin does
        not have the key.

        ``ttl``, ``stale``, ``negative_ttl``: times for which the value is fresh, then stale, and for which an absent key is
        remembered (default: by the policy of the key on the server). ``tags``: labels for ``invalidate_tags``. ``lease``:
        time after which another client may load. ``wait``: maximum time to wait for the load of another client (3 s).
        ``soft_timeout``: time for which a caller waits for the refresh of a stale value (0). ``load_timeout``: maximum
        time of the loader (30 s). ``on_unavailable``: with no node, ``"load"`` without storing (at most 16 at a time),
        return the ``"stale"`` value, or raise the ``"error"``. ``share_errors``: send the text of the exception of the
        loader to other processes. ``codec``: instead of the codec of the client. ``default``: the result for a key that
        the origin does not have. ``refresh``: load even if the value is fresh. ``timeout``: limits the whole call (none).

        Raises the exception of the loader in the process that loaded, ``LoadFailed`` in others, ``NotFound`` without a
        ``default``, ``Unavailable`` by ``on_unavailable`` or if 16 loads run without the cache.

        >>> client.get_or_load("user:1", lambda: b"Ada", ttl="5m", stale="1h")
        b'Ada'
        """
        options = _core.LoadOptions(
            ttl=ttl,
            stale=stale,
            negative_ttl=negative_ttl,
            lease=lease,
            wait=wait,
            soft_timeout=soft_timeout,
            load_timeout=load_timeout,
            on_unavailable=on_unavailable,
            share_errors=share_errors,
        )
        return self._get_or_load(
            key, loader, options, list(tags), self._codec if codec is None else codec, default, refresh, timeout
        )

    @overload
    def get_or_load_many(
        self: Client[bytes],
        keys: Iterable[K],
        loader: Callable[[list[K]], Results[K, Data]],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags | Callable[[K], Tags] = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: None = None,
        default: E = ...,
        timeout: Duration | None = None,
    ) -> list[bytes | E]: ...
    @overload
    def get_or_load_many(
        self,
        keys: Iterable[K],
        loader: Callable[[list[K]], Results[K, V]],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags | Callable[[K], Tags] = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: None = None,
        default: E = ...,
        timeout: Duration | None = None,
    ) -> list[V | E]: ...
    @overload
    def get_or_load_many(
        self,
        keys: Iterable[K],
        loader: Callable[[list[K]], Results[K, T]],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags | Callable[[K], Tags] = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: Codec[T],
        default: E = ...,
        timeout: Duration | None = None,
    ) -> list[T | E]: ...
    def get_or_load_many(
        self,
        keys: Iterable[K],
        loader: Callable[[list[K]], Any],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags | Callable[[K], Tags] = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: Codec[Any] | None = None,
        default: Any = None,
        timeout: Duration | None = None,
    ) -> list[Any]:
        """Return the values of keys, in their order, and load those that are absent with one call of the loader.

        ``loader`` receives the keys to load, and returns a mapping, or one result per key in their order. A key that is
        not in the mapping, or whose result is ``NotFound()``, does not exist: its value is ``default``. ``tags`` may be a
        function of the key. For the other arguments see ``get_or_load``.

        Raises the first exception of a key.

        >>> client.get_or_load_many(["a", "b"], lambda keys: {key: b"1" for key in keys}, ttl="5m")
        [b'1', b'1']
        """
        options = _core.LoadOptions(
            ttl=ttl,
            stale=stale,
            negative_ttl=negative_ttl,
            lease=lease,
            wait=wait,
            soft_timeout=soft_timeout,
            load_timeout=load_timeout,
            on_unavailable=on_unavailable,
            share_errors=share_errors,
        )
        many = _Many(list(keys), tags, self._codec if codec is None else codec, default)
        run = thread_runner(lambda reply: many.load(loader, reply), lambda items: items)
        results = self._load_many(many.items, options, run, CHAIN.get(), timeout)
        undecodable: list[int] = []
        values = many.values(results, undecodable)
        for place in undecodable:
            # Stored by another version of the application: load it again.
            key, tags_of_key = many.keys[place], many.items[place][1]

            def load_one(key: Any = key) -> Any:
                return many.one(loader([key]), key)

            values[place] = self._get_or_load(key, load_one, options, tags_of_key, many.codec, default, True, timeout)
        return values

    def _get_or_load(
        self,
        key: Key,
        loader: Callable[[], Any],
        options: _core.LoadOptions,
        tags: Tags,
        codec: Codec[Any] | None,
        default: Any,
        refresh: bool,
        timeout: Duration | None,
    ) -> Any:
        if not refresh:
            value = self._near(key, codec, _MISSING)
            if value is not _MISSING:
                return value
        encode = None if codec is None else codec.encode
        run = thread_runner(lambda _: loader(), lambda value: [item(value, encode)])
        steps = _loads(key, codec, default, refresh)
        is_forced = next(steps)
        while True:
            data = self._load(key, options, tags, run, CHAIN.get(), is_forced, timeout, _MISSING)
            try:
                is_forced = steps.send(data)
            except StopIteration as done:
                return done.value

    def cached(
        self,
        key: str | Callable[..., str],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Iterable[str] = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: Codec[Any] | None = None,
        timeout: Duration | None = None,
    ) -> Decorator:
        """Decorate a function or method, so that its results are cached.

        ``key``: a template with the names of parameters or of their attributes, such as ``"user:{user.id}:profile"``, or a
        function with the parameters of the decorated function. Each parameter must be in the template, or be annotated
        with ``Annotated[..., terrace.Ignore]``; ``self`` and ``cls`` are exempt. ``tags``: templates as well. ``codec``:
        default by the return annotation: ``bytes`` as they are, everything else as JSON. For the other arguments see
        ``get_or_load``.

        The decorated function has the attributes ``key``, ``invalidate``, ``refresh``, ``set``, ``uncached`` and
        ``explain``. Raises ``TypeError`` or ``ValueError`` at the decoration for a template that does not fit.

        >>> @client.cached("square:{number}", ttl="5m")
        ... def square(number: int) -> int:
        ...     return number * number
        >>> square(3)
        9
        >>> square.key(3)
        'square:3'
        """
        options = _core.LoadOptions(
            ttl=ttl,
            stale=stale,
            negative_ttl=negative_ttl,
            lease=lease,
            wait=wait,
            soft_timeout=soft_timeout,
            load_timeout=load_timeout,
            on_unavailable=on_unavailable,
            share_errors=share_errors,
        )
        life = {"ttl": ttl, "stale": stale}
        return Decorator(self, Settings(key, options, life, tuple(tags), codec, timeout))

    def close(self) -> None:
        """Close the connections. Later operations raise ``Unavailable``."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


class AsyncClient(_Base, AsyncOperations[V]):
    """A client for asyncio. One client serves all event loops of a process, and the processes that are forked from it.

    ``target``: the nodes, as ``"cache-a:7400,cache-b:7400"``, ``"dns:///terrace.example:7400"`` or
    ``"unix:/run/terrace/grpc.sock"``. All nodes must have the same L2.

    ``codec``: converts values (default: they are bytes). ``near_cache``: keeps copies in this process. ``tls``: ``True``
    for the authorities of the system, or ``Tls(...)``. ``token``, ``token_file``: the token of the user; the file is read
    for each connection. ``routing``: ``"key"`` (each key is in the L1 of one node) or ``"any"`` (the node with the fewest
    operations in progress). ``read_timeout``: default 250 ms. ``write_timeout``: default 500 ms. ``connect_timeout``:
    default 2 s. ``max_message``: maximum size of a message from the server (64 MiB). ``retry_writes``: repeat a ``set`` or ``touch`` whose
    outcome is unknown; a repetition can undo a newer write.

    The constructor does not connect: the first operation does. Raises ``ValueError`` or ``InvalidArgument`` for an
    argument that is not valid.
    """

    _is_async = True

    if TYPE_CHECKING:

        @overload
        def __new__(
            cls,
            target: str = ...,
            *,
            near_cache: _core.NearCache | None = None,
            codec: None = None,
            tls: _core.Tls | bool | None = None,
            token: str | None = None,
            token_file: str | PathLike[str] | None = None,
            routing: Literal["key", "any"] = "key",
            read_timeout: Duration | None = None,
            write_timeout: Duration | None = None,
            connect_timeout: Duration | None = None,
            max_message: Size | None = None,
            retry_writes: bool = False,
        ) -> AsyncClient[bytes]: ...
        @overload
        def __new__(
            cls,
            target: str = ...,
            *,
            near_cache: _core.NearCache | None = None,
            codec: Codec[T],
            tls: _core.Tls | bool | None = None,
            token: str | None = None,
            token_file: str | PathLike[str] | None = None,
            routing: Literal["key", "any"] = "key",
            read_timeout: Duration | None = None,
            write_timeout: Duration | None = None,
            connect_timeout: Duration | None = None,
            max_message: Size | None = None,
            retry_writes: bool = False,
        ) -> AsyncClient[T]: ...
        @overload
        def __new__(cls, target: str, *, _fake: _core.CoreFake, **settings: Any) -> AsyncClient[Any]: ...
        def __new__(cls, *arguments: Any, **named: Any) -> Any: ...

    @overload
    async def get_or_load(
        self: AsyncClient[bytes],
        key: Key,
        loader: Callable[[], Awaitable[Data | Loaded[Data]] | Data | Loaded[Data]],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: None = None,
        default: D = UNSET,
        refresh: bool = False,
        timeout: Duration | None = None,
    ) -> bytes | D: ...
    @overload
    async def get_or_load(
        self,
        key: Key,
        loader: Callable[[], Awaitable[V | Loaded[V]] | V | Loaded[V]],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: None = None,
        default: D = UNSET,
        refresh: bool = False,
        timeout: Duration | None = None,
    ) -> V | D: ...
    @overload
    async def get_or_load(
        self,
        key: Key,
        loader: Callable[[], Awaitable[T | Loaded[T]] | T | Loaded[T]],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: Codec[T],
        default: D = UNSET,
        refresh: bool = False,
        timeout: Duration | None = None,
    ) -> T | D: ...
    async def get_or_load(
        self,
        key: Key,
        loader: Callable[[], Any],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: Codec[Any] | None = None,
        default: Any = UNSET,
        refresh: bool = False,
        timeout: Duration | None = None,
    ) -> Any:
        """Return the value of a key, and load it from its origin if it is absent: once for all processes.

        ``loader``: returns the value, or a coroutine of it; ``Loaded`` for its own TTL. It raises ``NotFound`` if the origin does
        not have the key.

        ``ttl``, ``stale``, ``negative_ttl``: times for which the value is fresh, then stale, and for which an absent key is
        remembered (default: by the policy of the key on the server). ``tags``: labels for ``invalidate_tags``. ``lease``:
        time after which another client may load. ``wait``: maximum time to wait for the load of another client (3 s).
        ``soft_timeout``: time for which a caller waits for the refresh of a stale value (0). ``load_timeout``: maximum
        time of the loader (30 s). ``on_unavailable``: with no node, ``"load"`` without storing (at most 16 at a time),
        return the ``"stale"`` value, or raise the ``"error"``. ``share_errors``: send the text of the exception of the
        loader to other processes. ``codec``: instead of the codec of the client. ``default``: the result for a key that
        the origin does not have. ``refresh``: load even if the value is fresh. ``timeout``: limits the whole call (none).

        Raises the exception of the loader in the process that loaded, ``LoadFailed`` in others, ``NotFound`` without a
        ``default``, ``Unavailable`` by ``on_unavailable`` or if 16 loads run without the cache.

        >>> await client.get_or_load("user:1", lambda: b"Ada", ttl="5m", stale="1h")
        b'Ada'
        """
        options = _core.LoadOptions(
            ttl=ttl,
            stale=stale,
            negative_ttl=negative_ttl,
            lease=lease,
            wait=wait,
            soft_timeout=soft_timeout,
            load_timeout=load_timeout,
            on_unavailable=on_unavailable,
            share_errors=share_errors,
        )
        return await self._get_or_load(
            key, loader, options, list(tags), self._codec if codec is None else codec, default, refresh, timeout
        )

    @overload
    async def get_or_load_many(
        self: AsyncClient[bytes],
        keys: Iterable[K],
        loader: Callable[[list[K]], Awaitable[Results[K, Data]] | Results[K, Data]],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags | Callable[[K], Tags] = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: None = None,
        default: E = ...,
        timeout: Duration | None = None,
    ) -> list[bytes | E]: ...
    @overload
    async def get_or_load_many(
        self,
        keys: Iterable[K],
        loader: Callable[[list[K]], Awaitable[Results[K, V]] | Results[K, V]],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags | Callable[[K], Tags] = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: None = None,
        default: E = ...,
        timeout: Duration | None = None,
    ) -> list[V | E]: ...
    @overload
    async def get_or_load_many(
        self,
        keys: Iterable[K],
        loader: Callable[[list[K]], Awaitable[Results[K, T]] | Results[K, T]],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags | Callable[[K], Tags] = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: Codec[T],
        default: E = ...,
        timeout: Duration | None = None,
    ) -> list[T | E]: ...
    async def get_or_load_many(
        self,
        keys: Iterable[K],
        loader: Callable[[list[K]], Any],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Tags | Callable[[K], Tags] = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: Codec[Any] | None = None,
        default: Any = None,
        timeout: Duration | None = None,
    ) -> list[Any]:
        """Return the values of keys, in their order, and load those that are absent with one call of the loader.

        ``loader`` receives the keys to load, and returns a mapping, or one result per key in their order. A key that is
        not in the mapping, or whose result is ``NotFound()``, does not exist: its value is ``default``. ``tags`` may be a
        function of the key. For the other arguments see ``get_or_load``.

        Raises the first exception of a key.

        >>> await client.get_or_load_many(["a", "b"], lambda keys: {key: b"1" for key in keys}, ttl="5m")
        [b'1', b'1']
        """
        options = _core.LoadOptions(
            ttl=ttl,
            stale=stale,
            negative_ttl=negative_ttl,
            lease=lease,
            wait=wait,
            soft_timeout=soft_timeout,
            load_timeout=load_timeout,
            on_unavailable=on_unavailable,
            share_errors=share_errors,
        )
        many = _Many(list(keys), tags, self._codec if codec is None else codec, default)
        run = loop_runner(lambda reply: many.load_later(loader, reply), lambda items: items)
        results = await self._load_many(many.items, options, run, CHAIN.get(), timeout)
        undecodable: list[int] = []
        values = many.values(results, undecodable)
        for place in undecodable:
            # Stored by another version of the application: load it again.
            key, tags_of_key = many.keys[place], many.items[place][1]

            async def load_one(key: Any = key) -> Any:
                return many.one(await _result(loader([key])), key)

            values[place] = await self._get_or_load(
                key, load_one, options, tags_of_key, many.codec, default, True, timeout
            )
        return values

    async def _get_or_load(
        self,
        key: Key,
        loader: Callable[[], Any],
        options: _core.LoadOptions,
        tags: Tags,
        codec: Codec[Any] | None,
        default: Any,
        refresh: bool,
        timeout: Duration | None,
    ) -> Any:
        if not refresh:
            value = self._near(key, codec, _MISSING)
            if value is not _MISSING:
                return value
        encode = None if codec is None else codec.encode
        run = loop_runner(lambda _: loader(), lambda value: [item(value, encode)])
        steps = _loads(key, codec, default, refresh)
        is_forced = next(steps)
        while True:
            data = await self._load(key, options, tags, run, CHAIN.get(), is_forced, timeout, _MISSING)
            try:
                is_forced = steps.send(data)
            except StopIteration as done:
                return done.value

    def cached(
        self,
        key: str | Callable[..., str],
        *,
        ttl: Duration | None = None,
        stale: Duration | None = None,
        negative_ttl: Duration | None = None,
        tags: Iterable[str] = (),
        lease: Duration | None = None,
        wait: Duration | None = None,
        soft_timeout: Duration | None = None,
        load_timeout: Duration | None = None,
        on_unavailable: OnUnavailable = "load",
        share_errors: bool = False,
        codec: Codec[Any] | None = None,
        timeout: Duration | None = None,
    ) -> AsyncDecorator:
        """Decorate an asynchronous function or method, so that its results are cached.

        ``key``: a template with the names of parameters or of their attributes, such as ``"user:{user.id}:profile"``, or a
        function with the parameters of the decorated function. Each parameter must be in the template, or be annotated
        with ``Annotated[..., terrace.Ignore]``; ``self`` and ``cls`` are exempt. ``tags``: templates as well. ``codec``:
        default by the return annotation: ``bytes`` as they are, everything else as JSON. For the other arguments see
        ``get_or_load``.

        The decorated function has the attributes ``key``, ``invalidate``, ``refresh``, ``set``, ``uncached`` and
        ``explain``. Raises ``TypeError`` or ``ValueError`` at the decoration for a template that does not fit.

        >>> @client.cached("square:{number}", ttl="5m")
        ... async def square(number: int) -> int:
        ...     return number * number
        >>> await square(3)
        9
        >>> square.key(3)
        'square:3'
        """
        options = _core.LoadOptions(
            ttl=ttl,
            stale=stale,
            negative_ttl=negative_ttl,
            lease=lease,
            wait=wait,
            soft_timeout=soft_timeout,
            load_timeout=load_timeout,
            on_unavailable=on_unavailable,
            share_errors=share_errors,
        )
        life = {"ttl": ttl, "stale": stale}
        return AsyncDecorator(self, Settings(key, options, life, tuple(tags), codec, timeout))

    async def close(self) -> None:
        """Close the connections. Later operations raise ``Unavailable``."""
        self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()


async def _result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


class _Many:
    """A read of many keys with a loader."""

    def __init__(self, keys: list[Any], tags: Any, codec: Any, default: Any) -> None:
        tags_of = tags if callable(tags) else (lambda _: tags)
        self.keys = keys
        self.items: list[tuple[Key, Tags]] = [(key, list(tags_of(key))) for key in keys]
        self.codec = codec
        self.default = default
        # Loaders receive the keys as the caller wrote them.
        self._by_bytes = {key.encode() if isinstance(key, str) else bytes(key): key for key in keys}
        self._encode = None if codec is None else codec.encode

    def _items(self, loaded: Any, asked: list[Any]) -> list[Any]:
        """Return what the extension module stores for the result of a loader."""
        if isinstance(loaded, Mapping):
            return [item(loaded[key] if key in loaded else NotFound(), self._encode) for key in asked]
        items = [item(value, self._encode) for value in loaded]
        if len(items) != len(asked):
            raise ValueError(f"the loader returned {len(items)} results for {len(asked)} keys")
        return items

    def load(self, loader: Callable[[list[Any]], Any], reply: _core.LoadReply) -> Any:
        asked = [self._by_bytes[key] for key in reply.keys]
        loaded = loader(asked)
        if inspect.isawaitable(loaded):
            return loaded
        return self._items(loaded, asked)

    async def load_later(self, loader: Callable[[list[Any]], Any], reply: _core.LoadReply) -> Any:
        asked = [self._by_bytes[key] for key in reply.keys]
        return self._items(await _result(loader(asked)), asked)

    def values(self, results: list[Any], undecodable: list[int]) -> list[Any]:
        for place, result in enumerate(results):
            if isinstance(result, BaseException):
                raise result
            if result is None:
                results[place] = self.default
            elif self.codec is not None:
                try:
                    results[place] = self.codec.decode(result)
                except Exception:  # noqa: BLE001
                    undecodable.append(place)
        return results

    def one(self, loaded: Any, key: Any) -> Any:
        """Return the result for one key."""
        if isinstance(loaded, Mapping):
            if key not in loaded:
                raise NotFound
            return loaded[key]
        (value,) = loaded
        return value
