"""`compat convert`: write a checkpoint again in another format."""

from __future__ import annotations

from typing import Any

import click

from compat.cli._output import guarded, json_option
from compat.cli._writing import write_again, writing_options


@click.command("convert")
@click.argument("source")
@click.argument("target")
@writing_options
@json_option
@guarded
def command(source: str, target: str, *, as_json: bool, **options: Any) -> int:
    """Convert SOURCE, a checkpoint of any format, to TARGET.

    Nothing of SOURCE is executed. TARGET appears whole and verified, or not at all.
    """
    return write_again(source, target, kind="convert", as_json=as_json, **options)
