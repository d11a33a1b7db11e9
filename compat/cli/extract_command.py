"""`compat extract`: write the weights of a checkpoint alone."""

from __future__ import annotations

from typing import Any

import click

from compat import rewriting
from compat.cli._output import guarded, json_option
from compat.cli._writing import key_help, write_again, writing_options


@click.command("extract")
@click.argument("file")
@click.argument("out")
@click.option("--key", metavar="KEY", help=key_help)
@writing_options
@json_option
@guarded
def command(file: str, out: str, *, key: str | None, as_json: bool, **options: Any) -> int:
    """Write the weights in FILE, without the optimizer and all else, to OUT.

    Also those of a whole pickled module, whose class is neither imported nor needed.
    """
    return write_again(file, out, kind="extract", as_json=as_json, change=rewriting.extract(key), **options)
