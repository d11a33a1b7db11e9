"""`matrix report`: show a finished run again, in every form that people and programs read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from matrix.cli._guard import guarded

if TYPE_CHECKING:
    from matrix.report import Report

# What an option holds that was given without a FILE: the standard output, or a file beside report.jsonl.
_PRINTED: Final = "-"
_BESIDE: Final = "beside the report"
_NAMES: Final[Mapping[str, str]] = {
    "html": "report.html",
    "junit": "junit.xml",
    "sarif": "report.sarif",
    "markdown": "report.md",
    "json": "report.json",
}


def _picture(name: str, *, alone: str, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(f"--{name}", name, metavar="[FILE]", is_flag=False, flag_value=alone, help=text)


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path), default=Path("matrix-report"))
@_picture("html", alone=_BESIDE, text="One page that works offline; without FILE, RUN/report.html.")
@_picture("markdown", alone=_PRINTED, text="Markdown; without FILE, it is printed.")
@_picture("junit", alone=_BESIDE, text="JUnit XML for CI servers; without FILE, RUN/junit.xml.")
@_picture("json", alone=_PRINTED, text="JSON for programs; without FILE, it is printed.")
@_picture("sarif", alone=_BESIDE, text="SARIF for code scanning; without FILE, RUN/report.sarif.")
@click.option(
    "--compare",
    "old",
    metavar="OLD",
    type=click.Path(path_type=Path),
    help="Show what changed from the run OLD to RUN.",
)
@guarded
def command(run: Path, *, old: Path | None, **asked: str | None) -> int:
    """Show the report of RUN, a folder that `matrix run` wrote, or its report.jsonl.

    Without an option it is shown as a grid. Several forms can be asked for at once; a FILE of - is the
    standard output. The exit code is 1 where a cell failed; with --compare, where a cell fails that did
    not fail in OLD.

    A run that was cut is shown as far as it went, and the exit code is 2.
    """
    wanted = {name: value for name, value in asked.items() if value is not None}
    _check(wanted)
    if old is not None:
        return _compare(old, run, wanted)
    from matrix.report import CutReport, Report

    cut = None
    try:
        report = Report.read(_report_of(run))
    except CutReport as error:
        cut, report = error, error.partial
    _write(wanted, _pictures(report, _report_of(run)), beside=_report_of(run).parent)
    if not wanted:
        from rich.console import Console

        from matrix.report import render_terminal

        render_terminal(report, Console())
    if cut is not None:
        raise cut
    return 1 if report.failed else 0


def _report_of(run: Path) -> Path:
    return run / "report.jsonl" if run.is_dir() else run


def _check(wanted: Mapping[str, str]) -> None:
    """Refuse what would write over a run, or two texts to one place."""
    for name, value in wanted.items():
        if value != _BESIDE and (Path(value).is_dir() or value.endswith(".jsonl")):
            raise click.UsageError(
                f"--{name} was given {value!r}, which is a run; expected a file to write. "
                f"Name the run first: matrix report {value} --{name}"
            )
    targets = [value for value in wanted.values() if value != _BESIDE]
    doubled = next((value for value in targets if targets.count(value) > 1), None)
    if doubled is not None:
        where = "standard output" if doubled == _PRINTED else repr(doubled)
        names = " and ".join(f"--{name}" for name, value in wanted.items() if value == doubled)
        raise click.UsageError(f"{names} both go to {where}; give each a FILE of its own")


def _pictures(report: Report, path: Path) -> Mapping[str, Callable[[], str]]:
    """How each form of a report is made."""
    from matrix.report import render_html, render_json, render_junit, render_markdown, render_sarif

    here = Path.cwd()
    inside = path.resolve().is_relative_to(here)
    uri = path.resolve().relative_to(here).as_posix() if inside else path.name
    return {
        "html": lambda: render_html(report),
        "markdown": lambda: render_markdown(report),
        "junit": lambda: render_junit(report),
        "json": lambda: render_json(report),
        "sarif": lambda: render_sarif(report, uri=uri),
    }


def _compare(old: Path, new: Path, wanted: Mapping[str, str]) -> int:
    from matrix.report import (
        changes,
        render_changes,
        render_changes_html,
        render_changes_json,
        render_changes_markdown,
    )
    from matrix.report.lines import Report

    unfit = sorted(set(wanted) & {"junit", "sarif"})
    if unfit:
        raise click.UsageError(f"--compare has no --{unfit[0]}; there are --html, --markdown and --json")
    found = changes(Report.read(_report_of(old)), Report.read(_report_of(new)))
    pictures: Mapping[str, Callable[[], str]] = {
        "html": lambda: render_changes_html(found),
        "markdown": lambda: render_changes_markdown(found),
        "json": lambda: render_changes_json(found),
    }
    _write(wanted, pictures, beside=_report_of(new).parent, prefix="changes-")
    if not wanted:
        from rich.console import Console

        render_changes(found, Console())
    return 1 if found.broken else 0


def _write(
    wanted: Mapping[str, str], pictures: Mapping[str, Callable[[], str]], *, beside: Path, prefix: str = ""
) -> None:
    """Write what was asked for; each file whole or not at all."""
    from compat.atomic import atomic_target

    for name, value in wanted.items():
        text = pictures[name]()
        if value == _PRINTED:
            click.echo(text, nl=False)
            continue
        path = beside / f"{prefix}{_NAMES[name]}" if value == _BESIDE else Path(value)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_target(path, overwrite=True) as file:
            file.write(text.encode("utf-8"))
        click.echo(f"{name}: {path}", err=True)
