"""`matrix list`: every cell, and what is expected of it."""

from __future__ import annotations

import json

import click

from matrix.cli._guard import guarded


@click.command("list")
@click.option(
    "--cells",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only cells whose id matches; may be repeated.",
)
@click.option("--pruned", is_flag=True, help="Show instead which combinations are no cells, and why.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@guarded
def command(*, patterns: tuple[str, ...], pruned: bool, as_json: bool) -> int:
    """Show every cell and what is expected of it with the installed releases."""
    from matrix.cells import plan, select
    from matrix.runner import expectations, judged_as, make_axes

    planned = plan(make_axes())
    if pruned:
        _print_pruned(planned.pruned, as_json=as_json)
        return 0
    expected = expectations(strict_cells=judged_as(planned.cells))
    rows = [(cell, expected.for_cell(cell.id)) for cell in select(planned.cells, patterns)]
    if as_json:
        cells = [
            {
                "id": cell.id,
                "axes": dict(cell.values),
                "expected": wanted.kind,
                "source": wanted.source,
                "reason": wanted.reason,
            }
            for cell, wanted in rows
        ]
        click.echo(json.dumps({"kind": "list", "schema": 1, "cells": cells}))
        return 0
    for cell, wanted in rows:
        click.echo(f"{cell.id}  {wanted.kind}{f': {wanted.reason}' if wanted.reason else ''}")
    click.echo(f"{len(rows):,} cells", err=True)
    return 0


def _print_pruned(pruned: dict[str, int], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"kind": "pruned", "schema": 1, "rules": pruned}))
        return
    for sentence, count in pruned.items():
        click.echo(f"{count:>8,}  {sentence}")
