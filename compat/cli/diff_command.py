"""`compat diff`: how two checkpoints differ."""

from __future__ import annotations

from dataclasses import asdict

import click

from compat.checkpoint import Checkpoint, path_text, walk
from compat.cli._output import FOUND, guarded, json_option, print_json, printable, shorten
from compat.diffing import Difference, describe, diff
from compat.loading import open_checkpoint


@click.command("diff")
@click.argument("left")
@click.argument("right")
@json_option
@guarded
def command(left: str, right: str, *, as_json: bool) -> int:
    """Compare two checkpoints of any formats: tensors by their bytes, everything else by type and value.

    The exit code is 0 when they hold the same, 1 when they differ.
    """
    with open_checkpoint(left) as a, open_checkpoint(right) as b:
        found = diff(a, b)
        if as_json:
            print_json("diff", {"same": not found, **asdict(found)})
        else:
            _print(found, {"left": a, "right": b})
    return FOUND if found else 0


def _print(found: Difference, sides: dict[str, Checkpoint]) -> None:
    if found.tensors:
        click.echo(f"{len(found.tensors):,} differences in tensors ({found.equal_tensors:,} tensors are equal):")
        _list([str(change) for change in found.tensors])
    else:
        same = "equal in dtype, shape, stride, sharing and every byte"
        click.echo(f"no difference in tensors: {found.equal_tensors:,} {same}")
    if found.extras:
        click.echo(f"{len(found.extras):,} differences beside the tensors:")
        _list([str(change) for change in found.extras])
    elif found.equal_extras:
        click.echo(f"no difference beside the tensors: {found.equal_extras:,} values are equal")
    for side, checkpoint in sides.items():
        _print_carried([path for path, holder in found.carried.items() if holder == side], checkpoint)


def _print_carried(paths: list[str], checkpoint: Checkpoint) -> None:
    """Say what the file holds only for compat: another reader of it finds tensors and nothing else."""
    if not paths:
        return
    values = {path_text(path): leaf for path, leaf in walk(checkpoint.tree)}
    shown = [f"{path} ({describe(values[path])})" if path in values else path for path in paths]
    click.echo(
        f"changed its place: {printable(checkpoint.source)} carries {shorten(shown)} in its metadata, where only "
        "compat finds it; other readers see the tensors alone"
    )


def _list(lines: list[str], limit: int = 50) -> None:
    for line in lines[:limit]:
        click.echo(f"  {printable(line)}")
    if len(lines) > limit:
        click.echo(f"  … and {len(lines) - limit:,} more (--json lists them all)")
