"""`matrix corpus`: golden files, the bundled ones and a project's own."""

from __future__ import annotations

from typing import Final

import click

from compat.cli._group import LazyGroup

COMMANDS: Final = ("generate", "verify")


@click.command("corpus", cls=LazyGroup, package="matrix.cli.corpus", names=COMMANDS)
def command() -> None:
    """Write golden files under one version of torch or of your package, and verify them under another."""
