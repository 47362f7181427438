"""Programs that ``mypy --strict`` accepts, with the types that it must infer. This file is checked and never run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, assert_type

import terrace


@dataclass
class User:
    name: str


class Session:
    """Stands for a connection to a database."""


client = terrace.Client("127.0.0.1:7400", near_cache=terrace.NearCache(["user:"], max_bytes="64MiB"))
users = terrace.Client("127.0.0.1:7400", codec=terrace.Json(User))
assert_type(client, terrace.Client[bytes])
assert_type(users, terrace.Client[User])


def takes_a_client(client: terrace.Client, named: terrace.Client[User]) -> None:
    assert_type(client.get("a"), bytes | None)
    assert_type(named.get("a"), User | None)


def reads() -> None:
    assert_type(client.get("a"), bytes | None)
    assert_type(client.get("a", b""), bytes)
    assert_type(client.get("a", 0), bytes | int)
    assert_type(client.get("a", codec=terrace.Json(User)), User | None)
    assert_type(client.get("a", User("Ada"), codec=terrace.Json(User)), User)
    assert_type(client.get("a", codec=terrace.Json(list[User])), list[User] | None)
    assert_type(client.get("a", codec=terrace.Text()), str | None)
    assert_type(client.get("a", codec=terrace.Raw()), bytes | None)
    assert_type(client.get_many(["a", b"b"], timeout="100ms"), list[bytes | None])
    assert_type(client.get_many(["a"], codec=terrace.Json(User)), list[User | None])
    assert_type(client.get_many_each(["a"]), list[bytes | terrace.TerraceError | None])
    assert_type(users.get_many(["a"]), list[User | None])
    entry = client.lookup("a", codec=terrace.Json(User))
    if entry is not None:
        assert_type(entry.value, User)
        assert_type(entry.expires_in, float | None)
    lease = users.get_or_lease("a", wait=0)
    assert_type(lease.value, User | None)


def writes() -> None:
    assert_type(client.set("a", "text", ttl="5m", stale=3600, tags=["t"]), bool)
    client.set("a", b"bytes", ttl=timedelta(minutes=5), if_absent=True)
    client.set("a", User("Ada"), codec=terrace.Json(User))
    users.set("a", User("Ada"))
    client.set_many({"a": "1", "b": "2"}, ttl=1.5)
    client.set_many([("a", "1")])
    users.set_many({"a": User("Ada")})
    assert_type(client.delete("a", b"b"), int)
    assert_type(client.increment("n", 2, ttl="1h"), int)
    assert_type(client.touch("a", "5m", only="longer")["applied"], bool)
    assert_type(client.invalidate_prefix("user:")["removed"], int)
    assert_type(client.invalidate_tags(["t"]), int)
    assert_type(client.stats()[0]["reads"]["hit_l1"], int)
    for event in client.watch(["user:"]):
        assert_type(event.name, bytes | None)


def find(key: str) -> User:
    return User(key)


def loads() -> None:
    assert_type(client.get_or_load("a", lambda: b"1", ttl="5m"), bytes)
    assert_type(client.get_or_load("a", lambda: "text"), bytes)
    assert_type(client.get_or_load("a", lambda: b"1", default=None), bytes | None)
    assert_type(client.get_or_load("a", lambda: find("a"), codec=terrace.Json(User)), User)
    assert_type(client.get_or_load("a", lambda: find("a"), codec=terrace.Json(User), default=0), User | int)
    assert_type(client.get_or_load("a", lambda: terrace.Loaded(b"1", ttl="1s")), bytes)
    assert_type(users.get_or_load("a", lambda: find("a"), on_unavailable="stale"), User)
    assert_type(users.get_or_load("a", lambda: terrace.Loaded(find("a"), ttl=1)), User)
    found = client.get_or_load_many(["a"], lambda keys: {key: find(key) for key in keys}, codec=terrace.Json(User))
    assert_type(found, list[User | None])
    assert_type(client.get_or_load_many(["a"], lambda keys: [b"1" for _ in keys], default=b""), list[bytes])


@client.cached("user:{user_id}", ttl="5m", stale="1h", tags=["user:{user_id}"])
def user(user_id: int, *, session: Annotated[Session, terrace.Ignore]) -> User:
    return User(str(user_id))


@client.cached(lambda text: f"upper:{text}")
def upper(text: str) -> str | terrace.Loaded[str]:
    return terrace.Loaded(text.upper(), ttl="1m")


class Repository:
    team: str = "red"

    @client.cached("{self.team}:{user_id}")
    def user(self, user_id: int) -> User:
        return User(self.team)


def cached_functions() -> None:
    session = Session()
    assert_type(user(1, session=session), User)
    assert_type(user.key(1, session=session), str)
    assert_type(user.invalidate(1, session=session), bool)
    assert_type(user.refresh(1, session=session), User)
    assert_type(user.uncached(1, session=session), User)
    user.set(User("Ada"), 1, session=session)
    explanation = user.explain(1, session=session)
    if explanation.entry is not None:
        assert_type(explanation.entry.value, User)
    assert_type(Repository().user(1), User)
    assert_type(Repository().user.key(1), str)
    assert_type(Repository().user.invalidate(user_id=1), bool)


aclient = terrace.AsyncClient("dns:///terrace:7400", tls=True, token_file="/run/secrets/token")
ausers = terrace.AsyncClient(codec=terrace.Json(User))


async def find_later(key: str) -> User:
    return User(key)


async def text_later() -> str:
    return "text"


async def asynchronous() -> None:
    reading: Coroutine[Any, Any, bytes | None] = aclient.get("a")
    assert_type(await reading, bytes | None)
    assert_type(await aclient.get("a"), bytes | None)
    assert_type(await aclient.get("a", codec=terrace.Json(User)), User | None)
    assert_type(await ausers.get("a"), User | None)
    await aclient.set("a", "text")
    await ausers.set("a", User("Ada"))
    assert_type(await aclient.get_or_load("a", text_later), bytes)
    assert_type(await aclient.get_or_load("a", lambda: find_later("a"), codec=terrace.Json(User)), User)
    assert_type(await aclient.get_or_load("a", lambda: find("a"), codec=terrace.Json(User)), User)
    assert_type(await ausers.get_or_load("a", lambda: find_later("a"), default=None), User | None)
    async for event in await aclient.watch():
        assert_type(event.kind == "key", bool)
    async with aclient as same:
        assert_type(same, terrace.AsyncClient[bytes])


async def find_many(keys: list[str]) -> dict[str, User]:
    return {key: User(key) for key in keys}


async def many() -> None:
    assert_type(await ausers.get_or_load_many(["a"], find_many), list[User | None])


@aclient.cached("later:{user_id}", ttl="5m")
async def later(user_id: int) -> User:
    return User(str(user_id))


class Service:
    @aclient.cached("service:{number}")
    async def square(self, number: int) -> int:
        return number * number


async def cached_coroutines() -> None:
    assert_type(await later(1), User)
    assert_type(later.key(1), str)
    assert_type(await later.invalidate(1), bool)
    assert_type(await later.refresh(user_id=1), User)
    assert_type(await later.uncached(1), User)
    await later.set(User("Ada"), 1)
    assert_type(await later.explain(1), terrace.Explanation[User])
    assert_type(await Service().square(3), int)
    assert_type(await Service().square.invalidate(3), bool)


def as_values(function: Callable[[int], Awaitable[User]], duration: terrace.Duration) -> None:
    as_values(later, "5m")
