"""A slow database: SQLite in memory, with an artificial delay and counters."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from dataclasses import dataclass

#: Suppliers and the number of their products.
SUPPLIERS = ("north", "south")
PRODUCTS = 20


@dataclass(frozen=True)
class Product:
    """A row with its supplier. Frozen: the near cache shares one object between all callers."""

    id: int
    supplier: str
    motto: str
    price: int


class Database:
    """A database of which each query takes ``delay`` seconds."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        #: Number of queries.
        self.queries = 0
        #: Number of queries that found nothing.
        self.not_found = 0
        #: Time of all queries in seconds.
        self.seconds = 0.0
        self._rows = sqlite3.connect(":memory:", check_same_thread=False)
        self._rows.execute("CREATE TABLE supplier (name TEXT PRIMARY KEY, motto TEXT)")
        self._rows.execute(
            "CREATE TABLE product (id INTEGER, supplier TEXT, price INTEGER, PRIMARY KEY (supplier, id))"
        )
        for supplier in SUPPLIERS:
            self._rows.execute("INSERT INTO supplier VALUES (?, 'onward')", (supplier,))
            rows = [(number, supplier, 100 * number) for number in range(1, PRODUCTS + 1)]
            self._rows.executemany("INSERT INTO product VALUES (?, ?, ?)", rows)

    async def product(self, supplier: str, product_id: int) -> Product | None:
        """Return a product: the slow query."""
        began = time.perf_counter()
        await asyncio.sleep(self.delay)
        query = (
            "SELECT id, supplier, motto, price FROM product JOIN supplier ON name = supplier WHERE name = ? AND id = ?"
        )
        row = self._rows.execute(query, (supplier, product_id)).fetchone()
        self.queries += 1
        self.not_found += row is None
        self.seconds += time.perf_counter() - began
        return Product(*row) if row else None

    def set_price(self, supplier: str, product_id: int, price: int) -> None:
        """Change the price of a product."""
        self._rows.execute("UPDATE product SET price = ? WHERE supplier = ? AND id = ?", (price, supplier, product_id))

    def set_motto(self, supplier: str, motto: str) -> None:
        """Change the motto of a supplier, which is a part of all its products."""
        self._rows.execute("UPDATE supplier SET motto = ? WHERE name = ?", (motto, supplier))
