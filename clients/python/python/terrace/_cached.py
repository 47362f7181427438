"""The decorator ``cached``."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import inspect
import string
import typing
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from . import _core
from ._load import Loaded
from ._types import Duration
from .codecs import Codec, codec_for

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._client import AsyncClient, Client

P = ParamSpec("P")
Rest = ParamSpec("Rest")
R = TypeVar("R")
S = TypeVar("S")
_MISSING: Any = object()


class Ignore:
    """Marks a parameter that does not belong to the key: ``db: Annotated[Session, terrace.Ignore]``."""


@dataclass(frozen=True)
class Explanation(Generic[R]):
    """The stored value for a call of a cached function. Its read changes no statistics."""

    #: The key.
    key: str
    #: The tags of a value that is loaded now.
    tags: list[str]
    #: The stored value with its metadata; ``None`` if the key is absent.
    entry: _core.Entry[R] | None


@dataclass(frozen=True)
class Settings:
    """Arguments of ``cached``."""

    key: str | Callable[..., str]
    options: _core.LoadOptions
    life: dict[str, Duration | None]
    tags: tuple[str, ...]
    codec: Codec[Any] | None
    timeout: Duration | None


_TEXTUAL = (str, int, float, uuid.UUID, datetime.date, datetime.time, datetime.datetime, decimal.Decimal)


def _text(value: Any) -> str:
    """Return the text of an argument in a key: equal arguments have equal texts in all processes."""
    if value.__class__ is int:
        return str(value)
    if isinstance(value, enum.Enum):
        return _text(value.value)
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, _TEXTUAL):
        return str(value)
    raise TypeError(
        f"an argument of a key is {type(value).__name__}; expected str, int, float, bool, bytes, None, an Enum, UUID, "
        "Decimal, date or time. Use an attribute in the key, such as {user.id}, or the parameter `key` as a function"
    )


def _fields(template: str) -> list[tuple[str, str | None]]:
    """Return the parts of a template: text, and the field after it."""
    parts = []
    for text, field, spec, conversion in string.Formatter().parse(template):
        if field is not None and (spec or conversion or not all(name.isidentifier() for name in field.split("."))):
            raise ValueError(f"{template!r}: {field!r} is not the name of a parameter or of its attribute")
        parts.append((text, field))
    return parts


def _expression(template: str) -> str:
    """Return the Python expression of a template."""
    parts = []
    for text, field in _fields(template):
        if text:
            parts.append(repr(text))
        if field:
            parts.append(f"({field} if {field}.__class__ is str else _text({field}))")
    return " + ".join(parts) or "''"


def _is_ignored(parameter: inspect.Parameter, hints: dict[str, Any]) -> bool:
    metadata = getattr(hints.get(parameter.name), "__metadata__", ())
    return any(mark is Ignore or isinstance(mark, Ignore) for mark in metadata)


def _hints(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Return the annotations; ``None`` if they name types that are not defined yet."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:
        return None


def _names(template: str) -> set[str]:
    """Return the parameters that a template names."""
    return {field.split(".")[0] for _, field in _fields(template) if field}


def _check_names(templates: tuple[str, ...], signature: inspect.Signature, name: str) -> None:
    unknown = set().union(*map(_names, templates)) - signature.parameters.keys()
    if unknown:
        raise TypeError(f"{name}: the key or a tag has {sorted(unknown)}, which are not parameters of the function")


def _check_parameters(template: str, signature: inspect.Signature, hints: dict[str, Any], name: str) -> None:
    used = _names(template)
    for place, parameter in enumerate(signature.parameters.values()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{name}: *{parameter.name} cannot be a part of a key; use named parameters")
        is_self = place == 0 and parameter.name in ("self", "cls")
        if parameter.name not in used and not is_self and not _is_ignored(parameter, hints):
            raise TypeError(
                f"{name}: the parameter {parameter.name!r} is not a part of the key {template!r}, so that calls with "
                f"different values would share one result; add {{{parameter.name}}}, or annotate the parameter with "
                "Annotated[..., terrace.Ignore]"
            )


def _compiled(expression: str, signature: inspect.Signature, title: str) -> Any:
    """Return a function for an expression, with the parameters of the decorated function."""
    names: dict[str, Any] = {"_text": _text}
    parameters = []
    for place, parameter in enumerate(signature.parameters.values()):
        default = parameter.default
        if default is not parameter.empty:
            names[f"_default{place}"] = default
            # The text of the default is a name of the generated function.
            default = _Source(f"_default{place}")
        parameters.append(parameter.replace(annotation=parameter.empty, default=default))
    source = f"def compiled{inspect.Signature(parameters)}:\n    return {expression}\n"
    exec(compile(source, f"<{title}>", "exec"), names)  # noqa: S102 - names and literals only
    return names["compiled"]


class _Source:
    """A default whose representation is source code."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class _Plan:
    """The key, tags, codec and options of a decorated function."""

    def __init__(self, client: Any, function: Callable[..., Any], settings: Settings) -> None:
        self.client = client
        self.function = function
        signature = inspect.signature(function)
        name = getattr(function, "__qualname__", repr(function))
        if callable(settings.key):
            self.key: Any = settings.key
            _check_names(settings.tags, signature, name)
        else:
            _check_names((settings.key, *settings.tags), signature, name)
            _check_parameters(settings.key, signature, _hints(function) or {}, name)
            self.key = _compiled(_expression(settings.key), signature, f"key {settings.key}")
        tags = ", ".join(map(_expression, settings.tags))
        self.tags: Any = _compiled(f"[{tags}]", signature, f"tags of {name}")
        self._codec = settings.codec
        self.life = settings.life
        self.timeout = settings.timeout
        self.options = settings.options

    @functools.cached_property
    def codec(self) -> Any:
        """The codec of the return annotation. Resolved late: the annotation may name a type that is defined later."""
        if self._codec is not None:
            return self._codec
        if self.client._codec is not None:
            return self.client._codec
        hints = typing.get_type_hints(self.function, include_extras=True)
        return codec_for(hints.get("return", Any))


