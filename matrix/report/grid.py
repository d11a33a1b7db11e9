"""The row model that every picture of a report is made of: who wrote and read what, by mode."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from matrix.outcomes import VERDICTS
from matrix.report.lines import CellLine, Report

# A cell stands in the column of the first of these axes on which it is not at its default.
_MODE_AXES: Final = (
    ("mmap", "read", "mmap"),
    ("map_location", "none", "map_location"),
    ("prefix", "plain", "prefix"),
    ("protocol", "p2", "protocol"),
)
_WEIGHTS: Final = {"wo": "weights_only", "full": "full"}
# A check with an axis of its own has a column of its own.
_CHECK_AXES: Final = (
    ("via", "convert"),
    ("optimizer", "resume"),
    ("mutation", "transfer"),
    ("recipe", "recipe"),
    ("saved_on", "device"),
    ("target", "export"),
    ("what", "version"),
)
# The check whose writers and readers are releases; it has a table of its own.
_OF_RELEASES: Final = "version"


@dataclass(slots=True, kw_only=True)
class Square:
    """What is shown in one place of the grid: how many cells got which verdict."""

    verdicts: Counter[str] = field(default_factory=Counter)

    @property
    def text(self) -> str:
        """The square in a few characters: `60`, `57 +3`, `57 +2, 1 FAIL (4)`."""
        failed = sum(count for name, count in self.verdicts.items() if VERDICTS[name][0])
        fine = self.verdicts["as-expected"]
        noted = self.verdicts["known"] + self.verdicts["refused-as-claimed"]
        parts = [str(fine)] if fine else []
        parts += [f"+{noted}"] if noted else []
        if failed and parts:
            parts[-1] += ","
        parts += [f"{failed} FAIL"] if failed else []
        parts += [f"({self.verdicts['skipped']})"] if self.verdicts["skipped"] else []
        return " ".join(parts) or "-"

    @property
    def failed(self) -> bool:
        """Whether a cell in it fails the run."""
        return any(VERDICTS[name][0] for name in self.verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Rows of formats and who writes and reads them, columns of modes.

    Attributes:
        columns: the modes; rows: (format, writer, reader) → mode → square, in order.
        releases: writer → reader → square, of what releases of torch and others wrote and read, oldest first.
        known: known difference → its reason, its link and how many cells showed it.
        claimed: reason → cells that refused what their format does not claim.
        skipped: reason → cells that were not run; pruned: rule → combinations that are no cells.
        not_selected: cells that the run was not asked for.
        totals: verdict → cells.
    """

    columns: tuple[str, ...]
    rows: Mapping[tuple[str, str, str], Mapping[str, Square]]
    releases: Mapping[str, Mapping[str, Square]]
    known: Mapping[str, tuple[str, str, int]]
    claimed: Mapping[str, int]
    skipped: Mapping[str, int]
    pruned: Mapping[str, int]
    not_selected: int
    totals: Mapping[str, int]

    @property
    def readers(self) -> tuple[str, ...]:
        """The columns of `releases`."""
        return tuple(sorted({reader for squares in self.releases.values() for reader in squares}, key=_age))


def _age(release: str) -> tuple[bool, list[int], str]:
    """What releases are sorted by: their numbers; names without any come last."""
    numbers = [int(part) for part in re.findall(r"\d+", release.partition("+")[0])]
    return not release[:1].isdigit(), numbers, release


def mode_of(axes: Mapping[str, str]) -> str:
    """The column in which a cell stands."""
    for axis, column in _CHECK_AXES:
        if axis in axes:
            return column
    for axis, default, column in _MODE_AXES:
        if axes.get(axis, default) != default:
            return column
    return _WEIGHTS[axes.get("weights_only", "wo")]


def row_of(axes: Mapping[str, str]) -> tuple[str, str, str]:
    """The row in which a cell stands: its format, and who writes and reads; what compat does alone is its own.

    An export stands in the row of its target.
    """
    return axes.get("format", axes.get("target", "")), axes.get("writer", "compat"), axes.get("reader", "compat")


def make_grid(report: Report) -> Grid:
    """The row model of a report."""
    rows: dict[tuple[str, str, str], dict[str, Square]] = {}
    releases: dict[str, dict[str, Square]] = {}
    for cell in report.cells:
        mode, (name, writer, reader) = mode_of(cell.axes), row_of(cell.axes)
        if mode == _OF_RELEASES:
            square = releases.setdefault(writer, {}).setdefault(reader, Square())
        else:
            square = rows.setdefault((name, writer, reader), {}).setdefault(mode, Square())
        square.verdicts[cell.verdict] += 1
    present = {column for squares in rows.values() for column in squares}
    order = (*_WEIGHTS.values(), *(column for *_, column in _MODE_AXES), *(column for _, column in _CHECK_AXES))
    return Grid(
        columns=tuple(column for column in order if column in present),
        rows=dict(sorted(rows.items())),
        releases={writer: releases[writer] for writer in sorted(releases, key=_age)},
        known=_known(report.cells),
        claimed=Counter(c.expectation.reason for c in report.cells if c.verdict == "refused-as-claimed"),
        skipped=Counter(c.outcome.message or "no reason given" for c in report.cells if c.verdict == "skipped"),
        pruned={rule: count for rule, count in report.footer.get("pruned", {}).items() if count},
        not_selected=report.footer.get("not_run", 0),
        totals=Counter(cell.verdict for cell in report.cells),
    )


def _known(cells: Iterable[CellLine]) -> dict[str, tuple[str, str, int]]:
    found: dict[str, tuple[str, str, int]] = {}
    for cell in cells:
        if cell.verdict == "known":
            name = cell.expectation.source.removeprefix("known:")
            count = found.get(name, ("", "", 0))[2] + 1
            found[name] = (cell.expectation.reason, cell.expectation.link, count)
    return dict(sorted(found.items(), key=lambda item: -item[1][2]))


def summary(report: Report) -> str:
    """The last line: how many cells got which verdict, failures first."""
    totals = Counter(cell.verdict for cell in report.cells)
    examples = sum(cell.examples for cell in report.cells)
    ordered = sorted(totals.items(), key=lambda item: not VERDICTS[item[0]][0])
    parts = ", ".join(f"{count:,} {name}" for name, count in ordered)
    return f"{len(report.cells):,} cells, {examples:,} examples: {parts or 'nothing was run'}{_took(report)}"


def size(report: Report) -> str:
    """How much was tried, and in what time."""
    examples = sum(cell.examples for cell in report.cells)
    return f"{len(report.cells):,} cells, {examples:,} examples{_took(report)}"


def _took(report: Report) -> str:
    seconds = report.footer.get("seconds")
    return "" if seconds is None else f" in {seconds:.1f} s"
