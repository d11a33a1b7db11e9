"""A report as people see it in a terminal, at 80 columns and more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from matrix.report.grid import Grid, make_grid, summary
from matrix.report.lines import CellLine, Report
from matrix.report.stories import story

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_LEGEND = (
    "numbers are cells: 60 as they should be, +3 known differences or refusals as claimed, "
    "1 FAIL, (2) skipped, - no such cell"
)


def render_terminal(report: Report, console: Console, *, max_failures: int = 20) -> None:
    """Print the grid, what is known, what was not run, and what failed."""
    grid = make_grid(report)
    if grid.rows or not grid.releases:
        console.print(_table(grid, console.width))
    for part in _release_tables(grid, console.width):
        console.print(part)
    console.print(_LEGEND, style="dim", highlight=False)
    _print_known(grid, console)
    _print_counts("refused because the format does not claim it (+)", grid.claimed, console)
    _print_counts("skipped, which is no pass", grid.skipped, console)
    _print_counts("combinations that are no cells", grid.pruned, console)
    if grid.not_selected:
        console.print(f"\nnot selected, so not run: {grid.not_selected:,} cells", highlight=False)
    for cell in report.failed[:max_failures]:
        _print_failure(cell, console)
    if len(report.failed) > max_failures:
        left = len(report.failed) - max_failures
        console.print(f"\n… and {left:,} more failing cells in report.jsonl", highlight=False)
    console.print()
    if not report.footer:
        console.print("CUT: the run did not end; this is what it had", style="bold red", highlight=False)
    fine = report.footer and not report.failed
    console.print(summary(report), style="bold green" if fine else "bold red", highlight=False)


def _table(grid: Grid, width: int) -> Table:
    """The grid: a heading per format, a row per writer and reader; what does not fit wraps between words."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    title = "  writer > reader"
    first = max([len(title), *(len(f"  {writer} > {reader}") for _, writer, reader in grid.rows)])
    texts = {
        column: [
            column,
            *(squares[column].text for squares in grid.rows.values() if column in squares),
        ]
        for column in grid.columns
    }
    narrow = first + sum(max(map(len, shown)) + 2 for shown in texts.values()) > width
    table = Table(box=SIMPLE_HEAD, padding=(0, 0 if narrow else 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(f"format\n{title}", no_wrap=True)
    for column, shown in texts.items():
        # Left to itself, rich takes the room from the widest columns and breaks words in the others.
        heading = column.replace("_", "_\n", 1) if narrow else column
        words = [word for text in (heading, *shown[1:]) for word in text.split()]
        table.add_column(heading, justify="right", width=max(map(len, words)) if narrow else None)
    last = ""
    for (name, writer, reader), squares in grid.rows.items():
        if name != last:
            table.add_row(f"[bold]{escape(name)}[/]")
        last = name
        shown = []
        for column in grid.columns:
            square = squares.get(column)
            text = square.text if square else "-"
            shown.append(f"[bold red]{text}[/]" if square and square.failed else text)
        table.add_row(escape(f"  {writer} > {reader}"), *shown)
    return table


def _release_tables(grid: Grid, width: int) -> Iterator[Table]:
    """Who reads what whom wrote: a row per writer, a column per reader, as many of them as have room at once."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    title = "writer, reader >"
    first = max([len(title), *map(len, grid.releases)])
    for readers in _chunks(grid, width - first - 1):
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        table.add_column(title, no_wrap=True)
        for reader in readers:
            table.add_column(escape(reader), justify="right", no_wrap=True)
        for writer, squares in grid.releases.items():
            found = [squares.get(reader) for reader in readers]
            red = [f"[bold red]{s.text}[/]" if s and s.failed else s.text if s else "-" for s in found]
            table.add_row(escape(writer), *red)
        yield table


def _chunks(grid: Grid, width: int) -> Iterator[list[str]]:
    """The readers, in parts of which each has room; one at least in each."""
    chunk: list[str] = []
    room = width
    for reader in grid.readers:
        texts = [squares[reader].text for squares in grid.releases.values() if reader in squares]
        needed = max(map(len, [reader, *texts])) + 2
        if chunk and needed > room:
            yield chunk
            chunk, room = [], width
        chunk.append(reader)
        room -= needed
    if chunk:
        yield chunk


def _print_known(grid: Grid, console: Console) -> None:
    if not grid.known:
        return
    console.print("\nknown differences, each happened as recorded (+):", style="bold", highlight=False)
    for name, (reason, link, count) in grid.known.items():
        console.print(f"{count:>6,}  {name}: {reason}", markup=False, highlight=False)
        if link.startswith("http"):
            console.print(f"        {link}", markup=False, highlight=False, soft_wrap=True)


def _print_counts(title: str, counts: Mapping[str, int], console: Console) -> None:
    if counts:
        console.print(f"\n{title}:", style="bold", highlight=False)
    for reason, count in counts.items():
        console.print(f"{count:>9,}  {reason}", markup=False, highlight=False)


def _print_failure(cell: CellLine, console: Console) -> None:
    from rich.markup import escape

    # Ids and paths stay whole, so that they can be copied.
    console.print(f"\n[bold red]{cell.verdict.upper()}[/] {escape(cell.id)}", highlight=False, soft_wrap=True)
    for name, text in story(cell).items():
        console.print(f"  {name}: {text}", markup=False, highlight=False, soft_wrap=text.startswith("python "))