def _finish(wrapper: Any, plan: _Plan) -> None:
    functools.update_wrapper(wrapper, plan.function)
    wrapper.key = plan.key
    wrapper.uncached = plan.function
    wrapper.client = plan.client


class _Bound:
    """A decorated method of an object."""

    def __init__(self, wrapper: Any, instance: Any) -> None:
        self._wrapper = wrapper
        self._instance = instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._wrapper(self._instance, *args, **kwargs)

    def set(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return self._wrapper.set(value, self._instance, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._wrapper, name)
        if name in ("key", "uncached", "invalidate", "refresh", "explain"):
            return functools.partial(attribute, self._instance)
        return attribute


class _Cached:
    """A decorated function."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._near = plan.client._near
        _finish(self, plan)

    def _bound(self, instance: Any) -> Any:
        return self if instance is None else _Bound(self, instance)

    def __repr__(self) -> str:
        return f"<cached {self._plan.function!r}>"

    def __reduce__(self) -> str:
        # As a function: by its name.
        return str(self._plan.function.__qualname__)


class Cached(_Cached, Generic[P, R]):
    """A function whose results are cached. Its methods have the parameters of the function."""

    if TYPE_CHECKING:

        def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
            """Return the key of a call."""

        def uncached(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Call the function itself, without the cache."""

    #: The client of the decorator.
    client: Client[Any]

    @overload
    def __get__(self, instance: None, owner: Any = None) -> Self: ...
    @overload
    def __get__(self: Cached[Concatenate[S, Rest], R], instance: S, owner: Any = None) -> Cached[Rest, R]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Return the method of an object."""
        return self._bound(instance)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result; call the function if there is none."""
        plan = self._plan
        key = plan.key(*args, **kwargs)
        value = self._near(key, plan.codec, _MISSING)
        if value is not _MISSING:
            return value  # type: ignore[no-any-return]
        return self._load(key, args, kwargs, False)

    def _load(self, key: str, args: Any, kwargs: Any, refresh: bool) -> R:
        plan = self._plan
        tags = plan.tags(*args, **kwargs)

        def loader() -> Any:
            return plan.function(*args, **kwargs)

        return plan.client._get_or_load(  # type: ignore[no-any-return]
            key, loader, plan.options, tags, plan.codec, plan.client._unset, refresh, plan.timeout
        )

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function and store its result, even if the cached result is fresh.

        After a change of the origin use ``invalidate``: it also prevents that an earlier load stores an old result.
        """
        return self._load(self._plan.key(*args, **kwargs), args, kwargs, True)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Delete the result of a call. Return whether there was one."""
        return bool(self._plan.client.delete(self._plan.key(*args, **kwargs)))

    def set(self, value: R, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a result for a call, with the TTL, stale part and tags of the decorator."""
        plan = self._plan
        tags = plan.tags(*args, **kwargs)
        plan.client.set(plan.key(*args, **kwargs), value, tags=tags, codec=plan.codec, **plan.life)

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation[R]:
        """Return the key, the tags and the stored entry of a call, without a call of the function."""
        plan = self._plan
        key = plan.key(*args, **kwargs)
        entry = plan.client.lookup(key, codec=plan.codec, no_touch=True)
        return Explanation(key, plan.tags(*args, **kwargs), entry)


class AsyncCached(_Cached, Generic[P, R]):
    """An asynchronous function whose results are cached. Its methods have the parameters of the function."""

    if TYPE_CHECKING:

        def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
            """Return the key of a call."""

        async def uncached(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Call the function itself, without the cache."""

    #: The client of the decorator.
    client: AsyncClient[Any]

    # asyncio.iscoroutinefunction answers for this object as for a function; inspect does from Python 3.12 on.
    def __init__(self, plan: _Plan) -> None:
        super().__init__(plan)
        mark = getattr(inspect, "markcoroutinefunction", None)
        if mark is not None:
            mark(self)
        else:
            from asyncio import coroutines

            self._is_coroutine = coroutines._is_coroutine  # type: ignore[attr-defined]

    @overload
    def __get__(self, instance: None, owner: Any = None) -> Self: ...
    @overload
    def __get__(self: AsyncCached[Concatenate[S, Rest], R], instance: S, owner: Any = None) -> AsyncCached[Rest, R]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Return the method of an object."""
        return self._bound(instance)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result; call the function if there is none."""
        plan = self._plan
        key = plan.key(*args, **kwargs)
        value = self._near(key, plan.codec, _MISSING)
        if value is not _MISSING:
            return value  # type: ignore[no-any-return]
        return await self._load(key, args, kwargs, False)

    async def _load(self, key: str, args: Any, kwargs: Any, refresh: bool) -> R:
        plan = self._plan
        tags = plan.tags(*args, **kwargs)

        def loader() -> Any:
            return plan.function(*args, **kwargs)

        return await plan.client._get_or_load(  # type: ignore[no-any-return]
            key, loader, plan.options, tags, plan.codec, plan.client._unset, refresh, plan.timeout
        )

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function and store its result, even if the cached result is fresh.

        After a change of the origin use ``invalidate``: it also prevents that an earlier load stores an old result.
        """
        return await self._load(self._plan.key(*args, **kwargs), args, kwargs, True)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Delete the result of a call. Return whether there was one."""
        return bool(await self._plan.client.delete(self._plan.key(*args, **kwargs)))

    async def set(self, value: R, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a result for a call, with the TTL, stale part and tags of the decorator."""
        plan = self._plan
        tags = plan.tags(*args, **kwargs)
        await plan.client.set(plan.key(*args, **kwargs), value, tags=tags, codec=plan.codec, **plan.life)

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation[R]:
        """Return the key, the tags and the stored entry of a call, without a call of the function."""
        plan = self._plan
        key = plan.key(*args, **kwargs)
        entry = await plan.client.lookup(key, codec=plan.codec, no_touch=True)
        return Explanation(key, plan.tags(*args, **kwargs), entry)


class Decorator:
    """The decorator of a synchronous client."""

    def __init__(self, client: Client[Any], settings: Settings) -> None:
        self._client = client
        self._settings = settings

    def __call__(self, function: Callable[P, R | Loaded[R]], /) -> Cached[P, R]:
        """Return the decorated function."""
        if inspect.iscoroutinefunction(function):
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(f"{name} is asynchronous; decorate it with AsyncClient.cached")
        return Cached(_Plan(self._client, function, self._settings))


class AsyncDecorator:
    """The decorator of a client for asyncio."""

    def __init__(self, client: AsyncClient[Any], settings: Settings) -> None:
        self._client = client
        self._settings = settings

    @overload
    def __call__(self, function: Callable[P, Awaitable[R | Loaded[R]]], /) -> AsyncCached[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R | Loaded[R]], /) -> AsyncCached[P, R]: ...
    def __call__(self, function: Callable[P, Any], /) -> AsyncCached[P, Any]:
        """Return the decorated function. A synchronous function blocks the event loop while it loads."""
        return AsyncCached(_Plan(self._client, function, self._settings))
