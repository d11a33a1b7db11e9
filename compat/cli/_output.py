"""What all commands share: errors as one message, JSON with a versioned schema, sizes for people."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Any, Final, ParamSpec

import click

from compat.errors import CompatError

# Raised when a field of any command's JSON changes its meaning or goes away.
SCHEMA: Final = 1
FOUND: Final = 1
FAILED: Final = 2

P = ParamSpec("P")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def print_json(kind: str, content: dict[str, Any]) -> None:
    """Print one JSON document; `kind` and `schema` say how to read it."""
    document = {"kind": kind, "schema": SCHEMA, **content}
    click.echo(json.dumps(document, indent=2 if sys.stdout.isatty() else None, ensure_ascii=True, default=str))


def guarded(command: Callable[P, int]) -> Callable[P, None]:
    """Turn a command's result into the exit code, and its errors into one message and exit code 2."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except CompatError as error:
            if kwargs.get("as_json"):
                print_json("error", error.to_json())
            else:
                click.echo(f"compat: {printable(str(error))}", err=True)
            code = FAILED
        raise SystemExit(code)

    return run


def printable(text: str) -> str:
    """Text that a terminal shows as it is: control characters and lone surrogates are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def size_text(nbytes: int) -> str:
    """A size for people, in decimal units."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:  # noqa: PLR2004 - a decimal unit
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def shorten(paths: list[str], count: int = 3) -> str:
    """A few of many paths."""
    shown = ", ".join(printable(path) for path in paths[:count])
    return shown if len(paths) <= count else f"{shown} and {len(paths) - count:,} more"
