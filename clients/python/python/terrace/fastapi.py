"""Response cache for single routes of FastAPI.

>>> app = FastAPI()
>>> app.router.route_class = CachedRoute
>>> @app.get("/products/{id}")
... @cached_response(client, ttl="30s", stale="5m", tags=["product:{id}"])
... async def product(id: int) -> Product: ...
>>> @app.put("/products/{id}")
... @invalidates(client, tags=["product:{id}"])
... async def change(id: int, product: Product) -> Product: ...

The dependencies of a route run for each request, also for those that the cache answers.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from .asgi import Receive, Scope, Send, forward
from .errors import TerraceError
from .http import Answer, Exchange, ResponseStore, Rule
from .http import Request as CacheRequest

__all__ = ["CachedRoute", "cached_response", "invalidates"]

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_PARAMETER = "terrace_request"
_STATE = "terrace.response"
_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_log = logging.getLogger("terrace.http")


class _State:
    """State that the decorator and the route of a request share."""

    __slots__ = ("exchange", "store")

    def __init__(self) -> None:
        self.store: ResponseStore | None = None
        self.exchange: Exchange | None = None


def cached_response(
    client: Any,
    *,
    ttl: Any,
    stale: Any = 0,
    tags: Any = (),
    prefix: str = "http:",
    name: str = "terrace",
    wait: Any = "3s",
    uncacheable_ttl: Any = "10s",
    **rule: Any,
) -> Callable[[_Endpoint], _Endpoint]:
    """Cache the responses of an endpoint. The router requires ``route_class=CachedRoute``.

    ``tags`` are texts with parameters of the path such as ``product:{id}``, or a function of the request. ``rule``
    are the further arguments of ``terrace.http.Rule``. In the stale part of a response, one request runs the endpoint
    and waits for it; the others receive the stored response.
    """
    store = ResponseStore(client, prefix, name, wait, uncacheable_ttl=uncacheable_ttl)
    chosen = Rule(ttl=ttl, stale=stale, tags=tags, **rule)

    def decorate(endpoint: _Endpoint) -> _Endpoint:
        run = _runner(endpoint)

        @functools.wraps(endpoint)
        async def cached(*args: Any, **kwargs: Any) -> Any:
            request: Request = kwargs.pop(_PARAMETER)
            state: _State | None = request.scope.get(_STATE)
            if state is None:
                raise RuntimeError(
                    f"{endpoint.__qualname__} has cached_response, and its router has no route_class=CachedRoute; set "
                    "APIRouter(route_class=CachedRoute), or app.router.route_class before the route is added"
                )
            answer = await _stored(state, store, chosen, request)
            return await run(*args, **kwargs) if answer is None else answer

        cached.__signature__ = _with_request(endpoint)  # type: ignore[attr-defined]
        cached.__terrace_cached__ = True  # type: ignore[attr-defined]
        return cached  # type: ignore[return-value]

    return decorate


def invalidates(client: Any, *, tags: Iterable[str]) -> Callable[[_Endpoint], _Endpoint]:
    """Invalidate tags after an endpoint has returned, before its response is sent.

    The fields of a tag such as ``product:{id}`` are parameters of the endpoint. If the cache cannot be reached, the
    response is sent, and a warning is logged: stored responses remain until the end of their TTL.
    """
    if isinstance(tags, str):
        raise TypeError("tags is one str; expected a list")
    listed = list(tags)

    def decorate(endpoint: _Endpoint) -> _Endpoint:
        run = _runner(endpoint)
        used = {name for tag in listed for name in _FIELD.findall(tag)}
        if unknown := sorted(used - inspect.signature(endpoint).parameters.keys()):
            raise TypeError(f"{endpoint.__qualname__}: tags has {unknown}, which are not parameters of the endpoint")

        @functools.wraps(endpoint)
        async def changed(*args: Any, **kwargs: Any) -> Any:
            names = [_FIELD.sub(lambda field: str(kwargs[field[1]]), tag) for tag in listed]
            result = await run(*args, **kwargs)
            try:
                await client.invalidate_tags(names)
            except TerraceError as error:
                _log.warning("tags were not invalidated: %s", type(error).__name__)
            return result

        return changed  # type: ignore[return-value]

    return decorate


class CachedRoute(APIRoute):
    """Route that stores the responses of endpoints with ``cached_response``. Other endpoints are not affected."""

    def get_route_handler(self) -> _Handler:
        """Return the function that answers a request."""
        handler: _Handler = super().get_route_handler()
        if not getattr(self.endpoint, "__terrace_cached__", False):
            return handler
        if other := sorted((self.methods or set()) - {"GET", "HEAD"}):
            raise ValueError(f"cached_response is for GET and HEAD; the route {self.path!r} has {', '.join(other)}")
        return functools.partial(_answer, handler)


async def _answer(handler: _Handler, request: Request) -> Response:
    state = _State()
    request.scope[_STATE] = state
    try:
        response = await handler(request)
    except BaseException as error:
        stored = await _failed(state, error)
        if stored is None:
            raise
        return stored
    if state.exchange is None or state.store is None:
        return response
    return _Stored(response, state.store, state.exchange)


async def _stored(state: _State, store: ResponseStore, rule: Rule, request: Request) -> Response | None:
    """Return the stored response; ``None`` if the endpoint must run."""
    asked = CacheRequest(request.scope)
    asked.params = {name: str(value) for name, value in request.path_params.items()}
    if not rule.matches(asked):
        return None
    exchange = await store.find(rule, asked)
    if exchange.record is not None and exchange.grant is None:
        return _response(store.answer(exchange, exchange.record, is_hit=True))
    if exchange.is_refused:
        return _response(Answer(504, [(b"content-length", b"0"), (b"cache-status", store.status(exchange))], b""))
    if exchange.record is not None:
        exchange.fallback, exchange.record, exchange.forward = exchange.record, None, "stale"
    state.store, state.exchange = store, exchange
    return None


async def _failed(state: _State, error: BaseException) -> Response | None:
    """End the load. Return the stored response if there is one, and the error is one of the server."""
    store, exchange = state.store, state.exchange
    if store is None or exchange is None:
        return None
    if not isinstance(error, Exception):
        await store.drop(exchange)
        return None
    status = error.status_code if isinstance(error, HTTPException) else 500
    await store.refuse(exchange, "error" if status >= 500 else "status", status)
    record = exchange.fallback
    if status < 500 or record is None or record.age_at(store.clock()) > record.ttl + record.if_error:
        return None
    _log.warning("the endpoint failed; the stored response was sent: %s", type(error).__name__)
    return _response(store.answer(exchange, record, is_hit=False))


def _response(answer: Answer) -> Response:
    response = Response(answer.body, answer.status)
    response.raw_headers = list(answer.headers)
    return response


class _Stored(Response):
    """A response that is stored while it is sent."""

    def __init__(self, response: Response, store: ResponseStore, exchange: Exchange) -> None:
        self._response = response
        self._store = store
        self._exchange = exchange
        # What middleware of other packages reads.
        self.status_code = response.status_code
        self.background = response.background
        self.raw_headers = response.raw_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        await forward(self._store, self._response, self._exchange, scope, receive, send)


def _runner(endpoint: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return a coroutine function that runs an endpoint, as FastAPI does."""
    if inspect.isasyncgenfunction(endpoint) or inspect.isgeneratorfunction(endpoint):
        raise TypeError(f"{endpoint.__qualname__} is a generator; a stream without an end cannot be cached")
    if inspect.iscoroutinefunction(endpoint):
        return endpoint
    return functools.partial(run_in_threadpool, endpoint)


def _with_request(endpoint: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of an endpoint with a parameter for the request."""
    signature = inspect.signature(endpoint)
    parameters = list(signature.parameters.values())
    place = len(parameters) - (1 if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD else 0)
    parameters.insert(place, inspect.Parameter(_PARAMETER, inspect.Parameter.KEYWORD_ONLY, annotation=Request))
    return signature.replace(parameters=parameters)
