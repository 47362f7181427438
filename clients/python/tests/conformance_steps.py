"""Steps of the scenarios in clients/conformance: execution by a client, and comparison of results."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import terrace
from conftest import PATIENCE

Step = dict[str, Any]
#: Fields that every step may have.
COMMON = {"do", "expect", "error", "eventually"}
#: Fields of the operations.
FIELDS: dict[str, set[str]] = {
    "get": {"key"},
    "lookup": {"key", "no_touch"},
    "set": {"key", "value", "ttl_ms", "stale_ms", "tags", "if"},
    "delete": {"keys"},
    "get_many": {"keys"},
    "get_many_each": {"keys"},
    "touch": {"key", "ttl_ms", "only"},
    "increment": {"key", "delta", "ttl_ms"},
    "set_many": {"entries"},
    "set_many_each": {"entries"},
    "invalidate_pattern": {"pattern", "dry_run", "wait"},
    "invalidate_prefix": {"prefix", "dry_run", "wait"},
    "invalidate_tags": {"tags"},
    "get_or_lease": {"key", "stale_ms", "lease_ms", "wait_ms", "tags", "refresh", "save"},
    "fill": {"grant", "value", "ttl_ms", "stale_ms"},
    "fill_absent": {"grant", "ttl_ms"},
    "fail": {"grant", "message", "retry_after_ms"},
    "release": {"grant"},
    "watch": {"prefixes", "heartbeat_ms", "save"},
    "next_event": {"watch"},
    "stats": set(),
}
KINDS = {
    "Unavailable",
    "DeadlineExceeded",
    "ResourceExhausted",
    "InvalidArgument",
    "FailedPrecondition",
    "PermissionDenied",
    "Unauthenticated",
    "Unimplemented",
    "OutcomeUnknown",
    "Internal",
}


class Fault(Exception):
    """A step that is wrong, or whose result is not as expected."""


def check_names(item: Any, known: set[str]) -> None:
    """Check that an object has only these fields."""
    if not isinstance(item, dict):
        raise Fault(f"{item!r} is not an object")
    unknown = item.keys() - known
    if unknown:
        raise Fault(f"unknown field {min(unknown)!r}; expected one of {', '.join(sorted(known))}")


def to_bytes(value: Any) -> bytes:
    """Return the bytes that a JSON value stands for."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and "hex" in value:
        return bytes.fromhex(value["hex"])
    if isinstance(value, dict) and value.keys() == {"repeat", "times"}:
        return bytes((value["repeat"] * value["times"]).encode())
    raise Fault(f"{value!r} is not bytes")


def to_list(value: Any) -> list[bytes]:
    """Return the keys, tags or prefixes that a JSON value stands for."""
    if isinstance(value, dict):
        check_names(value, {"numbered", "count"})
        return [f"{value['numbered']}{number}".encode() for number in range(value["count"])]
    return [to_bytes(item) for item in value]


