"""`compat formats`: which formats there are and what each of them keeps."""

from __future__ import annotations

from dataclasses import fields

import click

from compat.cli._output import guarded, json_option, print_json
from compat.formats import Capabilities, Format, all_formats
from compat.formats._format import PLAIN_DTYPES


@click.command("formats")
@json_option
@guarded
def command(*, as_json: bool) -> int:
    """List the formats: who writes them, and what each keeps."""
    if as_json:
        print_json("formats", {"formats": [_facts(found) for found in all_formats()]})
        return 0
    for found in all_formats():
        ways = "read and written" if found.writable else "read"
        click.echo(f"{found.name} ({' '.join(found.suffixes)}), {ways}: {found.summary}")
        for line in _claims(found.capabilities):
            click.echo(f"  {line}")
    return 0


def _facts(found: Format) -> dict[str, object]:
    claims = {field.name: getattr(found.capabilities, field.name) for field in fields(Capabilities)}
    claims["dtypes"] = sorted(claims["dtypes"])
    return {
        "name": found.name,
        "summary": found.summary,
        "suffixes": list(found.suffixes),
        "written": found.writable,
        "capabilities": claims,
    }


def _claims(capabilities: Capabilities) -> list[str]:
    kept: list[str] = []
    refused: list[str] = []
    for field in fields(Capabilities):
        value = getattr(capabilities, field.name)
        if isinstance(value, bool):
            (kept if value else refused).append(field.name)
    missing = sorted(PLAIN_DTYPES - capabilities.dtypes)
    lines = [f"keeps: {', '.join(kept)}", f"values beside tensors: {capabilities.extras}"]
    if refused:
        lines.append(f"does not keep: {', '.join(refused)}")
    lines.append(f"dtypes: all but {', '.join(missing)}" if missing else "dtypes: all that torch has")
    return lines
