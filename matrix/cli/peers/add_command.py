"""`matrix peers add`: make peers."""

from __future__ import annotations

from pathlib import Path

import click

from matrix.cli._guard import guarded
from matrix.cli.peers._options import cache_option


@click.command("add")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--python", metavar="VERSION", help="The interpreter: a version such as 3.11, or a path.")
@click.option("--index-url", metavar="URL", help="Where packages come from, such as the index of torch's CPU builds.")
@cache_option
@guarded
def command(*, names: tuple[str, ...], python: str | None, index_url: str | None, cache: Path | None) -> int:
    """Make a peer for each NAME: a release of torch such as 2.6.0, or tinygrad, or numpy.

    Each is a virtual environment of its own, of the interpreter that has a wheel of the release. A peer that is
    there already is left as it is; of one that cannot be made, nothing is left.
    """
    from matrix.cli.peers._options import peers_in

    peers = peers_in(cache)
    for name in names:
        made = peers.add(name, python=python, index_url=index_url)
        shown = ", ".join(f"{what} {text}" for what, text in made.versions.items())
        click.echo(f"{made.name}  {shown}  {made.folder}")
    return 0
