"""`matrix peers check`: whether peers answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from matrix.cli._guard import guarded
from matrix.cli.peers._options import cache_option

if TYPE_CHECKING:
    from matrix.peers import Made, Peers


@click.command("check")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@cache_option
@guarded
def command(*, names: tuple[str, ...], cache: Path | None) -> int:
    """Ask peers who they are: those that are named, or all. The exit code is 1 where one does not answer."""
    from matrix.cli.peers._options import peers_in

    peers = peers_in(cache)
    made = [peers.get(name) for name in names] if names else peers.all()
    failed = sum(not _answers(peers, peer) for peer in made)
    click.echo(f"{len(made)} peers, {failed} of them do not answer", err=True)
    return 1 if failed else 0


def _answers(peers: Peers, peer: Made) -> bool:
    from matrix.peers import PeersError

    try:
        hello = peers.check(peer)
    except PeersError as error:
        click.echo(f"{peer.name}  FAILED: {error}")
        return False
    shown = ", ".join(f"{what} {text}" for what, text in hello["versions"].items())
    click.echo(f"{peer.name}  {shown}; reads {', '.join(hello['reads'])}")
    return True
