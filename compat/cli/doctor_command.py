"""`compat doctor`: what a file is, and which torch loads it."""

from __future__ import annotations

import click

from compat.cli._output import FOUND, guarded, json_option, print_json, printable
from compat.doctoring import Answer, Diagnosis, doctor


@click.command("doctor")
@click.argument("file")
@json_option
@guarded
def command(file: str, *, as_json: bool) -> int:
    """Say what FILE is, which releases of torch load it, and what makes the others load it.

    By the file's traits, and what real releases were measured to do with each; nothing is executed. The exit code is
    1 when the newest of them does not load it, with weights_only=True where it has that.
    """
    found = doctor(file)
    if as_json:
        print_json("doctor", found.to_json())
    else:
        _show(found)
    return 0 if found.loads else FOUND


def _show(found: Diagnosis) -> None:
    written = f", written by torch {found.since} or later" if found.since else ""
    click.echo(f"{printable(found.source)}: {found.format}{written}")
    _show_answers("torch.load(…, weights_only=True)", found.weights_only)
    _show_answers("torch.load(…, weights_only=False)" if found.weights_only else found.call, found.unrestricted)
    for name, line in (("load it with compat", found.line), ("load it with torch", found.torch), ("fix it", found.fix)):
        if line:
            click.echo(f"{name}:\n  {printable(line)}")
    for note in found.notes:
        click.echo(f"note: {printable(note)}")


def _show_answers(how: str, answers: tuple[Answer, ...]) -> None:
    if answers:
        click.echo(f"{how}:")
    for answer in answers:
        click.echo(f"  {printable(answer.text)}")
