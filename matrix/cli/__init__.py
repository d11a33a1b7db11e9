"""The command `matrix`: one module per command, imported when it is asked for.

Exit codes: 0 as expected, 1 a finding, 2 wrong usage or unreadable input.
"""

from __future__ import annotations

from typing import Final

import click

import compat
from compat.cli._group import LazyGroup

COMMANDS: Final = ("corpus", "list", "measure", "peers", "report", "run")


@click.command(
    cls=LazyGroup,
    package="matrix.cli",
    names=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(compat.__version__, prog_name="matrix")
def main() -> None:
    """Prove what survives saving, loading and converting, cell by cell."""
