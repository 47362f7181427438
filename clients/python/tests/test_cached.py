"""The decorator ``cached`` of both clients."""

from __future__ import annotations

import asyncio
import datetime
import enum
import inspect
import pickle
import sys
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import pytest
import terrace
from terrace.testing import Fake

FAKE = Fake()
CLIENT = FAKE.client()
ACLIENT = FAKE.async_client()


@dataclass
class User:
    id: int
    name: str


class Color(enum.Enum):
    RED = "red"


@CLIENT.cached("importable:{number}")
def importable(number: int) -> int:
    """Return the double."""
    return number * 2


@pytest.fixture(autouse=True)
def _empty() -> None:
    FAKE.clear()
    FAKE.reset_counts()


def test_a_call_is_cached() -> None:
    @CLIENT.cached("user:{user_id}", ttl="5m", stale="1m", tags=["all", "user:{user_id}"])
    def user(user_id: int, *, db: Annotated[Any, terrace.Ignore] = None) -> User:
        return User(user_id, f"{db}")

    assert user(1, db="a") == user(1, db="b") == user(user_id=1) == User(1, "a")
    assert user(2) == User(2, "None")
    assert FAKE.total_loads == 2
    assert FAKE.entry("user:1") == (b'{"id":1,"name":"a"}', 360.0, [b"all", b"user:1"])


async def test_a_call_of_a_coroutine_function_is_cached() -> None:
    @ACLIENT.cached("user:{user_id}", ttl="5m", tags=["user:{user_id}"])
    async def user(user_id: int) -> User | None:
        return User(user_id, "a") if user_id > 0 else None

    assert await asyncio.gather(*(user(1) for _ in range(10))) == [User(1, "a")] * 10
    assert [await user(0), await user(0)] == [None, None]
    assert FAKE.total_loads == 2
    assert await user.invalidate(1) is True
    assert await user.invalidate(1) is False
    await user.set(User(1, "set"), 1)
    assert await user(1) == User(1, "set")
    assert FAKE.entry("user:1")[2] == [b"user:1"]
    assert await user.refresh(1) == User(1, "a") == await user.uncached(1)
    explained = await user.explain(1)
    assert (explained.key, explained.tags, explained.entry.value) == ("user:1", ["user:1"], User(1, "a"))
    # Before Python 3.12, inspect knows only functions.
    is_coroutine_function = inspect if sys.version_info >= (3, 12) else asyncio
    assert is_coroutine_function.iscoroutinefunction(user)


def test_functions_of_the_decorated_function() -> None:
    values = iter(range(10))

    @CLIENT.cached("n:{name}", ttl="1m", tags=["t:{name}"])
    def number(name: str = "x") -> int:
        """Return the next number."""
        return next(values)

    assert (number.key(), number.key("y"), number.key(name="z")) == ("n:x", "n:y", "n:z")
    assert [number(), number()] == [0, 0]
    assert number.refresh() == 1 == number()
    assert number.uncached() == 2
    assert number() == 1
    assert number.invalidate() is True
    assert number.invalidate() is False
    assert number() == 3
    number.set(99, "y")
    assert number("y") == 99
    assert FAKE.entry("n:y") == (b"99", 60.0, [b"t:y"])
    assert number.explain("y").entry.value == 99
    assert number.explain("absent").entry is None
    assert (number.__name__, number.__doc__) == ("number", "Return the next number.")
    assert not inspect.iscoroutinefunction(number)
    assert list(inspect.signature(number).parameters) == ["name"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("é", "é"),
        (1, "1"),
        (True, "True"),
        (None, "None"),
        (b"\xff", "ff"),
        (1.5, "1.5"),
        (Color.RED, "red"),
        (Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime.date(2020, 1, 2), "2020-01-02"),
    ],
)
def test_arguments_in_keys(value: Any, text: str) -> None:
    @CLIENT.cached("k:{value}")
    def function(value: Any) -> int:
        return 0

    assert function.key(value) == f"k:{text}"


@pytest.mark.parametrize("value", [[1], {}, object(), 1j])
def test_arguments_without_a_stable_text_are_refused(value: Any) -> None:
    @CLIENT.cached("k:{value}")
    def function(value: Any) -> int:
        return 0

    with pytest.raises(TypeError, match=f"an argument of a key is {type(value).__name__}; expected str, int"):
        function(value)


