"""`matrix measure`: every release of torch against every other, and what is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from matrix.cli._guard import guarded

if TYPE_CHECKING:
    from matrix.measured import Measured


@click.command("measure")
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--releases", metavar="NAMES", help="What is measured, instead of all that are listed: 1.4.0,2.6.0.")
@click.option(
    "--cache",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where peers are.",
)
@click.option(
    "--check", is_flag=True, help="Write nothing; say what is out of date. The exit code is 1 where anything is."
)
@guarded
def command(*, folder: Path | None, releases: str | None, cache: Path | None, check: bool) -> int:
    """Measure which release reads what which release wrote, in FOLDER, and write what is made of it.

    Each release in turn is made a peer, asked, and removed again, two at a time at most; a measurement that was
    ended goes on where it was. Then the reports in FOLDER are merged into matrix/data/measured.json, and from that
    the places of known differences, docs/support.md and compat/data/support.json are made. Without FOLDER nothing is
    measured: what is made is made anew of the measurement that is committed.
    """
    from matrix import measured, publishing

    if folder is None:
        if releases is not None:
            raise click.UsageError("--releases is what is measured, and needs a FOLDER to do it in")
        found = measured.load()
    else:
        found = _measured(folder, releases, cache)
    changed = publishing.publish(found, check=check)
    for path in changed:
        click.echo(f"{'out of date' if check else 'written'}: {path}")
    click.echo(f"{len(found.readers)} readers, {len(changed)} files changed", err=True)
    return 1 if check and changed else 0


def _measured(folder: Path, releases: str | None, cache: Path | None) -> Measured:
    from matrix import measured
    from matrix.measuring import Measurement
    from matrix.releases import others, torch_releases

    listed = [release.name for release in torch_releases()] + list(others())
    names = listed if releases is None else [name for name in releases.split(",") if name]
    Measurement(folder, names, cache=cache, say=lambda text: click.echo(text, err=True)).run()
    return measured.merge(sorted(folder.glob("*.jsonl")))
