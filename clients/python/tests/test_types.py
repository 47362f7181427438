"""Types of the package: what mypy accepts and refuses, and the agreement of the stub with the extension module."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pydantic
import pytest
import terrace

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "python" / "terrace"


def run(*arguments: str | Path) -> None:
    """Run a tool of Python in the folder of the client; fail with its output."""
    environment = os.environ | {"MYPYPATH": str(ROOT / "python")}
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_is_typed_strictly() -> None:
    run("mypy", "--strict", PACKAGE)


def test_types_are_inferred_and_mistakes_are_found() -> None:
    # --strict includes warn_unused_ignores: a mistake that mypy accepts is an error.
    run("mypy", "--strict", ROOT / "tests" / "typing")


def test_the_stub_agrees_with_the_extension_module() -> None:
    run("mypy.stubtest", "terrace._core")


def classes_of(path: Path) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)}


def methods_of(node: ast.ClassDef) -> dict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Return the public methods with their overloads."""
    methods: dict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]] = {}
    for item in node.body:
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)) and not item.name.startswith("_"):
            methods.setdefault(item.name, []).append(item)
    return methods


def text_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the signature and docstring, equal for both clients."""
    doc = (ast.get_docstring(function) or "").replace("await client", "client")
    arguments = ast.unparse(function.args).replace("AsyncOperations", "SyncOperations")
    return f"{arguments} -> {ast.unparse(function.returns) if function.returns else None}\n{doc}"


def test_both_clients_have_the_same_operations() -> None:
    classes = classes_of(PACKAGE / "_core.pyi")
    sync, later = methods_of(classes["SyncOperations"]), methods_of(classes["AsyncOperations"])
    assert sync.keys() == later.keys()
    for name, overloads in sync.items():
        assert list(map(text_of, overloads)) == list(map(text_of, later[name])), name
        assert all(isinstance(function, ast.AsyncFunctionDef) for function in later[name]), name
    assert sync.keys() <= set(dir(terrace._core.CoreClient))


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", ["get_or_load", "get_or_load_many", "cached", "close"])
def test_both_clients_have_the_same_methods_with_loaders(name: str) -> None:
    sync, later = getattr(terrace.Client, name), getattr(terrace.AsyncClient, name)
    assert parameters(sync) == parameters(later)
    assert inspect.iscoroutinefunction(later) or name == "cached"


def test_every_public_method_has_a_docstring() -> None:
    without = []
    for path in [*PACKAGE.glob("*.py"), PACKAGE / "_core.pyi"]:
        for class_name, node in classes_of(path).items():
            if class_name.startswith("_") or class_name == "CoreClient":
                continue
            without += [] if ast.get_docstring(node) or is_typed_dict(node) else [class_name]
            for name, overloads in methods_of(node).items():
                if not ast.get_docstring(overloads[-1]) and not is_property(overloads[-1]):
                    without.append(f"{class_name}.{name}")
    internal = {"Call.close", "Call.send", "Call.throw"}
    assert set(without) <= internal, without


def is_typed_dict(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "TypedDict" for base in node.bases)


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "property" for mark in node.decorator_list)


class Model(pydantic.BaseModel):
    name: str


@dataclass
class Node:
    """A type that contains itself, and a model of pydantic."""

    model: Model
    children: list[Node]


@dataclass
class Tree:
    """A type that contains itself."""

    children: list[Tree]


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (list[Model], [Model(name="Ada")]),
        (dict[str, Model], {"a": Model(name="Ada")}),
        (Model | None, None),
        (Node, Node(Model(name="Ada"), [Node(Model(name="Grace"), [])])),
        (Tree, Tree([Tree([])])),
        (list[Decimal], [Decimal("1.5")]),
        (tuple[int, str], (1, "a")),
    ],
)
def test_json_converts_types_with_models_inside(type: Any, value: Any) -> None:
    codec = terrace.Json(type)
    assert codec.decode(codec.encode(value)) == value