def test_attributes_in_keys() -> None:
    @CLIENT.cached("u:{user.id}", tags=["n:{user.name}"])
    def function(user: User) -> int:
        return user.id

    assert function(User(1, "a")) == 1
    assert FAKE.entry("u:1") == (b"1", None, [b"n:a"])


def test_methods() -> None:
    class Shop:
        def __init__(self, number: int) -> None:
            self.number = number

        @CLIENT.cached("shop:{self.number}:{item}")
        def price(self, item: str) -> int:
            return self.number * len(item)

        @staticmethod
        @CLIENT.cached("static:{item}")
        def static(item: str) -> str:
            return item

    shop, other = Shop(2), Shop(3)
    assert (shop.price("abc"), other.price("abc"), Shop.price(shop, "abc")) == (6, 9, 6)
    assert FAKE.keys() == [b"shop:2:abc", b"shop:3:abc"]
    assert shop.price.key("abc") == "shop:2:abc"
    shop.price.set(7, "abc")
    assert (shop.price("abc"), shop.price.uncached("abc"), shop.price.explain("abc").entry.value) == (7, 6, 7)
    assert shop.price.refresh("abc") == 6
    assert shop.price.invalidate("abc") is True
    assert shop.static("x") == Shop.static("x") == "x"


def _plain(a: int, b: int = 0) -> int:
    return a


def _args(*a: int) -> int:
    return 0


def _kwargs(**a: int) -> int:
    return 0


async def _coroutine(a: int) -> int:
    return a


@pytest.mark.parametrize(
    ("template", "options", "function", "text"),
    [
        ("k:{a}", {}, _plain, r"_plain: the parameter 'b' is not a part of the key 'k:\{a\}'.*terrace\.Ignore"),
        ("k:{a}:{b}:{c}", {}, _plain, r"the key or a tag has \['c'\], which are not parameters"),
        ("k:{a}:{b}", {"tags": ["t:{c}"]}, _plain, r"the key or a tag has \['c'\]"),
        ("k:{a}:{b!r}", {}, _plain, "is not the name of a parameter or of its attribute"),
        ("k:{a}:{b:>5}", {}, _plain, "is not the name of a parameter or of its attribute"),
        ("k:{a}:{b[0]}", {}, _plain, "is not the name of a parameter or of its attribute"),
        ("k:{}", {}, _plain, "is not the name of a parameter or of its attribute"),
        ("k:{a", {}, _plain, "expected '}'"),
        ("k:{a}", {}, _args, r"\*a cannot be a part of a key"),
        ("k:{a}", {}, _kwargs, r"\*a cannot be a part of a key"),
        ("k:{a}", {}, _coroutine, "_coroutine is asynchronous; decorate it with AsyncClient.cached"),
        ("k:{a}:{b}", {"ttl": "soon"}, _plain, "invalid duration"),
        ("k:{a}:{b}", {"tll": 1}, _plain, "tll"),
    ],
)
def test_mistakes_are_found_at_decoration(template: str, options: Any, function: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        CLIENT.cached(template, **options)(function)


def test_braces_are_escaped() -> None:
    @CLIENT.cached("{{k}}:{a}")
    def function(a: int) -> int:
        return a

    assert function.key(1) == "{k}:1"


def test_wrong_calls_fail_as_the_function() -> None:
    for call in (lambda: importable(), lambda: importable(1, 2), lambda: importable(other=1)):
        with pytest.raises(TypeError):
            call()
    assert FAKE.total_loads == 0


def test_a_decorated_function_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(importable)) is importable
    assert importable(2) == 4


def test_absence_is_raised() -> None:
    @CLIENT.cached("k:{a}", negative_ttl="1m")
    def function(a: int) -> int:
        raise terrace.NotFound

    for _ in range(2):
        with pytest.raises(terrace.NotFound):
            function(1)
    assert FAKE.loads("k:1") == 1


def test_values_of_another_version_are_loaded_again() -> None:
    @CLIENT.cached("k:{a}")
    def function(a: int) -> User:
        return User(a, "new")

    CLIENT.set("k:1", "[]")
    assert function(1) == User(1, "new")


def test_bytes_are_stored_as_they_are() -> None:
    @CLIENT.cached("k:{a}")
    def function(a: int) -> bytes:
        return b"\xff"

    assert function(1) == function(1) == b"\xff"
    assert FAKE.entry("k:1") == (b"\xff", None, [])
