"""`compat rename`: write a checkpoint again with other keys."""

from __future__ import annotations

from typing import Any

import click

from compat import rewriting
from compat.cli._output import guarded, json_option
from compat.cli._rules import rules_of
from compat.cli._writing import key_help, write_again, writing_options
from compat.keys import Rule


@click.command("rename")
@click.argument("file")
@click.argument("out")
@click.option(
    "--rule",
    "rules",
    multiple=True,
    required=True,
    callback=rules_of,
    metavar="PATTERN=>NEW",
    help="A regular expression, searched for in each key, and what replaces it (\\1 is its first group). "
    "May be given again; rules apply one after the other.",
)
@click.option("--key", "keys", multiple=True, metavar="KEY", help=f"{key_help} May be given again.")
@writing_options
@json_option
@guarded
def command(file: str, out: str, *, rules: list[Rule], keys: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Write FILE to OUT with the keys of its weights renamed, and their _metadata along with them.

    Keys that would become one are refused, and so is a rule that renames nothing.
    """
    change = rewriting.rename(rules, keys)
    return write_again(file, out, kind="rename", as_json=as_json, change=change, **options)
