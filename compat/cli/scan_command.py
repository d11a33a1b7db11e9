"""`compat scan`: what files would execute when they are loaded without limits."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import click

from compat.cli._output import FAILED, json_option, print_json, printable, shorten
from compat.dangers import HARMLESS
from compat.errors import CompatError, UnknownFormat, Unreadable, counted
from compat.formats import detect
from compat.sarif import to_sarif
from compat.scanning import Finding, Findings, scan
from compat.sources import open_source


@click.command("scan")
@click.argument("files", nargs=-1, required=True)
@click.option("--all", "show_all", is_flag=True, help="List harmless names too.")
@json_option
@click.option("--sarif", "as_sarif", is_flag=True, help="Print SARIF 2.1.0 for code hosts.")
def command(files: tuple[str, ...], *, show_all: bool, as_json: bool, as_sarif: bool) -> None:
    """List what FILES would execute when they are loaded without limits.

    Every class and function that a pickle in them names is judged; nothing is executed. Folders are searched for
    checkpoints. Exit code 1: something would be executed; 2: a file cannot be read, and
    what was found up to there is listed.
    """
    if as_json and as_sarif:
        raise click.UsageError("--json and --sarif exclude each other.")
    run = _Run()
    for name in files:
        if Path(name).is_dir():
            run.folder(name)
        else:
            run.scan(name, asked_for=True)
    if not run.scanned and not run.unread:
        run.unread.append((", ".join(files), Unreadable("there is no checkpoint in it", source=", ".join(files))))
    if as_sarif:
        click.echo(json.dumps(to_sarif(run.scanned, run.unread), indent=2 if sys.stdout.isatty() else None))
    elif as_json:
        unread = [error.to_json() for _, error in run.unread]
        found_in = [found.to_json() for found in run.scanned]
        print_json("scan", {"files": found_in, "unread": unread, "skipped": run.skipped})
    else:
        _report(run, show_all=show_all)
    raise SystemExit(max([found.exit_code for found in run.scanned] + [FAILED] * bool(run.unread)))


def _report(run: _Run, *, show_all: bool) -> None:
    for found in run.scanned:
        _print(found, show_all=show_all)
    if run.skipped:
        click.echo(f"skipped, because they are no checkpoints: {shorten(run.skipped)}")
    for _, error in run.unread:
        click.echo(f"compat: {printable(str(error))}", err=True)


@dataclass(slots=True)
class _Run:
    """What became of every file of one run."""

    scanned: list[Findings] = field(default_factory=list)
    unread: list[tuple[str, CompatError]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def scan(self, name: str, *, asked_for: bool) -> None:
        """Scan one file; one that only lies in a folder and is no checkpoint is skipped."""
        try:
            found = scan(name)
        except CompatError as error:
            self.unread.append((name, error))
            return
        if not asked_for and not found.streams and isinstance(found.error, UnknownFormat):
            self.skipped.append(name)
        else:
            self.scanned.append(found)

    def folder(self, name: str) -> None:
        """Scan what lies below a folder, and each folder that is one checkpoint as one."""
        if _is_checkpoint(name):
            self.scan(name, asked_for=True)
            return
        try:
            entries = sorted(os.scandir(name), key=lambda entry: entry.name)
        except OSError as error:
            self.unread.append((name, Unreadable(f"cannot be listed: {error.strerror}", source=name)))
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                self.folder(entry.path)
            elif entry.is_file():
                self.scan(entry.path, asked_for=False)


def _is_checkpoint(folder: str) -> bool:
    """Whether a folder is one checkpoint, a damaged one too."""
    try:
        with open_source(folder) as source:
            detect(source)
    except UnknownFormat:
        return False
    except CompatError:
        return True
    return True


def _print(found: Findings, *, show_all: bool) -> None:
    click.echo(f"{printable(found.source)}: {found.format or 'unknown'}, {_verdict(found)}")
    for finding in found.executed:
        _print_finding(finding)
    if show_all:
        for finding in found.findings:
            if finding.severity == HARMLESS:
                _print_finding(finding)
    for note in found.notes:
        click.echo(f"  note: {printable(note)}")
    advice = found.advice
    if advice.line:
        click.echo(f"  load it with: {printable(advice.line)}")
    if advice.torch:
        versions = f" (torch {advice.since} or newer)" if advice.since else ""
        click.echo(f"  or, without compat{versions}:")
        for statement in (*advice.imports, advice.torch):
            click.echo(f"    {printable(statement)}")
    elif advice.reason and found.error is None:
        click.echo(f"  not without compat: {printable(advice.reason)}")
    if found.error is not None:
        click.echo(f"  cannot be read to its end: {printable(str(found.error))}")


def _verdict(found: Findings) -> str:
    executed = found.executed
    if executed:
        return f"{len(executed)} of its {counted(len(found.findings), 'name')} would be executed"
    if found.error is not None:
        return "not known to be harmless"
    if found.findings:
        return f"nothing would be executed: its {counted(len(found.findings), 'name')} only make values"
    return "it names nothing" if found.streams else "nothing in it is unpickled"


def _print_finding(finding: Finding) -> None:
    click.echo(
        f"  {finding.severity if finding.severity != HARMLESS else 'ok'}: {printable(finding.name)} {finding.reason}"
    )
    where = f" of {printable(finding.stream)}" if finding.stream else ""
    at = shorten([f"{offset:,}" for offset in finding.offsets])
    click.echo(
        f"    at byte {at}{where}{f', in {shorten(list(finding.paths))}' if finding.paths else ', not in the content'}"
    )
