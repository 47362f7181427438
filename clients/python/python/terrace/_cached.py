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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import _core
from .codecs import codec_for

_MISSING: Any = object()


class Ignore:
    """Marks a parameter that does not belong to the key: ``db: Annotated[Session, terrace.Ignore]``."""


@dataclass(frozen=True)
class Explanation:
    """What the cache has for a call of a cached function."""

    #: The key.
    key: str
    #: The tags of a value that is loaded now.
    tags: list[str]
    #: The stored value with its metadata; ``None`` if the key is absent.
    entry: Any


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


def _check(template: str, tags: list[str], signature: inspect.Signature, hints: dict[str, Any], name: str) -> None:
    used = {field.split(".")[0] for _, field in _fields(template) if field}
    tagged = {field.split(".")[0] for tag in tags for _, field in _fields(tag) if field}
    unknown = (used | tagged) - signature.parameters.keys()
    if unknown:
        raise TypeError(f"{name}: the key or a tag has {sorted(unknown)}, which are not parameters of the function")
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


def _compiled(template: str, tags: list[str], signature: inspect.Signature) -> tuple[Any, Any]:
    """Return the functions for the key and the tags, with the parameters of the decorated function."""
    names: dict[str, Any] = {"_text": _text}
    parameters = []
    for place, parameter in enumerate(signature.parameters.values()):
        default = parameter.default
        if default is not parameter.empty:
            names[f"_default{place}"] = default
            # The text of the default is a name of the generated function.
            default = _Source(f"_default{place}")
        parameters.append(parameter.replace(annotation=parameter.empty, default=default))
    listed = str(inspect.Signature(parameters))
    source = (
        f"def key{listed}:\n    return {_expression(template)}\n"
        f"def tags{listed}:\n    return [{', '.join(map(_expression, tags))}]\n"
    )
    exec(compile(source, f"<key {template}>", "exec"), names)  # noqa: S102 - names and literals only
    return names["key"], names["tags"]


class _Source:
    """A default whose representation is source code."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class _Plan:
    """The key, tags, codec and options of a decorated function."""

    def __init__(self, client: Any, function: Callable[..., Any], template: str, options: dict[str, Any]) -> None:
        self.client = client
        self.function = function
        signature = inspect.signature(function)
        hints = _hints(function) or {}
        tags = [str(tag) for tag in options.pop("tags", ())]
        name = getattr(function, "__qualname__", repr(function))
        _check(template, tags, signature, hints, name)
        self.key, self.tags = _compiled(template, tags, signature)
        self.has_codec = "codec" in options
        self._codec = options.pop("codec", None)
        self.life = {name: options[name] for name in ("ttl", "stale") if options.get(name) is not None}
        self.timeout = options.pop("timeout", None)
        self.options = _core.LoadOptions(**options)

    @functools.cached_property
    def codec(self) -> Any:
        """The codec of the return annotation. Resolved late: the annotation may name a type that is defined later."""
        if self.has_codec:
            return self._codec
        if self.client._codec is not None:
            return self.client._codec
        hints = typing.get_type_hints(self.function, include_extras=True)
        return codec_for(hints.get("return", Any))


def _finish(wrapper: Any, plan: _Plan) -> Any:
    functools.update_wrapper(wrapper, plan.function)
    wrapper.key = plan.key
    wrapper.uncached = plan.function
    wrapper.client = plan.client
    return wrapper


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

    key: Callable[..., str]
    uncached: Callable[..., Any]

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else _Bound(self, instance)

    def __repr__(self) -> str:
        return f"<cached {self._plan.function!r}>"

    def __reduce__(self) -> str:
        # As a function: by its name.
        return self._plan.function.__qualname__


class _SyncCached(_Cached):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        plan = self._plan
        key = plan.key(*args, **kwargs)
        value = self._near(key, plan.codec, _MISSING)
        if value is not _MISSING:
            return value
        return self._load(key, args, kwargs, False)

    def _load(self, key: str, args: Any, kwargs: Any, refresh: bool) -> Any:
        plan = self._plan
        tags = plan.tags(*args, **kwargs)

        def loader() -> Any:
            return plan.function(*args, **kwargs)

        return plan.client._get_or_load(
            key, loader, plan.options, tags, plan.codec, plan.client._unset, refresh, plan.timeout
        )

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        return self._load(self._plan.key(*args, **kwargs), args, kwargs, True)

    def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._plan.client.delete(self._plan.key(*args, **kwargs)))

    def set(self, value: Any, *args: Any, **kwargs: Any) -> None:
        plan = self._plan
        tags = plan.tags(*args, **kwargs)
        plan.client.set(plan.key(*args, **kwargs), value, tags=tags, codec=plan.codec, **plan.life)

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        plan = self._plan
        key = plan.key(*args, **kwargs)
        entry = plan.client.lookup(key, codec=plan.codec, no_touch=True)
        return Explanation(key, plan.tags(*args, **kwargs), entry)


class _AsyncCached(_Cached):
    # asyncio.iscoroutinefunction and inspect.iscoroutinefunction answer for this object as for a function.
    def __init__(self, plan: _Plan) -> None:
        super().__init__(plan)
        mark = getattr(inspect, "markcoroutinefunction", None)
        if mark is not None:
            mark(self)
        else:
            from asyncio import coroutines

            self._is_coroutine = coroutines._is_coroutine  # type: ignore[attr-defined]

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        plan = self._plan
        key = plan.key(*args, **kwargs)
        value = self._near(key, plan.codec, _MISSING)
        if value is not _MISSING:
            return value
        return await self._load(key, args, kwargs, False)

    async def _load(self, key: str, args: Any, kwargs: Any, refresh: bool) -> Any:
        plan = self._plan
        tags = plan.tags(*args, **kwargs)

        def loader() -> Any:
            return plan.function(*args, **kwargs)

        return await plan.client._get_or_load(
            key, loader, plan.options, tags, plan.codec, plan.client._unset, refresh, plan.timeout
        )

    async def refresh(self, *args: Any, **kwargs: Any) -> Any:
        return await self._load(self._plan.key(*args, **kwargs), args, kwargs, True)

    async def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        return bool(await self._plan.client.delete(self._plan.key(*args, **kwargs)))

    async def set(self, value: Any, *args: Any, **kwargs: Any) -> None:
        plan = self._plan
        tags = plan.tags(*args, **kwargs)
        await plan.client.set(plan.key(*args, **kwargs), value, tags=tags, codec=plan.codec, **plan.life)

    async def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        plan = self._plan
        key = plan.key(*args, **kwargs)
        entry = await plan.client.lookup(key, codec=plan.codec, no_touch=True)
        return Explanation(key, plan.tags(*args, **kwargs), entry)


def cached_sync(client: Any, template: str, options: dict[str, Any]) -> Callable[[Callable[..., Any]], Any]:
    """Return the decorator of a synchronous client."""

    def decorate(function: Callable[..., Any]) -> Any:
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{function.__qualname__} is asynchronous; decorate it with AsyncClient.cached")
        return _SyncCached(_Plan(client, function, template, dict(options)))

    return decorate


def cached_async(client: Any, template: str, options: dict[str, Any]) -> Callable[[Callable[..., Any]], Any]:
    """Return the decorator of a client for asyncio."""

    def decorate(function: Callable[..., Any]) -> Any:
        return _AsyncCached(_Plan(client, function, template, dict(options)))

    return decorate
