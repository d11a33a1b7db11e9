"""`matrix peers remove`: remove peers."""

from __future__ import annotations

from pathlib import Path

import click

from matrix.cli._guard import guarded
from matrix.cli.peers._options import cache_option


@click.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@cache_option
@guarded
def command(*, names: tuple[str, ...], cache: Path | None) -> int:
    """Remove peers, with everything that was installed for them."""
    from matrix.cli.peers._options import peers_in

    peers = peers_in(cache)
    for name in names:
        peers.remove(name)
        click.echo(f"removed {name}")
    return 0
