"""`matrix peers list`: the peers that are there."""

from __future__ import annotations

import json
from pathlib import Path

import click

from matrix.cli._guard import guarded
from matrix.cli.peers._options import cache_option


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@cache_option
@guarded
def command(*, as_json: bool, cache: Path | None) -> int:
    """Show the peers that are there."""
    from matrix.cli.peers._options import peers_in

    peers = peers_in(cache)
    made = peers.all()
    if as_json:
        rows = [{"name": peer.name, "versions": peer.versions, "folder": str(peer.folder)} for peer in made]
        click.echo(json.dumps({"kind": "peers", "schema": 1, "peers": rows}))
        return 0
    for peer in made:
        shown = ", ".join(f"{what} {text}" for what, text in peer.versions.items())
        click.echo(f"{peer.name}  {shown}  {peer.folder}")
    click.echo(f"{len(made)} peers in {peers.folder}", err=True)
    return 0
