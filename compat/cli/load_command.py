"""`compat load`: try out whether a checkpoint loads into a module."""

from __future__ import annotations

from typing import Any

import click

from compat.cli._output import FOUND, guarded, json_option, print_json, printable
from compat.cli._rules import rules_of
from compat.cli._writing import key_help
from compat.factories import make_module
from compat.fitting import CASTING
from compat.keys import Rule
from compat.loadreport import LoadReport, StateMismatch
from compat.modules import load_into


@click.command("load")
@click.argument("file")
@click.option("--into", "factory", required=True, metavar="PKG.MOD:FACTORY", help="What makes the module.")
@click.option("--key", metavar="KEY", help=key_help)
@click.option("--prefix", default="auto", metavar="PREFIX", help="What to strip; auto (default) for what fits.")
@click.option(
    "--rename",
    "rename",
    multiple=True,
    callback=rules_of,
    metavar="PATTERN=>NEW",
    help="A rule for the file's keys; see `compat rename`. May be given again.",
)
@click.option("--include", multiple=True, metavar="GLOB", help="Keys of the module to load. May be given again.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Keys to leave alone. May be given again.")
@click.option("--casting", type=click.Choice(CASTING), default="same_kind", show_default=True, help="Other dtypes.")
@json_option
@guarded
def command(
    file: str,
    *,
    factory: str,
    rename: list[Rule],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> int:
    """Load FILE into the module that PKG.MOD:FACTORY makes, and report; nothing is written.

    The factory is your own code and runs; nothing of FILE does. The exit code is 1 when keys, shapes or kinds of
    numbers differ.
    """
    module = make_module(factory)
    try:
        report = load_into(
            module,
            file,
            strict=False,
            skip_mismatched=True,
            include=include or None,
            exclude=exclude,
            rename=rename,
            **options,
        )
    except StateMismatch as error:
        report = error.report
    if as_json:
        print_json("load", {"file": file, "into": factory, **report.to_json()})
    else:
        _print(report)
    return 0 if report.complete else FOUND


def _print(report: LoadReport) -> None:
    for line in str(report).splitlines():
        click.echo(printable(line))
    click.echo("file and module match" if report.complete else "file and module do not match exactly")
