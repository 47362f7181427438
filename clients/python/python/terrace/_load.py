"""Runs the loaders of ``get_or_load``: the extension module calls these functions."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ._core import Chain, LoadReply
from ._types import Duration
from .errors import NotFound

#: The loads that the present load was begun by. A loader that loads its own key would wait for itself.
CHAIN: contextvars.ContextVar[Chain | None] = contextvars.ContextVar("terrace_chain", default=None)

#: Loads of event loops, which hold only weak references to their tasks.
_tasks: set[asyncio.Task[None]] = set()

_NONE_TEXT = (
    "the loader returned None, which only a codec such as terrace.Json() can store; "
    "raise terrace.NotFound if the origin does not have the key"
)


T = TypeVar("T")


class Loaded(Generic[T]):
    """Result of a loader with its own TTL and stale part, instead of those of the call.

    >>> client.get_or_load("user:1", lambda: terrace.Loaded(b"Ada", ttl="1m"), ttl="1h")
    b'Ada'
    """

    __slots__ = ("stale", "ttl", "value")

    def __init__(self, value: T, *, ttl: Duration | None = None, stale: Duration | None = None) -> None:
        self.value = value
        self.ttl = ttl
        self.stale = stale


def item(value: Any, encode: Callable[[Any], bytes] | None) -> tuple[Any, Any, Any]:
    """Return what the extension module stores for a result of a loader."""
    ttl = stale = None
    if isinstance(value, Loaded):
        value, ttl, stale = value.value, value.ttl, value.stale
    if isinstance(value, NotFound):
        return None, value.ttl, None
    if encode is not None:
        return encode(value), ttl, stale
    if value is None:
        raise TypeError(_NONE_TEXT)
    return value, ttl, stale


Items = Callable[[Any], list[tuple[Any, Any, Any]]]


def _reply(reply: LoadReply, load: Callable[[], Any], items: Items) -> None:
    try:
        loaded = load()
        if inspect.isawaitable(loaded):
            if inspect.iscoroutine(loaded):
                loaded.close()
            raise TypeError("the loader is asynchronous; use AsyncClient, or a loader that returns its result")
        reply.loaded(items(loaded))
    except NotFound as absent:
        _absent(reply, absent)
    except BaseException as error:  # noqa: BLE001
        # The caller of the load raises it.
        reply.failed(error)


def _absent(reply: LoadReply, absent: NotFound) -> None:
    try:
        reply.loaded([(None, absent.ttl, None)] * max(1, len(reply.keys)))
    except BaseException as error:  # noqa: BLE001
        reply.failed(error)


def thread_runner(load: Callable[[LoadReply], Any], items: Items) -> Callable[[LoadReply, bool], None]:
    """Return the function that runs a load on a thread: of the caller, or in the background."""
    context = contextvars.copy_context()

    def in_context(reply: LoadReply) -> None:
        token = CHAIN.set(reply.chain)
        try:
            _reply(reply, lambda: load(reply), items)
        finally:
            CHAIN.reset(token)

    def run(reply: LoadReply, in_background: bool) -> None:
        # Two loads may use the context at the same time, which a context does not permit.
        if in_background:
            context.copy().run(in_context, reply)
        else:
            in_context(reply)

    return run


async def _reply_later(reply: LoadReply, load: Callable[[LoadReply], Any], items: Items) -> None:
    CHAIN.set(reply.chain)
    try:
        loaded = load(reply)
        if inspect.isawaitable(loaded):
            loaded = await loaded
        reply.loaded(items(loaded))
    except NotFound as absent:
        _absent(reply, absent)
    except BaseException as error:
        reply.failed(error)
        if not isinstance(error, Exception):
            raise


def loop_runner(load: Callable[[LoadReply], Any], items: Items) -> Callable[[LoadReply, bool], None]:
    """Return the function that begins a load on the event loop."""
    context = contextvars.copy_context()

    def run(reply: LoadReply, in_background: bool) -> None:
        task = context.copy().run(asyncio.get_running_loop().create_task, _reply_later(reply, load, items))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    return run
