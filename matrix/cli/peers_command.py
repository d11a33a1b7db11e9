"""`matrix peers`: interpreters with other releases of torch."""

from __future__ import annotations

from typing import Final

import click

from compat.cli._group import LazyGroup

COMMANDS: Final = ("add", "check", "list", "remove")


@click.command("peers", cls=LazyGroup, package="matrix.cli.peers", names=COMMANDS)
def command() -> None:
    """Make, show and remove interpreters with other releases of torch, which `matrix run --peers` talks to."""
