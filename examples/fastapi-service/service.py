"""The endpoints."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import comparison
import page
import products
import terrace
from database import Product
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

app = FastAPI(title="Terrace: a slow database")
running = asyncio.Lock()


@app.exception_handler(terrace.NotFound)
async def not_found(_request: Request, error: Exception) -> JSONResponse:
    """Answer for a product that does not exist."""
    return JSONResponse({"detail": str(error)}, 404)


@app.get("/suppliers/{supplier}/products/{product_id}")
async def read(supplier: str, product_id: int) -> Product:
    """Return a product, through the cache."""
    return await products.product(supplier, product_id)


@app.get("/direct/suppliers/{supplier}/products/{product_id}")
async def read_directly(supplier: str, product_id: int) -> Product:
    """Return a product from the database."""
    return await comparison.read_directly(supplier, product_id)


@app.put("/suppliers/{supplier}/products/{product_id}/price/{price}")
async def set_price(supplier: str, product_id: int, price: int) -> None:
    """Change a price."""
    await products.set_price(supplier, product_id, price)


@app.put("/suppliers/{supplier}/motto/{motto}")
async def set_motto(supplier: str, motto: str) -> None:
    """Change a motto, which is a part of all products of the supplier."""
    await products.set_motto(supplier, motto)


@app.get("/numbers")
async def numbers() -> dict[str, Any]:
    """Return the numbers of the page."""
    saved = comparison.numbers.origin_seconds_saved
    not_found = products.database.not_found
    return asdict(comparison.numbers) | {"origin_seconds_saved": saved, "not_found": not_found}


@app.post("/run")
async def run() -> RedirectResponse:
    """Run the load, and show the page. Loads run one after the other."""
    async with running:
        await comparison.compare()
    return RedirectResponse("/", 303)


@app.get("/", response_class=HTMLResponse)
async def show() -> str:
    """Return the page."""
    return page.render(comparison.numbers)
