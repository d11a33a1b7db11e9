"""What all commands share that write a checkpoint again: their options, the progress, and what they print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import click

from compat.cli._output import print_json, printable, shorten, size_text
from compat.converting import ALLOWABLE, Conversion, convert
from compat.errors import counted

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--to", metavar="FORMAT", help="The target's format; the default goes by its suffix. See `compat formats`."
    ),
    click.option("--allow-loss", multiple=True, type=click.Choice(ALLOWABLE), help="What the target may lose."),
    click.option("--verify/--no-verify", default=True, help="Read the target back and compare every byte (default)."),
    click.option("--overwrite", is_flag=True, help="Replace an existing target."),
    click.option(
        "--max-shard-size", metavar="SIZE", help="Split into files of at most SIZE (5GB, 500MB) and an index."
    ),
)

key_help = "What leads to the weights, such as `model` or `ema.module`, where FILE holds several."


def writing_options(command: Command) -> Command:
    """The options of a command that writes a checkpoint."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def write_again(source: str, target: str, *, kind: str, as_json: bool, **options: Any) -> int:
    """Convert, with a progress bar on a terminal, and print what was done."""
    if sys.stderr.isatty() and not as_json and os.path.exists(source):  # noqa: PTH110 - a plain question
        with click.progressbar(length=os.path.getsize(source), label="writing", file=sys.stderr) as bar:  # noqa: PTH202
            done = convert(source, target, progress=bar.update, **options)
    else:
        done = convert(source, target, **options)
    if as_json:
        print_json(kind, asdict(done))
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
