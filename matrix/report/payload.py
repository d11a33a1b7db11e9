"""The row model as JSON inside the HTML page: every cell, with what many cells share written once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from matrix.axes import Axes, load_axes
from matrix.outcomes import VERDICTS
from matrix.report.entries import entry
from matrix.report.grid import mode_of, row_of
from matrix.report.lines import CellLine, Report
from matrix.report.printable import printable_json
from matrix.report.stories import expected, known_id, rerun_options, seen

# A sign beside each verdict's name, so that it is not told by its colour alone.
SIGNS: Final[Mapping[str, str]] = {
    "as-expected": "✓",
    "known": "≈",
    "refused-as-claimed": "⊘",
    "skipped": "○",
    "broken": "✗",
    "changed": "≠",
    "healed": "↺",
    "unrefused": "‼",
}


class _Table:
    """Values that are written once and named by their place."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """The place of a value, which is added where it is new."""
        key = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def payload(report: Report) -> str:
    """The JSON text, which is ASCII and cannot end the `script` element that it stands in."""
    axes = load_axes()
    tables = {name: _Table() for name in ("wanted", "seen", "versions", "settings", "columns", "rows")}
    cells = [_cell(cell, report.header, tables) for cell in report.cells]
    document = {
        "verdicts": {
            name: {"sign": SIGNS[name], "failed": failed, "says": says} for name, (failed, says) in VERDICTS.items()
        },
        "axes": _axes(axes),
        "checks": dict(axes.summaries),
        "rerun": rerun_options(report.header),
        **{name: table.values for name, table in tables.items()},
        "cells": cells,
    }
    text = json.dumps(printable_json(document), ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


def _cell(cell: CellLine, header: Mapping[str, Any], tables: Mapping[str, _Table]) -> dict[str, Any]:
    wanted = {
        "text": expected(cell),
        "source": cell.expectation.source,
        "known": known_id(cell),
        "link": cell.expectation.link,
    }
    happened = {"text": seen(cell), "facets": list(cell.outcome.facets)}
    facts: dict[str, Any] = {
        "id": cell.id,
        "v": cell.verdict,
        "w": tables["wanted"].place(wanted),
        "o": tables["seen"].place(happened),
        "t": tables["versions"].place(version_of(cell.axes, header)),
        "x": [tables["settings"].place([name, value]) for name, value in cell.axes.items()],
        "m": tables["columns"].place(mode_of(cell.axes)),
        "r": tables["rows"].place(list(row_of(cell.axes))),
        "n": cell.examples,
        "s": cell.seconds,
    }
    if cell.failure is not None:
        facts["f"] = dict(cell.failure)
    if cell.failed:
        facts["k"] = entry(cell)
    return facts


def version_of(axes: Mapping[str, str], header: Mapping[str, Any]) -> str:
    """The release of torch that a cell was run with: the run's, or who wrote and who read where they are releases."""
    if mode_of(axes) == "version":
        return " → ".join(row_of(axes)[1:])
    return str(header.get("versions", {}).get("torch", "unknown"))


def _axes(axes: Axes) -> dict[str, Any]:
    """What each axis and each of its values is, in words."""
    return {
        name: {"says": axis.summary, "values": {value.id: value.summary for value in axis.values.values()}}
        for name, axis in axes.axes.items()
    }
