"""Errors as one message and exit code 2, for all commands."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Final, ParamSpec

import click

FAILED: Final = 2
P = ParamSpec("P")

_NEEDED: Final = {
    "torch": "torch (see pytorch.org for the build of your machine)",
    "hypothesis": "'compat-matrix[matrix]'",
    "numpy": "'compat-matrix[matrix]'",
    "packaging": "'compat-matrix[matrix]'",
    "rich": "'compat-matrix[matrix]'",
    "safetensors": "'compat-matrix[matrix]'",
}


def guarded(command: Callable[P, int]) -> Callable[P, None]:
    """Turn a command's result into the exit code, and its errors into one message and exit code 2."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            for name, install in _NEEDED.items():
                _need(name, install)
            code = command(*args, **kwargs)
        except KeyboardInterrupt:
            click.echo("matrix: interrupted; what was finished stands in the report", err=True)
            code = 130
        except _expected_errors() as error:
            click.echo(f"matrix: {error}", err=True)
            code = FAILED
        raise SystemExit(code)

    return run


def _need(name: str, install: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        raise click.ClickException(
            f"{name} is not installed. Install it with: python -m pip install {install}"
        ) from None


def _expected_errors() -> tuple[type[Exception], ...]:
    from compat.errors import CompatError
    from matrix.cells import UnknownCellError
    from matrix.examples import ExampleError
    from matrix.expectations import KnownError
    from matrix.report import ReportError

    return CompatError, UnknownCellError, ExampleError, KnownError, ReportError, OSError
