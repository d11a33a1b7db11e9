"""What every picture of a report tells of one cell: what was tried, expected and seen, and how to see it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from matrix.outcomes import VERDICTS
from matrix.report.lines import CellLine
from matrix.report.printable import printable


def story(cell: CellLine) -> dict[str, str]:
    """A failed cell in the words that every picture uses: what it means, what was expected, what was seen."""
    told = {"meaning": VERDICTS[cell.verdict][1], "expected": expected(cell), "seen": seen(cell)}
    if cell.failure and cell.failure.get("reproducer"):
        what = "smallest example" if cell.failure.get("shrunk") else "an example"
        told[what] = f"python {cell.failure['reproducer']}"
    return told


def expected(cell: CellLine) -> str:
    """What should have happened, and why."""
    wanted = cell.expectation
    return printable(f"{wanted.kind}: {wanted.reason}" if wanted.reason else wanted.kind)


def seen(cell: CellLine) -> str:
    """What happened, where, and in whose words."""
    outcome = cell.outcome
    where = f" at {outcome.stage}" if outcome.stage else ""
    said = ": ".join(text for text in (outcome.error_type, outcome.message) if text)
    return printable(f"{outcome.kind}{where}" + (f": {said}" if said else ""))


def known_id(cell: CellLine) -> str:
    """The name of the known difference that a cell falls under; empty where there is none."""
    source = cell.expectation.source
    return source.removeprefix("known:") if source.startswith("known:") else ""


def rerun(cell_id: str, header: Mapping[str, Any]) -> str:
    """The command that runs a cell again as this run did."""
    return f"matrix run --cells {shlex.quote(cell_id)}{rerun_options(header)}"


def rerun_options(header: Mapping[str, Any]) -> str:
    """What follows a cell's id in that command; with the same seed it draws the same examples."""
    options = f" --seed {shlex.quote(str(header.get('seed', 0)))}"
    if header.get("profile"):
        options += f" --profile {shlex.quote(str(header['profile']))}"
    # A report says that an example was given, and not whence it came.
    return options + {"model": " --model PKG.MOD:FACTORY", "state": " --state FILE"}.get(header.get("given") or "", "")
