"""The response cache of single routes of FastAPI."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import httpx
import pytest
import terrace
from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException, Response
from fastapi.responses import StreamingResponse
from framework_server import Server, running, serving, until
from pydantic import BaseModel
from terrace.fastapi import CachedRoute, cached_response, invalidates


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


class Product(BaseModel):
    id: int
    name: str = "tea"


class Shop:
    """An application with cached routes."""

    def __init__(self, client: Any) -> None:
        self.calls = 0
        self.checks = 0
        self.mails = 0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.app = FastAPI()
        self.app.router.route_class = CachedRoute
        self._add(client, {"prefix": f"http:{secrets.token_hex(4)}:"})

    def _add(self, client: Any, options: dict[str, Any]) -> None:
        app = self.app

        async def check(x_token: Annotated[str | None, Header()] = None) -> str:
            self.checks += 1
            if x_token == "bad":
                raise HTTPException(401)
            return x_token or ""

        @app.get("/products/{id}")
        @cached_response(client, ttl=0.3, stale="5m", tags=["product:{id}"], **options)
        async def product(id: int, response: Response, user: str = Depends(check), page: int = 1) -> Product:
            self.calls += 1
            calls = self.calls
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise self.error
            response.headers["x-calls"] = str(calls)
            return Product(id=id)

        @app.put("/products/{id}")
        @invalidates(client, tags=["product:{id}"])
        async def change(id: int, product: Product) -> Product:
            return product

        @app.get("/sync")
        @cached_response(client, ttl="30s", **options)
        def plain(tasks: BackgroundTasks) -> dict[str, int]:
            self.calls += 1
            tasks.add_task(self._mail)
            return {"calls": self.calls}

        @app.get("/stream")
        @cached_response(client, ttl="30s", **options)
        async def stream() -> StreamingResponse:
            self.calls += 1
            return StreamingResponse(iter([b"a", b"b", str(self.calls).encode()]))

    def _mail(self) -> None:
        self.mails += 1


@contextlib.asynccontextmanager
async def shop(server: Server) -> AsyncIterator[tuple[Shop, httpx.AsyncClient]]:
    client = terrace.AsyncClient(server.target)
    shop = Shop(client)
    async with serving(shop.app) as url, httpx.AsyncClient(base_url=url, timeout=20) as http:
        yield shop, http
    await client.close()


async def test_dependencies_run_for_hits_and_the_endpoint_does_not(server: Server) -> None:
    async with shop(server) as (at, http):
        miss, hit = await http.get("/products/1"), await http.get("/products/1")
        assert miss.json() == hit.json() == {"id": 1, "name": "tea"}
        assert miss.headers["x-calls"] == hit.headers["x-calls"] == "1"
        assert "hit" in hit.headers["cache-status"]
        assert hit.headers["content-type"] == "application/json"
        assert (at.calls, at.checks) == (1, 2)
        assert (await http.get("/products/1", headers={"x-token": "bad"})).status_code == 401
        assert (await http.get("/products/x")).status_code == 422
        assert (await http.get("/products/1", headers={"if-none-match": hit.headers["etag"]})).status_code == 304


async def test_signature_of_the_endpoint_is_kept(server: Server) -> None:
    async with shop(server) as (_, http):
        operation = (await http.get("/openapi.json")).json()["paths"]["/products/{id}"]["get"]
        assert sorted(item["name"] for item in operation["parameters"]) == ["id", "page", "x-token"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/Product"}


async def test_a_change_invalidates_by_tag(server: Server) -> None:
    async with shop(server) as (at, http):
        await http.get("/products/1")
        await http.put("/products/1", json={"id": 1})
        assert (await http.get("/products/1")).headers["x-calls"] == "2"
        assert at.calls == 2


async def test_one_request_refreshes_a_stale_response(server: Server) -> None:
    async with shop(server) as (at, http):
        await http.get("/products/1")
        await asyncio.sleep(0.4)
        at.gate = asyncio.Event()
        refreshing = asyncio.create_task(http.get("/products/1"))
        await until(lambda: at.calls >= 2)
        assert (await http.get("/products/1")).headers["x-calls"] == "1"
        at.gate.set()
        assert (await refreshing).headers["x-calls"] == "2"
        assert (await http.get("/products/1")).headers["x-calls"] == "2"


async def test_a_failed_refresh_is_answered_with_the_stale_response(server: Server) -> None:
    async with shop(server) as (at, http):
        await http.get("/products/1")
        await asyncio.sleep(0.4)
        at.error = HTTPException(503)
        answer = await http.get("/products/1")
        assert (answer.status_code, answer.headers["x-calls"]) == (200, "1")
        assert "fwd=stale" in answer.headers["cache-status"]
        assert at.calls == 2


async def test_errors_are_not_stored(server: Server) -> None:
    async with shop(server) as (at, http):
        at.error = HTTPException(404)
        assert (await http.get("/products/1")).status_code == 404
        at.error = RuntimeError("origin")
        assert (await http.get("/products/2")).status_code == 500
        at.error = None
        assert (await http.get("/products/1")).status_code == 200
        assert (await http.get("/products/2")).status_code == 200


async def test_one_of_many_concurrent_requests_runs_the_endpoint(server: Server) -> None:
    async with shop(server) as (at, http):
        at.gate = asyncio.Event()
        waiting = [asyncio.create_task(http.get("/products/1")) for _ in range(20)]
        await until(lambda: at.checks >= 20)
        at.gate.set()
        assert {answer.headers["x-calls"] for answer in await asyncio.gather(*waiting)} == {"1"}


async def test_sync_endpoints_background_tasks_and_streams(server: Server) -> None:
    async with shop(server) as (at, http):
        assert (await http.get("/sync")).json() == (await http.get("/sync")).json() == {"calls": 1}
        await until(lambda: at.mails >= 1)
        assert (await http.get("/stream")).text == (await http.get("/stream")).text == "ab2"
        assert at.mails == 1


def test_mistakes_are_reported(server: Server) -> None:
    client = terrace.AsyncClient(server.target)
    app = FastAPI()
    app.router.route_class = CachedRoute

    async def endpoint(id: int) -> int:
        return id

    with pytest.raises(ValueError, match=r"for GET and HEAD; the route '/a' has POST"):
        app.post("/a")(cached_response(client, ttl=1)(endpoint))
    with pytest.raises(TypeError, match=r"\['name'\]"):
        invalidates(client, tags=["a:{name}"])(endpoint)
    with pytest.raises(TypeError, match="unexpected keyword"):
        cached_response(client, ttl=1, tll=2)


async def test_a_router_without_the_route_class_is_reported(server: Server) -> None:
    app = FastAPI()
    client = terrace.AsyncClient(server.target)

    @app.get("/")
    @cached_response(client, ttl=1)
    async def endpoint() -> int:
        return 1

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        with pytest.raises(RuntimeError, match="route_class=CachedRoute"):
            await http.get("/")
    await client.close()
