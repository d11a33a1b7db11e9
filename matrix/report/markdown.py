"""A report as Markdown, for README, pull requests and step summaries."""

from __future__ import annotations

from collections.abc import Mapping

from matrix.report.grid import Grid, make_grid, summary
from matrix.report.lines import Report
from matrix.report.printable import printable
from matrix.report.stories import story

_LEGEND = (
    "Numbers are cells: as they should be, `+` known differences and refusals as claimed, `FAIL`, "
    "`(…)` skipped, `-` no such cell."
)


def render_markdown(report: Report, *, max_failures: int = 100) -> str:
    """The grid, the known differences, what was not run, and the failures, as Markdown."""
    grid = make_grid(report)
    lines = [f"**{summary(report)}**", ""]
    if not report.footer:
        lines += ["**CUT: the run did not end; this is what it had.**", ""]
    lines += [*_table(grid), *_releases(grid), _LEGEND, ""]
    lines += _failures(report, max_failures)
    if grid.known:
        lines += ["| known difference | cells | why |", "|---|---:|---|"]
        for name, (reason, link, count) in grid.known.items():
            shown = f" ([link]({link}))" if link.startswith("http") else ""
            lines.append(f"| {name} | {count:,} | {escaped(reason)}{shown} |")
        lines.append("")
    lines += _counts("refused because the format does not claim it", grid.claimed)
    lines += _counts("skipped, which is no pass", grid.skipped)
    lines += _counts("combinations that are no cells", grid.pruned)
    if grid.not_selected:
        lines += [f"Not selected, so not run: {grid.not_selected:,} cells.", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(grid: Grid) -> list[str]:
    if not grid.rows and grid.releases:
        return []
    lines = [
        f"| format | writer → reader | {' | '.join(f'`{column}`' for column in grid.columns)} |",
        f"|---|---|{'---:|' * len(grid.columns)}",
    ]
    for (name, writer, reader), squares in grid.rows.items():
        shown = [squares[column].text if column in squares else "-" for column in grid.columns]
        lines.append(f"| {escaped(name)} | {writer} → {reader} | {' | '.join(shown)} |")
    return [*lines, ""]


def _releases(grid: Grid) -> list[str]:
    if not grid.releases:
        return []
    lines = [f"| writer ↓ reader → | {' | '.join(grid.readers)} |", f"|---|{'---:|' * len(grid.readers)}"]
    for writer, squares in grid.releases.items():
        shown = [squares[reader].text if reader in squares else "-" for reader in grid.readers]
        lines.append(f"| {writer} | {' | '.join(shown)} |")
    return [*lines, ""]


def _failures(report: Report, most: int) -> list[str]:
    lines = []
    for cell in report.failed[:most]:
        lines.append(f"- **{cell.verdict.upper()}** `{cell.id}`")
        lines += [f"  - {name}: {escaped(text)}" for name, text in story(cell).items()]
    if len(report.failed) > most:
        lines.append(f"- … and {len(report.failed) - most:,} more failing cells in report.jsonl")
    return [*lines, ""] if lines else []


def _counts(title: str, counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return []
    return [f"| {title} | count |", "|---|---:|", *(f"| {escaped(r)} | {n:,} |" for r, n in counts.items()), ""]


def escaped(text: str) -> str:
    """Text that stays in its table cell and is not taken for markup or a mention."""
    text = printable(text)
    for mark in "\\`*_[]<>|#@":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
