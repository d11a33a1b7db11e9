"""The command `matrix`: one module per command, imported when it is asked for.

Exit codes: 0 as expected, 1 a finding, 2 wrong usage or unreadable input.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

import compat

COMMANDS: Final = ("list", "report", "run")


class _Commands(click.Group):
    """Finds a command in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"matrix.cli.{cmd_name}_command").command
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(compat.__version__, prog_name="matrix")
def main() -> None:
    """Prove what survives saving, loading and converting, cell by cell."""
