"""The options that all of these commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from matrix.peers import Peers

Command = TypeVar("Command", bound=Callable[..., object])


def cache_option(command: Command) -> Command:
    """The option --cache."""
    return click.option(
        "--cache",
        metavar="DIR",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where peers are, instead of compat-matrix/peers below XDG_CACHE_HOME or ~/.cache.",
    )(command)


def peers_in(cache: Path | None) -> Peers:
    """The peers of a folder, which say on standard error what takes long."""
    from matrix.peers import Peers

    return Peers(cache, say=lambda text: click.echo(text, err=True))
