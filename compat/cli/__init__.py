"""The command `compat`: one module per command, imported when it is asked for.

Exit codes: 0 fine, 1 a finding, 2 wrong usage or unreadable input.
"""

from __future__ import annotations

from typing import Final

import click

import compat
from compat.cli._group import LazyGroup

COMMANDS: Final = (
    "convert",
    "diff",
    "doctor",
    "export",
    "extract",
    "formats",
    "inspect",
    "load",
    "rename",
    "scan",
    "strip",
    "verify-export",
)


@click.command(
    cls=LazyGroup,
    package="compat.cli",
    names=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(compat.__version__, prog_name="compat")
def main() -> None:
    """Read, convert and compare PyTorch checkpoints. Nothing in a file is ever executed."""
