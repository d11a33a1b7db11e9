"""`compat strip`: write a checkpoint again without the prefix of its keys."""

from __future__ import annotations

from typing import Any

import click

from compat import rewriting
from compat.cli._output import guarded, json_option
from compat.cli._writing import key_help, write_again, writing_options


@click.command("strip")
@click.argument("file")
@click.argument("out")
@click.option(
    "--prefix",
    default="auto",
    metavar="PREFIX",
    help="The prefix with its dot; auto (default) for the wrappers that all keys begin with.",
)
@click.option("--key", "keys", multiple=True, metavar="KEY", help=f"{key_help} May be given again.")
@writing_options
@json_option
@guarded
def command(file: str, out: str, *, prefix: str, keys: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Write FILE to OUT without what DataParallel, torch.compile and the like put in front of its keys.

    What lies beside the weights stays. Keys that would become one are refused, and so is a file without the prefix.
    """
    change = rewriting.strip(prefix, keys)
    return write_again(file, out, kind="strip", as_json=as_json, change=change, **options)