def show(data: bytes | None) -> Any:
    """Return bytes as a scenario writes them."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"hex": data.hex()}


def show_ms(seconds: float | None) -> int | None:
    """Return whole milliseconds."""
    return None if seconds is None else int(seconds * 1000 + 1e-6)


def _options(step: Step, **names: str) -> dict[str, Any]:
    """Return the arguments of a step that it has: durations, lists and conditions."""
    options: dict[str, Any] = {}
    for argument, field in names.items():
        value = step.get(field)
        if value is None:
            continue
        if field.endswith("_ms"):
            value = value / 1000
        elif field in ("tags", "prefixes"):
            value = to_list(value)
        options[argument] = value
    return options


async def result_of(value: Any) -> Any:
    """Return the result of an operation of either client."""
    return await value if inspect.isawaitable(value) else value


class Saved:
    """Grants and change feeds of a scenario, by the names under which its steps saved them."""

    def __init__(self) -> None:
        self.grants: dict[str, Any] = {}
        self.feeds: dict[str, Any] = {}

    def grant(self, step: Step) -> Any:
        """Take a grant."""
        if step["grant"] not in self.grants:
            raise Fault(f"no grant {step['grant']!r} is saved")
        return self.grants.pop(step["grant"])


class Executor:
    """Executes the steps of scenarios."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def execute(self, step: Step, saved: Saved) -> tuple[Any, Any]:
        """Return the result of a step, and its grant."""
        name = step.get("do", "")
        if name not in FIELDS:
            raise Fault(f"unknown operation {name!r}")
        check_names(step, COMMON | FIELDS[name])
        if name == "get_or_lease":
            return await self._get_or_lease(step)
        if name in ("fill", "fill_absent", "fail", "release"):
            return await self._finish(name, step, saved), None
        if name in ("watch", "next_event"):
            return await getattr(self, f"_{name}")(step, saved), None
        return await getattr(self, f"_{name}")(step), None

    async def _get(self, step: Step) -> Any:
        return show(await result_of(self.client.get(to_bytes(step["key"]))))

    async def _lookup(self, step: Step) -> Any:
        entry = await result_of(self.client.lookup(to_bytes(step["key"]), no_touch=step.get("no_touch", False)))
        if entry is None:
            return None
        return {
            "value": show(entry.value),
            "tier": entry.tier,
            "is_stale": entry.is_stale,
            "expires_in_ms": show_ms(entry.expires_in),
            "age_ms": show_ms(entry.age),
            "tags": [show(tag) for tag in entry.tags],
        }

    async def _set(self, step: Step) -> Any:
        options = _options(step, ttl="ttl_ms", stale="stale_ms", tags="tags")
        condition = step.get("if")
        if isinstance(condition, dict):
            options["if_equal"] = to_bytes(condition["equal"])
        elif condition is not None:
            options[f"if_{condition}"] = True
        return await result_of(self.client.set(to_bytes(step["key"]), to_bytes(step["value"]), **options))

    async def _delete(self, step: Step) -> Any:
        return await result_of(self.client.delete(*to_list(step["keys"])))

    async def _touch(self, step: Step) -> Any:
        options = _options(step, ttl="ttl_ms", only="only")
        return await result_of(self.client.touch(to_bytes(step["key"]), **options))

    async def _increment(self, step: Step) -> Any:
        options = _options(step, ttl="ttl_ms")
        return await result_of(self.client.increment(to_bytes(step["key"]), step["delta"], **options))

    async def _get_many(self, step: Step) -> Any:
        return [show(value) for value in await result_of(self.client.get_many(to_list(step["keys"])))]

    async def _get_many_each(self, step: Step) -> Any:
        return [_shown(result) for result in await result_of(self.client.get_many_each(to_list(step["keys"])))]

    async def _set_many(self, step: Step) -> Any:
        await self._write_many(step, self.client.set_many)

    async def _set_many_each(self, step: Step) -> Any:
        return await self._write_many(step, self.client.set_many_each)

    async def _write_many(self, step: Step, write: Any) -> Any:
        """Write the entries; one call for those with the same TTL and tags, as the call has one of each."""
        groups: dict[str, tuple[dict[str, Any], list[int]]] = {}
        for place, entry in enumerate(step["entries"]):
            check_names(entry, {"key", "value", "ttl_ms", "tags"})
            options = _options(entry, ttl="ttl_ms", tags="tags")
            groups.setdefault(repr(options), (options, []))[1].append(place)
        shown: list[Any] = [None] * len(step["entries"])
        for options, places in groups.values() if shown else [({}, [])]:
            entries = [step["entries"][place] for place in places]
            pairs = [(to_bytes(entry["key"]), to_bytes(entry["value"])) for entry in entries]
            results = await result_of(write(pairs, **options))
            for place, result in zip(places, results or (), strict=results is not None):
                shown[place] = _shown(result)
        return shown

    async def _invalidate_pattern(self, step: Step) -> Any:
        return await self._invalidate(self.client.invalidate_pattern, step["pattern"], step)

    async def _invalidate_prefix(self, step: Step) -> Any:
        return await self._invalidate(self.client.invalidate_prefix, step["prefix"], step)

    async def _invalidate(self, invalidate: Any, subject: Any, step: Step) -> Any:
        return await result_of(invalidate(to_bytes(subject), **_options(step, dry_run="dry_run", wait="wait")))

    async def _invalidate_tags(self, step: Step) -> Any:
        return await result_of(self.client.invalidate_tags(to_list(step["tags"])))

    async def _stats(self, step: Step) -> Any:
        nodes = await result_of(self.client.stats())
        reads = sum(node["reads"][name] for node in nodes for name in ("hit_l1", "hit_l2", "miss"))
        return {"nodes": len(nodes), "reads": reads}

    async def _get_or_lease(self, step: Step) -> tuple[Any, Any]:
        options = _options(step, stale="stale_ms", lease="lease_ms", wait="wait_ms", tags="tags", refresh="refresh")
        lease = await result_of(self.client.get_or_lease(to_bytes(step["key"]), **options))
        shown: dict[str, Any] = {"kind": lease.kind}
        if lease.kind == "hit":
            shown |= {"value": show(lease.value), "needs_refresh": lease.needs_refresh}
            shown |= {"has_grant": lease.grant is not None, "fresh_for_ms": show_ms(lease.fresh_for)}
        elif lease.kind == "load":
            shown["can_fill"] = lease.grant.can_fill
        elif lease.kind == "busy":
            shown["leader_age_ms"] = show_ms(lease.leader_age)
        elif lease.kind == "absent":
            shown["ttl_ms"] = show_ms(lease.ttl)
        elif lease.kind == "failed":
            shown |= {"message": lease.message, "retry_after_ms": show_ms(lease.retry_after)}
        return shown, lease.grant

    async def _finish(self, name: str, step: Step, saved: Saved) -> Any:
        grant = saved.grant(step)
        if name == "fill":
            return await result_of(
                grant.fill(to_bytes(step["value"]), **_options(step, ttl="ttl_ms", stale="stale_ms"))
            )
        if name == "fill_absent":
            return await result_of(grant.fill_absent(**_options(step, ttl="ttl_ms")))
        if name == "fail":
            return await result_of(grant.fail(step["message"], **_options(step, retry_after="retry_after_ms")))
        return await result_of(grant.release())

    async def _watch(self, step: Step, saved: Saved) -> Any:
        feed = await result_of(self.client.watch(**_options(step, prefixes="prefixes", heartbeat="heartbeat_ms")))
        if "save" in step:
            saved.feeds[step["save"]] = feed
        return {"resumed": feed.resumed}

    async def _next_event(self, step: Step, saved: Saved) -> Any:
        if step["watch"] not in saved.feeds:
            raise Fault(f"no watch {step['watch']!r} is saved")
        feed = saved.feeds[step["watch"]]
        try:
            if isinstance(self.client, terrace.AsyncClient):
                event = await asyncio.wait_for(anext(feed), PATIENCE)
            else:
                event = next(feed)
        except (StopIteration, StopAsyncIteration):
            return {"kind": "end"}
        shown = {"kind": event.kind}
        return shown if event.name is None else shown | {"name": show(event.name)}


def _shown(result: Any) -> Any:
    return {"error": type(result).__name__} if isinstance(result, Exception) else show(result)


def matches(expected: Any, result: Any) -> bool:
    """Return whether a result is as a scenario expects."""
    if isinstance(expected, list):
        return isinstance(result, list) and len(expected) == len(result) and all(map(matches, expected, result))
    if isinstance(expected, dict):
        return _matches_object(expected, result)
    # In Python, True equals 1.
    return type(expected) is type(result) and bool(expected == result)


def _matches_object(expected: dict[str, Any], result: Any) -> bool:
    if "hex" in expected or "repeat" in expected:
        return bool(show(to_bytes(expected)) == result)
    if "min" in expected or "max" in expected:
        is_number = isinstance(result, (int, float)) and not isinstance(result, bool)
        return is_number and expected.get("min", float("-inf")) <= result <= expected.get("max", float("inf"))
    if "any_of" in expected:
        return any(matches(item, result) for item in expected["any_of"])
    if expected.keys() == {"length", "each"}:
        return (
            isinstance(result, list)
            and len(result) == expected["length"]
            and all(matches(expected["each"], item) for item in result)
        )
    return isinstance(result, dict) and all(
        name in result and matches(item, result[name]) for name, item in expected.items()
    )
