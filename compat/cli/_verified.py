"""How a verified export is shown."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from compat.auditing import Audit
from compat.cli._output import printable, shorten
from compat.verifying import Verification


def verification_facts(found: Verification) -> dict[str, Any]:
    """Everything that is known, as JSON values."""
    facts = asdict(found)
    return {**facts, "ok": found.ok, "worst": found.worst if found.worst != float("inf") else None}


def print_verification(found: Verification) -> None:
    """Outputs, then weights."""
    for problem in found.outputs:
        click.echo(f"  WRONG {printable(problem)}")
    if found.ok:
        how = "equal bit by bit" if found.equal else f"within tolerance, off by {found.worst:.2g} of the largest value"
        click.echo(f"  outputs: {how}")
    if found.weights_error is not None:
        click.echo(f"  weights: cannot be read from it ({printable(found.weights_error)})")
    if found.weights is not None:
        _print_audit(found.weights)


def _print_audit(audit: Audit) -> None:
    counts = ", ".join(f"{count} {fate}" for fate, count in audit.counts.items())
    click.echo(f"  weights: {counts or 'none'}")
    for fate in ("changed", "lost"):
        keys = [key for key, met in audit.fates.items() if met == fate]
        if keys:
            click.echo(f"    {fate}: {shorten(keys)}")
    for key, name in list(audit.renamed.items())[:5]:
        click.echo(f"    {audit.fates[key]}: {printable(key)} is {printable(name)}")
    if audit.extra:
        click.echo(f"    only in the artefact: {shorten(audit.extra)}")
    for tied in audit.split:
        click.echo(f"    no longer tied: {', '.join(map(printable, tied))}")
