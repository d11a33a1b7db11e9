"""A report as one JSON document for programs: the run, the grid, the reasons and every cell."""

from __future__ import annotations

import json
from typing import Any, Final

from matrix.report.grid import make_grid, mode_of
from matrix.report.lines import CellLine, Report

# Raised when a field changes its meaning.
SCHEMA: Final = 1


def render_json(report: Report) -> str:
    """The JSON text, in ASCII.

    Its fields: `complete` is false for a run that was cut; `run` is the header that the run wrote; `verdicts`
    counts cells; `grid` holds, per format, writer and reader, the verdicts by mode, and `releases` those by the release
    that wrote and the one that read; `known`, `claimed`,
    `skipped`, `pruned` and `not_selected` say what was noted and what was not run; `cells` are the lines of
    `report.jsonl`, each with its `mode` and whether it `failed`.
    """
    grid = make_grid(report)
    document = {
        "kind": "report",
        "schema": SCHEMA,
        "complete": bool(report.footer),
        "run": {name: value for name, value in report.header.items() if name not in ("line", "schema")},
        "finished": report.footer.get("finished"),
        "seconds": report.footer.get("seconds"),
        "verdicts": dict(grid.totals),
        "grid": {
            "columns": list(grid.columns),
            "rows": [
                {
                    "format": name,
                    "writer": writer,
                    "reader": reader,
                    "modes": {mode: dict(square.verdicts) for mode, square in squares.items()},
                }
                for (name, writer, reader), squares in grid.rows.items()
            ],
        },
        "releases": {
            writer: {reader: dict(square.verdicts) for reader, square in squares.items()}
            for writer, squares in grid.releases.items()
        },
        "known": {
            name: {"reason": reason, "link": link, "cells": number}
            for name, (reason, link, number) in grid.known.items()
        },
        "claimed": dict(grid.claimed),
        "skipped": dict(grid.skipped),
        "pruned": dict(grid.pruned),
        "not_selected": grid.not_selected,
        "cells": [_cell(cell) for cell in report.cells],
    }
    return json.dumps(document) + "\n"


def _cell(cell: CellLine) -> dict[str, Any]:
    facts = cell.to_json()
    del facts["line"]
    return {**facts, "mode": mode_of(cell.axes), "failed": cell.failed}
