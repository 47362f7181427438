"""Reads and changes of products, through the cache. Start here."""

from __future__ import annotations

import os

import terrace
from database import Database, Product

DELAY = float(os.environ.get("QUERY_SECONDS", "0.05"))

#: Time in seconds for which an old product may be shown while a new one is loaded.
STALE = 3600

#: Each side of the comparison has its own database.
database = Database(DELAY)
cache = terrace.AsyncClient(
    os.environ.get("TERRACE_TARGET", "127.0.0.1:7400"),
    near_cache=terrace.NearCache(prefixes=["product:"], max_bytes="8MiB"),
)


@cache.cached(
    "product:{supplier}:{product_id}",
    ttl="1s",  # fresh
    stale=STALE,  # then returned at once, while one process loads the new value
    negative_ttl="5s",  # the database does not have the product
    tags=["supplier:{supplier}"],
)
async def product(supplier: str, product_id: int) -> Product:
    """Return a product."""
    found = await database.product(supplier, product_id)
    if found is None:
        raise terrace.NotFound(f"no product {product_id} of {supplier}")
    return found


async def set_price(supplier: str, product_id: int, price: int) -> None:
    """Change a price, and remove the cached product."""
    database.set_price(supplier, product_id, price)
    await product.invalidate(supplier, product_id)


async def set_motto(supplier: str, motto: str) -> None:
    """Change a motto, and remove all cached products of the supplier with one call."""
    database.set_motto(supplier, motto)
    await cache.invalidate_tags([f"supplier:{supplier}"])
