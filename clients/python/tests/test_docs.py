"""The Python programs of the documentation run against a real server, and the first one is a service that mypy accepts."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import terrace
from programs import LISTENING, started
from terrace.testing import Server

ROOT = Path(__file__).parents[3]
PAGES = ["clients/python/README.md", "docs/guides/python.md"]
#: Targets of the examples.
TARGETS = re.compile(r'"(?:dns:///)?[\w.-]+:7400(?:,[\w.-]+:7400)*"')
#: Lines of the program from the installation to a cached route.
FIRST_LINES_MAX = 15


def blocks_of(page: str) -> list[tuple[int, str]]:
    """Return the Python blocks of a page with the numbers of their first lines."""
    text = (ROOT / page).read_text()
    found = re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n") + 1, match.group(1)) for match in found]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server without L2."""
    with Server(tmp_path_factory.mktemp("docs"), l2="none") as server:
        yield server.target


def adapted(code: str, target: str) -> str:
    return TARGETS.sub(f'"{target}"', code)


async def run_page(page: str, target: str) -> int:
    """Run the blocks of a page, one after the other in one module. Return the number of blocks."""
    module = types.ModuleType("page")
    sys.modules["page"] = module
    blocks = blocks_of(page)
    for line, code in blocks:
        # The line numbers of errors are those of the page.
        source = "\n" * (line - 1) + adapted(code, target)
        compiled = compile(source, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        # A block is a coroutine if it has `await`.
        result = eval(compiled, module.__dict__)
        if inspect.isawaitable(result):
            await result
    return len(blocks)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page: str, target: str) -> None:
    with terrace.Client(target) as client:
        client.invalidate_pattern("*", wait=True)
    assert asyncio.run(run_page(page, target)) >= 1


def test_a_block_with_a_wrong_result_fails(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.md").write_text(
        '```python\nimport terrace\nassert terrace.Client("a:7400").get("k") == b"v"\n```\n'
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    with pytest.raises(AssertionError):
        asyncio.run(run_page("page.md", target))


def first_program() -> str:
    return blocks_of(PAGES[0])[0][1]


def test_the_first_program_is_short_and_the_same_on_all_pages() -> None:
    assert len(first_program().strip().splitlines()) <= FIRST_LINES_MAX
    for page in PAGES:
        assert blocks_of(page)[0][1] == first_program(), page


def test_mypy_accepts_the_first_program(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(first_program())
    environment = os.environ | {"MYPYPATH": str(ROOT / "clients/python/python")}
    command = [sys.executable, "-m", "mypy", "--strict", "app.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_program_serves_from_the_cache(target: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(adapted(first_program(), target))
    command = [sys.executable, "-m", "uvicorn", "--port", "0", "app:app"]
    with started(command, LISTENING, tmp_path, tmp_path / "log") as url, terrace.Client(target) as client:
        client.delete("user:7")
        assert httpx.get(f"{url}/users/7", timeout=60).json() == {"id": 7, "name": "Ada"}
        assert client.get("user:7") == b'{"id":7,"name":"Ada"}'
        # Another value in the cache: the function does not run again.
        client.set("user:7", '{"id":7,"name":"Grace"}')
        assert httpx.get(f"{url}/users/7", timeout=60).json() == {"id": 7, "name": "Grace"}
        assert httpx.get(f"{url}/users/seven", timeout=60).status_code == 422
        client.invalidate_tags(["users"])


def test_the_pages_name_only_arguments_and_methods_that_exist() -> None:
    clients = (terrace.Client, terrace.AsyncClient)
    for page in PAGES:
        text = (ROOT / page).read_text()
        for name in re.findall(r"`(?:await )?client\.(\w+)\(", text):
            assert all(hasattr(client, name) for client in clients), f"{page}: client.{name}"
        for name in re.findall(r"\bterrace\.([A-Z]\w+)", text):
            assert hasattr(terrace, name), f"{page}: terrace.{name}"
        for name in re.findall(r"`(\w+)`(?:, `(\w+)`)? \(a `", text):
            assert hasattr(terrace, name[0]), f"{page}: {name}"


def test_the_package_is_the_one_of_this_repository() -> None:
    found = importlib.util.find_spec("terrace")
    assert found is not None and found.origin is not None
    assert Path(found.origin).is_relative_to(ROOT / "clients/python/python")
