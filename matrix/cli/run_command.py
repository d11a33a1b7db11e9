"""`matrix run`: draw, write, read, judge."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from matrix.cli._guard import guarded

# The one check that needs peers, and is run only when it is asked for.
_VERSION: Final = "version"


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
@click.option("--check", metavar="NAME", help="Only cells of this check, such as roundtrip or version.")
@click.option(
    "--peers",
    metavar="NAMES",
    help="Run the check version between this torch, compat and these peers: 1.4.0,2.6.0, or all.",
)
@click.option(
    "--writers",
    type=click.Choice(["peers", "all"]),
    default="peers",
    help="Whose golden files the check version reads: of the releases that are peers, or of all.",
)
@click.option(
    "--cache",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where peers are.",
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
    check: str | None,
    peers: str | None,
    writers: str,
    cache: Path | None,
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
    if check == _VERSION or peers is not None:
        if check not in (None, _VERSION) or model is not None or state is not None:
            raise click.UsageError("--peers is for the check version, which draws its own states")
        verdicts = _between_versions(patterns, peers, cache, seed=seed, out=out, every=writers == "all", quiet=as_json)
    else:
        verdicts = _here(profile, _of_check(check, patterns), model, state, seed=seed, out=out, quiet=as_json)
    return _finish(verdicts, out, as_json=as_json)


def _of_check(check: str | None, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns of what is run: those that are given, or all cells of a check."""
    if check is None:
        return patterns
    if patterns:
        raise click.UsageError("--check and --cells exclude each other; an id begins with its check")
    return (f"{check}:*",)


def _here(
    profile: str, patterns: tuple[str, ...], model: str | None, state: Path | None, *, seed: int, out: Path, quiet: bool
) -> Mapping[str, int]:
    from matrix import examples
    from matrix.runner import Run, Settings

    if model is not None and state is not None:
        raise click.UsageError("--model and --state exclude each other")
    given = None
    if model is not None:
        given = examples.from_factory(model, seed)
    elif state is not None:
        given = examples.from_file(state)
    settings = Settings(profile=profile, patterns=patterns, seed=seed, given=given, out=out)
    with _Progress(show=sys.stderr.isatty() and not quiet) as progress:
        return Run(settings, progress).execute()


def _between_versions(
    patterns: tuple[str, ...], peers: str | None, cache: Path | None, *, seed: int, out: Path, every: bool, quiet: bool
) -> Mapping[str, int]:
    from matrix.versionrun import VersionRun, VersionSettings

    names = () if peers in (None, "all") else tuple(name for name in str(peers).split(",") if name)
    settings = VersionSettings(
        peers=names, cache=cache, all_writers=every, patterns=patterns, seed=seed, out=out,
    )  # fmt: skip
    with _Progress(show=sys.stderr.isatty() and not quiet) as progress:
        return VersionRun(settings, progress).execute()


def _finish(verdicts: Mapping[str, int], out: Path, *, as_json: bool) -> int:
    from matrix.report import Report

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
