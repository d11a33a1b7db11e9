"""`matrix corpus verify`: golden files read back as what they were."""

from __future__ import annotations

from pathlib import Path

import click

from matrix.cli._guard import FAILED, guarded


@click.command("verify")
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--released", metavar="VERSIONS", help="Versions whose golden files must be there: 1.0.0,1.1.0.")
@guarded
def command(*, folder: Path | None, released: str | None) -> int:
    """Verify the golden files in FOLDER, or the bundled ones, which every release of torch from 1.0 on wrote.

    Sums and values are checked; of a module, also what it computes. A version without golden files is a finding.
    The exit code is 1 where anything is.
    """
    if folder is None:
        return _bundled()
    from matrix.corpus.project import ProjectError, verify

    versions = tuple(name for name in (released or "").split(",") if name)
    try:
        found = list(verify(folder, versions))
    except ProjectError as error:
        click.echo(f"matrix: {error}", err=True)
        return FAILED
    for finding in found:
        click.echo(f"{finding.kind}: {finding.where}: {finding.message}")
    click.echo(f"{len(found)} findings in {folder}", err=True)
    return 1 if found else 0


def _bundled() -> int:
    from matrix.corpus.verify import changed, verify

    wrong = list(changed())
    count = 0
    for found in verify():
        count += 1
        said = found["error"] or "; ".join(found["differences"][:1])
        wrong += [f"{found['id']}: {said}"] if said else []
    for line in wrong:
        click.echo(line)
    click.echo(f"{count} golden files, {len(wrong)} findings", err=True)
    return 1 if wrong else 0
