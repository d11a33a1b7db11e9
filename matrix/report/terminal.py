"""A report as people see it in a terminal, at 80 columns and more."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from matrix.outcomes import VERDICTS
from matrix.report.grid import Grid, make_grid
from matrix.report.lines import CellLine, Report

_LEGEND = (
    "numbers are cells: 60 as they should be, +3 known differences or refusals as claimed, "
    "1 FAIL, (2) skipped, - no such cell"
)


def render_terminal(report: Report, console: Console, *, max_failures: int = 20) -> None:
    """Print the grid, what is known, what was not run, and what failed."""
    grid = make_grid(report)
    console.print(_table(grid))
    console.print(_LEGEND, style="dim", highlight=False)
    _print_known(grid, console)
    _print_not_run(report, console)
    for cell in report.failed[:max_failures]:
        _print_failure(cell, console)
    if len(report.failed) > max_failures:
        console.print(f"… and {len(report.failed) - max_failures} more failing cells in report.jsonl")
    console.print(summary(report), style="bold red" if report.failed else "bold green", highlight=False)


def summary(report: Report) -> str:
    """The last line: how many cells got which verdict."""
    totals = make_grid(report).totals
    examples = sum(cell.examples for cell in report.cells)
    parts = [f"{count:,} {name}" for name, count in sorted(totals.items(), key=lambda item: not VERDICTS[item[0]][0])]
    return (
        f"{len(report.cells):,} cells, {examples:,} examples: {', '.join(parts) or 'nothing was run'} "
        f"in {report.footer.get('seconds', 0):.1f} s"
    )


def _table(grid: Grid) -> Table:
    versions = Table(show_header=True, header_style="bold", pad_edge=False, expand=False)
    versions.add_column("format", no_wrap=True)
    versions.add_column("writer > reader", no_wrap=True)
    for column in grid.columns:
        versions.add_column(column.replace("_", "_\u200b"), justify="right")
    last = ""
    for (name, writer, reader), squares in grid.rows.items():
        shown = []
        for column in grid.columns:
            square = squares.get(column)
            text = square.text if square else "-"
            shown.append(f"[bold red]{text}[/]" if square and square.failed else text)
        versions.add_row(escape(name) if name != last else "", f"{writer} > {reader}", *shown)
        last = name
    return versions


def _print_known(grid: Grid, console: Console) -> None:
    if grid.known:
        console.print("\nknown differences, each happened as recorded (+):", style="bold")
        for name, (reason, _, count) in grid.known.items():
            console.print(f"  {count:>4} {escape(name)}: {escape(reason)}", highlight=False)
    if grid.claimed:
        console.print("\nrefused because the format does not claim it (+):", style="bold")
        for reason, count in grid.claimed.items():
            console.print(f"  {count:>4} {escape(reason)}", highlight=False)


def _print_not_run(report: Report, console: Console) -> None:
    not_run = report.footer.get("not_run", 0)
    pruned = sum(report.footer.get("pruned", {}).values())
    if not_run:
        console.print(f"\nnot selected: {not_run:,} cells", highlight=False)
    if pruned:
        console.print(
            f"\nno cells by rule: {pruned:,} combinations; `matrix list --pruned` gives the reasons", highlight=False
        )


def _print_failure(cell: CellLine, console: Console) -> None:
    console.print(f"\n[bold red]{cell.verdict.upper()}[/] {escape(cell.id)}", highlight=False)
    console.print(f"  {VERDICTS[cell.verdict][1]}", highlight=False)
    wanted = cell.expectation
    expected = f"{wanted.kind}: {wanted.reason}" if wanted.reason else wanted.kind
    console.print(f"  expected {escape(expected)}", highlight=False)
    outcome = cell.outcome
    where = f" at {outcome.stage}" if outcome.stage else ""
    kind = f" {outcome.error_type}:" if outcome.error_type else ""
    console.print(f"  seen     {outcome.kind}{where}:{escape(kind)} {escape(outcome.message)}", highlight=False)
    if cell.failure and cell.failure.get("reproducer"):
        shrunk = "smallest example" if cell.failure.get("shrunk") else "an example"
        console.print(f"  {shrunk}: python {escape(str(cell.failure['reproducer']))}", highlight=False)
