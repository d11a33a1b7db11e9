"""A report as one HTML page that needs no network: the grid, every cell's story, filters, light and dark."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Final

from matrix.outcomes import VERDICTS
from matrix.report.grid import Grid, Square, make_grid, size, summary
from matrix.report.lines import CellLine, Report
from matrix.report.payload import SIGNS, payload
from matrix.report.printable import printable
from matrix.report.stories import known_id, story

# Failures whose stories stand in the page itself, for readers without scripts and on paper; all are in the list.
_MOST_STORIES: Final = 100


def render_html(report: Report) -> str:
    """The whole page of a run, as text without any reference to another file.

    The page's own policy (Content-Security-Policy) lets it load nothing and run nothing but its one script,
    whatever the names in a checkpoint were.
    """
    grid = make_grid(report)
    return render_page(
        "report.html.j2",
        title=summary(report),
        size=size(report),
        cut=not report.footer,
        failed=len(report.failed),
        facts=facts(report),
        totals=totals(report),
        grid=grid,
        rows=_rows(grid),
        releases=_releases(grid),
        stories=[_story(cell) for cell in report.failed[:_MOST_STORIES]],
        not_told=max(len(report.failed) - _MOST_STORIES, 0),
        known=grid.known,
        reasons=_reasons(grid),
        data=payload(report),
    )


def render_page(template: str, **values: Any) -> str:
    """A page of one of the templates, with its styles and its script inside and a policy that admits no other."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("matrix.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    style, script = _template_text("page.css"), _template_text("page.js")
    policy = f"default-src 'none'; style-src '{_sum(style)}'; script-src '{_sum(script)}'"
    page = environment.get_template(template)
    return page.render(style=style, script=script, policy=policy, signs=SIGNS, **values)


def _template_text(name: str) -> str:
    return resources.files("matrix.report").joinpath("templates", name).read_text(encoding="utf-8")


def _sum(text: str) -> str:
    """The digest by which a policy admits an inline element; it is of the bytes between the tags."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def facts(report: Report) -> list[tuple[str, str]]:
    """What the run was, as names and values."""
    header = report.header
    found = [(name, str(value)) for name, value in header.get("versions", {}).items()]
    found += [(name, str(header[name])) for name in ("profile", "seed", "platform", "started") if name in header]
    if header.get("given"):
        found.append(("given", str(header["given"])))
    found += [("cells asked for", pattern) for pattern in header.get("patterns", ())]
    return found


def totals(report: Report) -> list[tuple[str, int, bool, str]]:
    """Every verdict that occurs, failures first: its name, how many cells, whether it fails, what it means."""
    counts: dict[str, int] = {}
    for cell in report.cells:
        counts[cell.verdict] = counts.get(cell.verdict, 0) + 1
    ordered = sorted(VERDICTS, key=lambda name: not VERDICTS[name][0])
    return [(name, counts[name], *VERDICTS[name]) for name in ordered if name in counts]


def _rows(grid: Grid) -> list[tuple[str, list[tuple[str, list[dict[str, Any] | None]]]]]:
    """The grid by format: who writes and reads, and what stands in each column."""
    formats: dict[str, list[tuple[str, list[dict[str, Any] | None]]]] = {}
    for (name, writer, reader), squares in grid.rows.items():
        shown = [_square(squares[column]) if column in squares else None for column in grid.columns]
        formats.setdefault(name or "no format", []).append((f"{writer} → {reader}", shown))
    return list(formats.items())


def _releases(grid: Grid) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """The table of releases: each writer, and what stands under each reader."""
    return [
        (writer, [_square(squares[reader]) if reader in squares else None for reader in grid.readers])
        for writer, squares in grid.releases.items()
    ]


def _square(square: Square) -> dict[str, Any]:
    """One place of the grid: how many cells are fine, noted, failed, skipped, and all of it in words."""
    counted = square.verdicts
    return {
        "fine": counted["as-expected"],
        "noted": counted["known"] + counted["refused-as-claimed"],
        "failed": sum(count for name, count in counted.items() if VERDICTS[name][0]),
        "skipped": counted["skipped"],
        "says": ", ".join(f"{count:,} {name}" for name, count in counted.items()),
    }


def _story(cell: CellLine) -> dict[str, Any]:
    return {"id": cell.id, "verdict": cell.verdict, "known": known_id(cell), "words": story(cell)}


def _reasons(grid: Grid) -> Iterable[tuple[str, str, Mapping[str, int], str]]:
    """What was not run, and what was refused, with the reasons: a title, what it means, counts, and their unit."""
    return (
        ("Refused as claimed", "The format does not claim it, so it says no.", grid.claimed, "cells"),
        ("Skipped", "Not run here. A skip is counted, and is no pass.", grid.skipped, "cells"),
        ("No cells", "Combinations that the matrix does not have, by the rule that says why.", grid.pruned, "of them"),
    )
