"""`matrix report`: show a finished run again."""

from __future__ import annotations

from pathlib import Path

import click

from matrix.cli._guard import guarded


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path), default=Path("matrix-report"))
@click.option("--markdown", is_flag=True, help="Print Markdown instead of the terminal's grid.")
@guarded
def command(run: Path, *, markdown: bool) -> int:
    """Show the report of RUN, a folder that `matrix run` wrote, or its report.jsonl.

    A run that was cut is shown as far as it went, and the exit code is 2.
    """
    from rich.console import Console

    from matrix.report import CutReport, Report, render_markdown, render_terminal

    path = run / "report.jsonl" if run.is_dir() else run
    cut = None
    try:
        report = Report.read(path)
    except CutReport as error:
        cut, report = error, error.partial
    if markdown:
        click.echo(render_markdown(report), nl=False)
    else:
        render_terminal(report, Console())
    if cut is not None:
        raise cut
    return 1 if report.failed else 0
