"""The example service: its numbers under the built-in load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from programs import LISTENING, started
from terrace.testing import Server

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "fastapi-service"
CALLERS = 20
PRODUCTS = 20


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The service over a server without L2."""
    folder = tmp_path_factory.mktemp("example")
    uvicorn = [sys.executable, "-B", "-m", "uvicorn", "--port", "0", "service:app"]
    with (
        Server(folder, l2="none") as server,
        started(uvicorn, LISTENING, EXAMPLE, folder / "service.log", TERRACE_TARGET=server.target) as url,
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def numbers(service: httpx.Client) -> dict[str, Any]:
    """The numbers after the load."""
    answer = service.post("/run")
    assert answer.status_code == 303, answer.text
    numbers: dict[str, Any] = service.get("/numbers").json()
    return numbers


def test_both_sides_had_the_same_load(numbers: dict[str, Any]) -> None:
    assert numbers["cached"]["reads"] == numbers["direct"]["reads"] > 0
    assert numbers["direct"]["queries"] == numbers["direct"]["reads"]


def test_the_cache_saves_queries_and_time_of_the_database(numbers: dict[str, Any]) -> None:
    assert numbers["cached"]["queries"] < numbers["direct"]["queries"] / 2
    assert numbers["origin_seconds_saved"] > numbers["direct"]["origin_seconds"] / 2
    assert numbers["cached"]["near_hits"] > 0


def test_a_stampede_causes_one_query(numbers: dict[str, Any]) -> None:
    assert numbers["stampede"] == [1, CALLERS]


def test_a_stale_product_was_returned_and_refreshed(numbers: dict[str, Any]) -> None:
    # The service fails if the first read does not return the old product, or if the new one never comes.
    assert numbers["stale"] is not None


def test_a_tag_removes_all_products_of_a_supplier(numbers: dict[str, Any]) -> None:
    assert numbers["tagged"] == PRODUCTS


def test_the_page_shows_the_numbers_without_external_resources(service: httpx.Client, numbers: dict[str, Any]) -> None:
    page = service.get("/").text
    assert f"{numbers['origin_seconds_saved']:.1f} s" in page
    assert f">{numbers['cached']['queries']:,}<" in page
    assert not re.search(r"<script|<link|src=|https?://", page)


def test_changes_are_visible_at_once(service: httpx.Client) -> None:
    product = "/suppliers/south/products/3"
    assert service.get(product).json()["supplier"] == "south"
    service.put(f"{product}/price/77").raise_for_status()
    assert service.get(product).json()["price"] == 77
    service.put("/suppliers/south/motto/together").raise_for_status()
    assert service.get(product).json()["motto"] == "together"


def test_a_product_that_does_not_exist_is_not_queried_again(service: httpx.Client) -> None:
    absent = "/suppliers/south/products/99"
    assert service.get(absent).status_code == 404
    queries = service.get("/numbers").json()["not_found"]
    assert queries > 0
    assert service.get(absent).status_code == 404
    assert service.get("/numbers").json()["not_found"] == queries


def test_mypy_accepts_the_example() -> None:
    environment = os.environ | {"MYPYPATH": str(ROOT / "clients/python/python")}
    files = sorted(path.name for path in EXAMPLE.glob("*.py"))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, *files]
    done = subprocess.run(
        command, cwd=EXAMPLE, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
