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

    all_formats = list(formats.all_formats())
    for name in formats.names():
        holders = {
            module
            for module, text in sources().items()
            # An export target names the format that reads its weights.
            if module.startswith("compat") and not module.startswith("compat.exports") and _names(text, name)
        }
        # A format of shards names the format of its shards.
        sharded = {f"compat.formats.{found.name.replace('-', '_')}" for found in all_formats if found.shards == name}
        # What other libraries do with a format, and what could run in it: of one without a row there, less is told.
        told = {"compat.advice", "compat.dangers", "compat.runnable", "compat.traits"}
        assert holders <= {"compat.formats", f"compat.formats.{name.replace('-', '_')}"} | sharded | told, name


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


def test_a_new_format_is_one_module_and_one_table_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The whole of a new format, and everything finds it: detection, commands, conversion, the matrix."""
    import json
    import sys
    import types
    from dataclasses import replace

    from click.testing import CliRunner

    import compat
    from compat import formats
    from compat.cli import main
    from compat.formats import safetensors
    from matrix.cells import plan
    from matrix.runner import make_axes

    mark = b"MARK"

    def write(checkpoint: object, target: object, options: object) -> object:
        target.write(mark)  # type: ignore[attr-defined]  # a file
        return safetensors.FORMAT.write(checkpoint, target, options)  # type: ignore[misc,arg-type]

    def read(source: object) -> object:
        content = source.read(4, source.size - 4)  # type: ignore[attr-defined]  # a Source
        return safetensors.FORMAT.open(compat.sources.open_source(bytes(content)))

    module = types.ModuleType("the_new_format")
    module.FORMAT = replace(  # type: ignore[attr-defined]  # what a format module is
        safetensors.FORMAT,
        name="marked",
        suffixes=(".marked",),
        asked_by=(".marked",),
        detect=lambda source: source.head.startswith(mark),
        open=read,  # type: ignore[arg-type]  # as above
        write=write,  # type: ignore[arg-type]  # as above
    )
    monkeypatch.setitem(sys.modules, "the_new_format", module)
    monkeypatch.setitem(formats._MODULES, "marked", "the_new_format")

    import torch

    target = tmp_path / "x.marked"
    compat.save({"a": torch.arange(3)}, target)
    assert target.read_bytes().startswith(mark)
    assert list(compat.load(target)) == ["a"]
    compat.convert(target, tmp_path / "x.pt")
    assert not compat.diff(target, tmp_path / "x.pt")
    listed = json.loads(CliRunner().invoke(main, ["formats", "--json"]).output)
    assert "marked" in [found["name"] for found in listed["formats"]]
    assert any(cell.id.startswith("roundtrip:marked:compat>compat:wo:") for cell in plan(make_axes()).cells)


def test_a_new_prefix_is_one_table() -> None:
    from matrix.axes import load_axes
    from matrix.cells import plan
    from matrix.runner import make_axes

    text = (ROOT / "matrix" / "data" / "axes.toml").read_text(encoding="utf-8")
    more = load_axes(text + '\n[axes.prefix.values."wrapped."]\nsummary = "a new wrapper"\n')
    known = make_axes()
    for name in known.axes:
        if name == "prefix":
            continue
        more = more.with_values(name, known[name].values.values())
    ids = {cell.id for cell in plan(more).cells}
    assert {cell.id for cell in plan(known).cells} < ids
    assert any(":wrapped.:" in name for name in ids)


def test_compat_names_a_dtype_in_one_table() -> None:
    from compat.dtypes import DTYPES

    rare = [name for name in DTYPES if name.startswith(("float8", "bits", "complex32"))]
    for name in rare:
        holders = {module for module, text in sources().items() if module.startswith("compat") and _names(text, name)}
        assert holders == {"compat.dtypes"}, (name, holders)


def test_a_name_in_a_second_place_is_seen() -> None:
    assert _names('x = ["torch-zip"]', "torch-zip")
    assert not _names('"""torch-zip is a format."""', "torch-zip")


def test_both_dtype_tables_agree() -> None:
    from compat.dtypes import DTYPES, QUANTIZED
    from matrix.peer import ITEMSIZES

    assert {name: dtype.itemsize for name, dtype in DTYPES.items() if name not in QUANTIZED} == dict(ITEMSIZES)
