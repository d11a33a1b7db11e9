"""`compat convert`: write a checkpoint again in another format."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

import click

from compat.cli._output import guarded, json_option, print_json, printable, shorten, size_text
from compat.converting import ALLOWABLE, Conversion, convert
from compat.errors import counted


@click.command("convert")
@click.argument("source")
@click.argument("target")
@click.option(
    "--to",
    metavar="FORMAT",
    help="The target's format; the default goes by its suffix. See `compat formats`.",
)
@click.option("--allow-loss", multiple=True, type=click.Choice(ALLOWABLE), help="What the target may lose.")
@click.option("--verify/--no-verify", default=True, help="Read the target back and compare every byte (default).")
@click.option("--overwrite", is_flag=True, help="Replace an existing target.")
@click.option("--max-shard-size", metavar="SIZE", help="Split into files of at most SIZE (5GB, 500MB) and an index.")
@json_option
@guarded
def command(
    source: str,
    target: str,
    *,
    to: str | None,
    allow_loss: tuple[str, ...],
    verify: bool,
    overwrite: bool,
    max_shard_size: str | None,
    as_json: bool,
) -> int:
    """Convert SOURCE, a checkpoint of any format, to TARGET.

    Nothing of SOURCE is executed. TARGET appears whole and verified, or not at all.
    """
    options = {"to": to, "allow_loss": allow_loss, "verify": verify, "overwrite": overwrite}
    options["max_shard_size"] = max_shard_size
    if sys.stderr.isatty() and not as_json and os.path.exists(source):  # noqa: PTH110 - a plain question
        with click.progressbar(length=os.path.getsize(source), label="writing", file=sys.stderr) as bar:  # noqa: PTH202
            done = convert(source, target, progress=bar.update, **options)  # type: ignore[arg-type]  # checked by click
    else:
        done = convert(source, target, **options)  # type: ignore[arg-type]  # checked by click
    if as_json:
        print_json("convert", asdict(done))
    else:
        _print(done)
    return 0


def _print(done: Conversion) -> None:
    verified = "verified" if done.verified else "not verified"
    click.echo(
        f"{printable(done.source)} ({done.source_format}) → {printable(done.target)} ({done.target_format}): "
        f"{counted(done.tensors, 'tensor')}, {size_text(done.nbytes)}, {verified}, {done.seconds:.2f} s"
    )
    for feature, paths in done.lost.items():
        click.echo(f"  lost, {feature}: {shorten(paths)}")
    for feature, paths in done.carried.items():
        click.echo(f"  {feature} kept beside the tensors, only compat restores it: {shorten(paths)}")
    if done.renamed:
        before, after = next(iter(done.renamed.items()))
        more = f" and {len(done.renamed) - 1:,} more" if len(done.renamed) > 1 else ""
        click.echo(f"  named otherwise in the file: {printable(before)} is {printable(after)}{more}")
    for note in done.notes:
        click.echo(f"  note: {printable(note)}")
