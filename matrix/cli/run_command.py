"""`matrix run`: draw, write, read, judge."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from matrix.cli._guard import guarded


@click.command("run")
@click.option(
    "--profile",
    type=click.Choice(["quick", "default", "thorough", "nightly"]),
    default="default",
    help="How much to try.",
)
@click.option(
    "--cells",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only cells whose id matches; may be repeated.",
)
@click.option("--model", metavar="PKG.MOD:FACTORY", help="Your own module in place of drawn ones.")
@click.option(
    "--state",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A real checkpoint in place of drawn ones.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="The same seed draws the same examples, as many as time admits.",
)
@click.option(
    "--out", metavar="DIR", type=click.Path(path_type=Path), default=Path("matrix-report"), show_default=True,
    help="Where report.jsonl and reproducers go.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@guarded
def command(
    *,
    profile: str,
    patterns: tuple[str, ...],
    model: str | None,
    state: Path | None,
    seed: int,
    out: Path,
    as_json: bool,
) -> int:
    """Draw random modules and states and push them through every cell of the matrix.

    Ends with a grid. The exit code is 0 when everything happened as expected, known differences included,
    and 1 when a cell is broken, changed or healed.
    """
    from matrix import examples
    from matrix.report import Report
    from matrix.runner import Run, Settings

    if model is not None and state is not None:
        raise click.UsageError("--model and --state exclude each other")
    given = None
    if model is not None:
        given = examples.from_factory(model, seed)
    elif state is not None:
        given = examples.from_file(state)
    settings = Settings(profile=profile, patterns=patterns, seed=seed, given=given, out=out)
    with _Progress(show=sys.stderr.isatty() and not as_json) as progress:
        run = Run(settings, progress)
        verdicts = run.execute()
    report = Report.read(out / "report.jsonl")
    if as_json:
        document = {
            "kind": "run",
            "schema": 1,
            "verdicts": dict(verdicts),
            "failed": [c.id for c in report.failed],
        }
        click.echo(json.dumps({**document, "report": str(out / "report.jsonl")}))
    else:
        _show(report, out)
    return 1 if report.failed else 0


def _show(report: object, out: Path) -> None:
    from rich.console import Console

    from matrix.report import Report, render_terminal

    if isinstance(report, Report):
        console = Console(soft_wrap=False)
        versions = ", ".join(f"{name} {text}" for name, text in report.header["versions"].items())
        console.print(versions, highlight=False)
        render_terminal(report, console)
        console.print(f"report: {out / 'report.jsonl'}", highlight=False, soft_wrap=True)


class _Progress:
    """A line on a terminal's standard error: how far, how fast."""

    def __init__(self, *, show: bool) -> None:
        self._show = show

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._show:
            click.echo("\r\033[K", nl=False, err=True)

    def __call__(self, done: int, total: int) -> None:
        if self._show:
            click.echo(f"\r\033[K{done:,} of {total:,} cells", nl=False, err=True)
