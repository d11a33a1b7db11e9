"""Errors as one message and exit code 2, for all commands."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Final, ParamSpec

import click

FAILED: Final = 2
P = ParamSpec("P")

_NEEDED: Final = {
    "torch": "torch (see pytorch.org for the build of your machine)",
    "hypothesis": "'compat-matrix[matrix]'",
    "jinja2": "'compat-matrix[matrix]'",
    "numpy": "'compat-matrix[matrix]'",
    "packaging": "'compat-matrix[matrix]'",
    "rich": "'compat-matrix[matrix]'",
    "safetensors": "'compat-matrix[matrix]'",
}


def guarded(command: Callable[P, int]) -> Callable[P, None]:
    """Turn a command's result into the exit code, and its errors into one message and exit code 2."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        # Before anything that needs them is imported, the errors below included.
        told = missing()
        if told is not None:
            click.echo(f"matrix: {told}", err=True)
            raise SystemExit(FAILED)
        try:
            code = command(*args, **kwargs)
        except KeyboardInterrupt:
            click.echo("matrix: interrupted; what was finished stands in the report", err=True)
            code = 130
        except BrokenPipeError:  # whoever read the output has seen enough; click ends quietly
            raise
        except _expected_errors() as error:
            click.echo(f"matrix: {error}", err=True)
            code = FAILED
        raise SystemExit(code)

    return run


def missing() -> str | None:
    """What to install, of the libraries that the matrix needs; None where all of them are there."""
    name = next((name for name in _NEEDED if not _is_installed(name)), None)
    return None if name is None else f"{name} is not installed. Install it with: python -m pip install {_NEEDED[name]}"


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _expected_errors() -> tuple[type[Exception], ...]:
    from compat.errors import CompatError
    from matrix.cells import UnknownCellError
    from matrix.examples import ExampleError
    from matrix.expectations import KnownError
    from matrix.peers import PeersError
    from matrix.report import ReportError

    return CompatError, UnknownCellError, ExampleError, KnownError, PeersError, ReportError, OSError
