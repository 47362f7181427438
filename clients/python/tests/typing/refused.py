"""Mistakes that ``mypy --strict`` must find: each comment fails the test if mypy accepts its line."""

from __future__ import annotations

from dataclasses import dataclass

import terrace


@dataclass
class User:
    name: str


client = terrace.Client()
users = terrace.Client(codec=terrace.Json(User))
aclient = terrace.AsyncClient()

terrace.Client(routing="random")  # type: ignore[call-overload]
terrace.Client("a:1", read_timout="1s")  # type: ignore[call-overload]
client.get(1)  # type: ignore[call-overload]
client.get("a", time="1s")  # type: ignore[call-overload]
client.set("a", 1)  # type: ignore[call-overload]
client.set("a", User("Ada"))  # type: ignore[call-overload]
client.set("a", "b", codec=terrace.Json(User))  # type: ignore[misc]
users.set("a", 1)  # type: ignore[call-overload]
client.set("a", "b", ttl=[])  # type: ignore[call-overload]
client.touch("a", "5m", only="larger")  # type: ignore[arg-type]
client.get_or_load("a", lambda: b"", on_unavailable="fail")  # type: ignore[call-overload]
client.get_or_load("a", lambda: 1)  # type: ignore[arg-type, return-value]
client.get("a").decode()  # type: ignore[union-attr]
number: int = client.get_or_load("a", lambda: User("a"), codec=terrace.Json(User))  # type: ignore[assignment]


@client.cached("user:{user_id}", ttl="5m")
def user(user_id: int) -> User:
    return User(str(user_id))


user("1")  # type: ignore[arg-type]
user.key()  # type: ignore[call-arg]
user.invalidate(1, 2)  # type: ignore[call-arg]
user.set("Ada", 1)  # type: ignore[arg-type]
text: str = user(1)  # type: ignore[assignment]
client.cached("user", tll="5m")  # type: ignore[call-arg]
client.cached("user", on_unavailable="fail")  # type: ignore[arg-type]


@aclient.cached("later:{user_id}")
async def later(user_id: int) -> User:
    return User(str(user_id))


async def asynchronous() -> None:
    aclient.get("a").decode()  # type: ignore[attr-defined]
    print(later(1).name)  # type: ignore[attr-defined]
    await later("1")  # type: ignore[arg-type]
