"""The pytest plugin: `pytest --compat` runs the cells of the matrix beside a project's own tests.

This module is imported at the start of every pytest in the environment, so it imports nothing but pytest; all
else waits until someone asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# The file of the known profiles is not read here; a test holds the two against each other.
_PROFILES = ("quick", "default", "thorough", "nightly")
_OPTIONS = (
    ("cells", "PATTERN", "only cells whose id matches; may be repeated"),
    ("profile", "PROFILE", f"how much to try: {', '.join(_PROFILES)}; quick unless said"),
    ("model", "PKG.MOD:FACTORY", "your own module in place of drawn ones"),
    ("seed", "N", "the same seed draws the same examples; 0 unless said"),
    ("report", "DIR", "write report.jsonl and report.html, and the scripts of failures, into DIR"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--compat`, the `--compat-*` options, and the ini keys of the same names."""
    group = parser.getgroup("compat", "compat-matrix: will it load, and is it the same?")
    group.addoption("--compat", action="store_true", help="run the cells of the compatibility matrix as tests")
    for name, metavar, text in _OPTIONS:
        action = "append" if name == "cells" else "store"
        group.addoption(f"--compat-{name}", action=action, metavar=metavar, dest=f"compat_{name}", help=text)
        told = f"{text} (where --compat-{name} is not given)"
        if name == "cells":
            parser.addini(f"compat_{name}", told, type="linelist", default=None)
        else:
            parser.addini(f"compat_{name}", told, type="string", default=None)


def pytest_configure(config: pytest.Config) -> None:
    """Say what the marker means; with `--compat`, load what makes cells into tests."""
    config.addinivalue_line(
        "markers", "compat(check, format, writer, …): a cell of the compatibility matrix, with its values (--compat)"
    )
    given = [f"--compat-{name}" for name, *_ in _OPTIONS if config.getoption(f"compat_{name}") is not None]
    if not config.getoption("compat"):
        if given:
            raise pytest.UsageError(f"{given[0]} says what --compat runs; give --compat too")
        return
    from matrix.cli._guard import missing

    told = missing()
    if told is not None:
        raise pytest.UsageError(f"--compat: {told}")
    from matrix.pytest_cells import CellPlugin

    config.pluginmanager.register(CellPlugin(config), "compat-matrix-cells")


@pytest.fixture
def compat_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a state as a checkpoint file: `compat_checkpoint(state, format="safetensors", writer="compat")`."""

    def write(state: Any, **options: str) -> Path:
        from matrix.pytest_fixtures import checkpoint

        return checkpoint(tmp_path, state, **options)

    return write


@pytest.fixture
def compat_roundtrip(tmp_path: Path) -> Callable[..., Any]:
    """Write a state, read it back, and fail where anything differs: bytes, dtype, stride, sharing, order.

    `compat_roundtrip(state, format="torch-zip", writer="torch", reader="compat")` returns what was read.
    """

    def push(state: Any, **options: Any) -> Any:
        from matrix.pytest_fixtures import roundtrip

        return roundtrip(tmp_path, state, **options)

    return push
