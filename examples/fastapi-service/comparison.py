"""The built-in load: the same reads and changes with the cache and without it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import products
import terrace
from database import PRODUCTS, SUPPLIERS, Database, Product

CALLERS = 20
#: Steps of each caller. Every 25th changes a price.
STEPS = 50
PAUSE = 0.02
#: Limit of steps that wait for a condition.
ATTEMPTS_MAX = 400

Read = Callable[[str, int], Awaitable[Product]]
Change = Callable[[str, int, int], Awaitable[None]]


@dataclass
class Side:
    """Numbers of one side under the load."""

    reads: int = 0
    queries: int = 0
    #: Time of the database for these reads, in seconds.
    origin_seconds: float = 0.0
    near_hits: int = 0
    median_ms: float = 0.0
    slowest_ms: float = 0.0
    seconds: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Part of the reads that needed no query."""
        return max(0.0, 1 - self.queries / self.reads) if self.reads else 0.0


@dataclass
class Numbers:
    """What the page shows. Pairs are the numbers with the cache and without it."""

    cached: Side = field(default_factory=Side)
    direct: Side = field(default_factory=Side)
    #: Queries for concurrent reads of one absent product.
    stampede: tuple[int, int] | None = None
    #: Milliseconds of a read of a product in its stale part, and of a query.
    stale: tuple[float, float] | None = None
    #: Products that one call for a tag removed.
    tagged: int | None = None

    @property
    def origin_seconds_saved(self) -> float:
        """Time of the database that the cache saved."""
        return self.direct.origin_seconds - self.cached.origin_seconds


direct_database = Database(products.DELAY)
numbers = Numbers()


async def read_directly(supplier: str, product_id: int) -> Product:
    """Return a product without the cache."""
    found = await direct_database.product(supplier, product_id)
    if found is None:
        raise terrace.NotFound
    return found


async def change_directly(supplier: str, product_id: int, price: int) -> None:
    """Change a price without the cache."""
    direct_database.set_price(supplier, product_id, price)


async def call_repeatedly(seed: int, read: Read, change: Change, times: list[float]) -> None:
    """Read and change products as one caller: few products get most reads."""
    chance = random.Random(seed)
    weights = [1 / rank for rank in range(1, PRODUCTS + 1)]
    for step in range(1, STEPS + 1):
        supplier = chance.choice(SUPPLIERS)
        product_id = chance.choices(range(1, PRODUCTS + 1), weights)[0]
        if step % 25 == 0:
            await change(supplier, product_id, chance.randrange(1000))
            continue
        began = time.perf_counter()
        await read(supplier, product_id)
        times.append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE)


async def measure(read: Read, change: Change, database: Database) -> Side:
    """Run the load on one side."""
    times: list[float] = []
    near, queries, seconds = near_hits(), database.queries, database.seconds
    began = time.perf_counter()
    await asyncio.gather(*(call_repeatedly(seed, read, change, times) for seed in range(CALLERS)))
    times.sort()
    return Side(
        reads=len(times),
        queries=database.queries - queries,
        origin_seconds=database.seconds - seconds,
        near_hits=near_hits() - near,
        median_ms=1000 * times[len(times) // 2],
        slowest_ms=1000 * times[-1],
        seconds=time.perf_counter() - began,
    )


def near_hits() -> int:
    """Return the number of reads that the near cache of this process has answered."""
    stats = products.cache.near_stats()
    return stats["hits"] if stats else 0


async def compare_load() -> None:
    """Run the load on both sides."""
    numbers.cached = await measure(products.product, products.set_price, products.database)
    direct = await measure(read_directly, change_directly, direct_database)
    direct.near_hits = 0
    numbers.direct = direct


async def compare_stampede() -> None:
    """Read one absent product with many callers at a time."""
    await products.product.invalidate(SUPPLIERS[0], 1)
    before = (products.database.queries, direct_database.queries)
    await asyncio.gather(*(products.product(SUPPLIERS[0], 1) for _ in range(CALLERS)))
    await asyncio.gather(*(read_directly(SUPPLIERS[0], 1) for _ in range(CALLERS)))
    numbers.stampede = (products.database.queries - before[0], direct_database.queries - before[1])


async def is_stale(supplier: str, product_id: int) -> bool:
    """Return whether the cached product is in its stale part."""
    entry = (await products.product.explain(supplier, product_id)).entry
    return entry is not None and entry.expires_in is not None and entry.expires_in < products.STALE


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition."""
    for _ in range(ATTEMPTS_MAX):
        if await condition():
            return
        await asyncio.sleep(PAUSE)
    raise TimeoutError("the condition did not come true")


async def compare_stale() -> None:
    """Read a product in its stale part: the old value at once, and the new value after a load in the background."""
    supplier, product_id = SUPPLIERS[1], 2
    old = await products.product.refresh(supplier, product_id)
    await until(lambda: is_stale(supplier, product_id))
    # A change that this service does not know about.
    products.database.set_price(supplier, product_id, old.price + 1)
    began = time.perf_counter()
    first = await products.product(supplier, product_id)
    middle = time.perf_counter()
    await read_directly(supplier, product_id)
    ended = time.perf_counter()
    if first.price != old.price:
        raise RuntimeError(f"the price is {first.price}; expected the stale price {old.price}")

    async def is_new() -> bool:
        return (await products.product(supplier, product_id)).price == old.price + 1

    await until(is_new)
    numbers.stale = (1000 * (middle - began), 1000 * (ended - middle))


async def compare_tags() -> None:
    """Change a supplier: one call removes all its products from the cache."""
    supplier, motto = SUPPLIERS[0], f"motto {random.randrange(10**6)}"
    ids = range(1, PRODUCTS + 1)
    await asyncio.gather(*(products.product(supplier, number) for number in ids))
    await products.set_motto(supplier, motto)
    read = await asyncio.gather(*(products.product(supplier, number) for number in ids))
    numbers.tagged = sum(product.motto == motto for product in read)


async def compare() -> Numbers:
    """Run all comparisons."""
    await compare_stampede()
    await compare_stale()
    await compare_tags()
    await compare_load()
    return numbers
