"""The structure holds: who imports whom, and what a change costs. Both are checked on broken examples too."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TORCH_FREE = {"axes", "cells", "drawing", "expectations", "outcomes", "report", "spec", "strategies"}
ORACLE = {"modules", "peer", "spec", "tensors"}
FORMATS_SHARED = {"compat.formats._format", "compat.formats._diagnosis", "compat.formats"}


def sources() -> dict[str, str]:
    """Every module of both packages by its dotted name."""
    found = {}
    for package in ("compat", "matrix"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path.read_text(encoding="utf-8")
    return found


def imports(name: str, text: str) -> Iterator[str]:
    """Every module that a source names in an import, at whatever level of nesting."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def on_import(text: str) -> str:
    """What of a source runs when it is imported: everything but the bodies of functions and of type checking."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        ):
            node.body = [ast.Pass()]
    return ast.unparse(tree)


def reach(name: str, modules: Mapping[str, str], within: str) -> set[str]:
    """Everything a module names in imports, and what importing it imports through the package `within`."""
    seen = set(imports(name, modules[name]))
    todo = [name]
    done = set()
    while todo:
        current = todo.pop()
        done.add(current)
        for imported in imports(current, on_import(modules[current])):
            if imported.split(".")[0] == within and imported in modules and imported not in done:
                todo.append(imported)
            seen.add(imported)
    return seen


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def violations(modules: Mapping[str, str]) -> list[str]:
    """Every import arrow that design forbids."""
    found = []
    for name, text in modules.items():
        package, _, rest = name.partition(".")
        if package == "compat":
            forbidden = top(set(imports(name, text))) & {"matrix", "hypothesis", "pytest"}
            found += [f"{name} imports {other}" for other in sorted(forbidden)]
        for family in ("compat.formats.", "compat.exports."):
            if name.startswith(family) and not name.removeprefix(family).startswith("_"):
                siblings = {i for i in imports(name, text) if i.startswith(family) and i in modules}
                found += [
                    f"{name} imports {other}"
                    for other in sorted(siblings - FORMATS_SHARED - {name})
                    if "._" not in other
                ]
        room = rest.split(".")[0]
        if package == "matrix" and room in TORCH_FREE and "torch" in top(reach(name, modules, "matrix")):
            found.append(f"{name} reaches torch")
        if package == "matrix" and room in ORACLE and "compat" in top(reach(name, modules, "matrix")):
            found.append(f"{name} reaches compat")
    return found


def test_no_forbidden_arrow() -> None:
    assert violations(sources()) == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("compat.keys", "import matrix.spec", "compat.keys imports matrix"),
        ("compat.data", "def f():\n    import hypothesis", "compat.data imports hypothesis"),
        (
            "compat.formats.safetensors",
            "from compat.formats import torch_zip",
            "imports compat.formats.torch_zip",
        ),
        ("matrix.outcomes", "import torch", "matrix.outcomes reaches torch"),
        ("matrix.cells", "from matrix import checks", "matrix.cells reaches torch"),
        ("matrix.spec", "from compat import dtypes", "matrix.spec reaches compat"),
        ("matrix.tensors", "import compat", "matrix.tensors reaches compat"),
    ],
)
def test_a_forbidden_arrow_is_seen(name: str, text: str, expected: str) -> None:
    broken = sources() | {name: text}
    assert any(expected in found for found in violations(broken)), violations(broken)


def test_formats_are_named_in_one_module_and_one_table_line() -> None:
    from compat import formats

    for name in formats.names():
        holders = {module for module, text in sources().items() if module.startswith("compat") and _names(text, name)}
        assert holders <= {"compat.formats", f"compat.formats.{name.replace('-', '_')}"}, name


def _names(text: str, name: str) -> bool:
    """Whether a source has `name` as a string of its own; prose does not count."""
    return any(isinstance(node, ast.Constant) and node.value == name for node in ast.walk(ast.parse(text)))


def test_every_format_module_is_in_the_table() -> None:
    from compat import formats

    modules = {path.stem for path in (ROOT / "compat" / "formats").glob("*.py") if not path.stem.startswith("_")}
    assert modules == {name.replace("-", "_") for name in formats.names()}


def test_the_lists_of_this_test_name_modules_that_exist() -> None:
    rooms = {name.split(".")[1] for name in sources() if name.startswith("matrix.")}
    assert rooms >= TORCH_FREE | ORACLE
