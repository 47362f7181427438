"""The clients."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import _core
from ._cached import cached_async, cached_sync
from ._load import CHAIN, item, loop_runner, thread_runner
from .errors import DecodeError, NotFound

#: An argument that was not given.
UNSET: Any = type("Unset", (), {"__repr__": lambda self: "UNSET", "__slots__": ()})()
_MISSING: Any = object()


def _decode_error(data: bytes, cause: Exception) -> DecodeError:
    error = DecodeError(f"cannot decode a value of {len(data)} bytes: {cause}")
    error.__cause__ = cause
    return error


def _absent(key: Any, default: Any) -> Any:
    if default is UNSET:
        raise NotFound(f"the origin does not have the key {key!r}")
    return default


def _results(keys: list[Any], encode: Callable[[Any], bytes] | None) -> Callable[[Any], list[Any]]:
    """Return the conversion of the result of a loader of many keys."""

    def convert(loaded: Any, asked: list[Any]) -> list[Any]:
        if isinstance(loaded, Mapping):
            return [item(loaded[key] if key in loaded else NotFound(), encode) for key in asked]
        items = [item(value, encode) for value in loaded]
        if len(items) != len(asked):
            raise ValueError(f"the loader returned {len(items)} results for {len(asked)} keys")
        return items

    return convert  # type: ignore[return-value]


class _Base(_core.CoreClient):
    """What both clients have."""

    _is_async: bool

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
        arguments = {
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
        client = super().__new__(cls, target, cls._is_async, codec, arguments, _fake)
        client._codec = codec
        client._target = target
        return client

    _codec: Any
    _target: str
    #: The default of ``get_or_load`` in decorated functions.
    _unset = UNSET

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take the arguments of ``__new__``."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._target!r})"

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} has connections; create one in each process instead of pickling it")

    def _codec_of(self, codec: Any) -> Any:
        return self._codec if codec is UNSET else codec


def _options(options: dict[str, Any]) -> _core.LoadOptions:
    return _core.LoadOptions(**options)


class Client(_Base):
    """A synchronous client. One client serves all threads of a process, and the processes that are forked from it."""

    _is_async = False

    def get_or_load(
        self,
        key: Any,
        loader: Callable[[], Any],
        *,
        tags: Iterable[Any] = (),
        codec: Any = UNSET,
        default: Any = UNSET,
        refresh: bool = False,
        timeout: Any = None,
        **options: Any,
    ) -> Any:
        return self._get_or_load(
            key, loader, _options(options), list(tags), self._codec_of(codec), default, refresh, timeout
        )

    def _get_or_load(
        self,
        key: Any,
        loader: Callable[[], Any],
        options: _core.LoadOptions,
        tags: list[Any],
        codec: Any,
        default: Any,
        refresh: bool,
        timeout: Any,
    ) -> Any:
        if not refresh:
            value = self._near(key, codec, _MISSING)
            if value is not _MISSING:
                return value
        encode = None if codec is None else codec.encode
        run = thread_runner(lambda _: loader(), lambda value: [item(value, encode)])
        data = self._load(key, options, tags, run, CHAIN.get(), refresh, timeout, _MISSING)
        if data is _MISSING:
            return _absent(key, default)
        if codec is None:
            return data
        try:
            return codec.decode(data)
        except Exception:
            # Stored by another version of the application: load it again.
            data = self._load(key, options, tags, run, CHAIN.get(), True, timeout, _MISSING)
        if data is _MISSING:
            return _absent(key, default)
        try:
            return codec.decode(data)
        except Exception as cause:
            raise _decode_error(data, cause) from cause

    def get_or_load_many(
        self,
        keys: Iterable[Any],
        loader: Callable[[list[Any]], Any],
        *,
        tags: Any = (),
        codec: Any = UNSET,
        default: Any = None,
        timeout: Any = None,
        **options: Any,
    ) -> list[Any]:
        many = _Many(list(keys), tags, self._codec_of(codec), default)
        run = thread_runner(lambda reply: many.load(loader, reply), lambda items: items)
        results = self._load_many(many.items, _options(options), run, CHAIN.get(), timeout)
        undecodable: list[Any] = []
        values = many.values(results, undecodable)
        for place in undecodable:
            # Stored by another version of the application: load it again.
            key, tags_of_key = many.keys[place], many.items[place][1]
            values[place] = self.get_or_load(
                key,
                lambda key=key: many.one(loader([key]), key),
                tags=tags_of_key,
                codec=many.codec,
                default=default,
                refresh=True,
                timeout=timeout,
                **options,
            )
        return values

    def cached(self, key: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        return cached_sync(self, key, options)

    def close(self) -> None:
        self._close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Base):
    """A client for asyncio. One client serves all event loops of a process, and the processes that are forked from it."""

    _is_async = True

    async def get_or_load(
        self,
        key: Any,
        loader: Callable[[], Any],
        *,
        tags: Iterable[Any] = (),
        codec: Any = UNSET,
        default: Any = UNSET,
        refresh: bool = False,
        timeout: Any = None,
        **options: Any,
    ) -> Any:
        return await self._get_or_load(
            key, loader, _options(options), list(tags), self._codec_of(codec), default, refresh, timeout
        )

    async def _get_or_load(
        self,
        key: Any,
        loader: Callable[[], Any],
        options: _core.LoadOptions,
        tags: list[Any],
        codec: Any,
        default: Any,
        refresh: bool,
        timeout: Any,
    ) -> Any:
        if not refresh:
            value = self._near(key, codec, _MISSING)
            if value is not _MISSING:
                return value
        encode = None if codec is None else codec.encode
        run = loop_runner(lambda _: loader(), lambda value: [item(value, encode)])
        data = await self._load(key, options, tags, run, CHAIN.get(), refresh, timeout, _MISSING)
        if data is _MISSING:
            return _absent(key, default)
        if codec is None:
            return data
        try:
            return codec.decode(data)
        except Exception:
            # Stored by another version of the application: load it again.
            data = await self._load(key, options, tags, run, CHAIN.get(), True, timeout, _MISSING)
        if data is _MISSING:
            return _absent(key, default)
        try:
            return codec.decode(data)
        except Exception as cause:
            raise _decode_error(data, cause) from cause

    async def get_or_load_many(
        self,
        keys: Iterable[Any],
        loader: Callable[[list[Any]], Any],
        *,
        tags: Any = (),
        codec: Any = UNSET,
        default: Any = None,
        timeout: Any = None,
        **options: Any,
    ) -> list[Any]:
        many = _Many(list(keys), tags, self._codec_of(codec), default)
        run = loop_runner(lambda reply: many.load_later(loader, reply), lambda items: items)
        results = await self._load_many(many.items, _options(options), run, CHAIN.get(), timeout)
        undecodable: list[Any] = []
        values = many.values(results, undecodable)
        for place in undecodable:
            # Stored by another version of the application: load it again.
            key, tags_of_key = many.keys[place], many.items[place][1]

            async def load_one(key: Any = key) -> Any:
                return many.one(await _result(loader([key])), key)

            values[place] = await self.get_or_load(
                key,
                load_one,
                tags=tags_of_key,
                codec=many.codec,
                default=default,
                refresh=True,
                timeout=timeout,
                **options,
            )
        return values

    def cached(self, key: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        return cached_async(self, key, options)

    async def close(self) -> None:
        self._close()

    async def __aenter__(self) -> AsyncClient:
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
        self.items = [(key, list(tags_of(key))) for key in keys]
        self.codec = codec
        self.default = default
        # Loaders receive the keys as the caller wrote them.
        self._by_bytes = {key.encode() if isinstance(key, str) else bytes(key): key for key in keys}
        self._convert: Any = _results(keys, None if codec is None else codec.encode)

    def load(self, loader: Callable[[list[Any]], Any], reply: _core.LoadReply) -> Any:
        asked = [self._by_bytes[key] for key in reply.keys]
        loaded = loader(asked)
        if inspect.isawaitable(loaded):
            return loaded
        return self._convert(loaded, asked)

    async def load_later(self, loader: Callable[[list[Any]], Any], reply: _core.LoadReply) -> Any:
        asked = [self._by_bytes[key] for key in reply.keys]
        return self._convert(await _result(loader(asked)), asked)

    def values(self, results: list[Any], undecodable: list[int]) -> list[Any]:
        for place, result in enumerate(results):
            if isinstance(result, BaseException):
                raise result
            if result is None:
                results[place] = self.default
            elif self.codec is not None:
                try:
                    results[place] = self.codec.decode(result)
                except Exception:
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
