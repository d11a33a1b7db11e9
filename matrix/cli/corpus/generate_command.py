"""`matrix corpus generate`: golden files of what is installed now."""

from __future__ import annotations

from pathlib import Path

import click

from matrix.cli._guard import guarded


@click.command("generate")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--factory", metavar="PKG.MOD:FACTORY", help="What makes your module; example_inputs() makes it run too.")
@click.option(
    "--script", type=click.Path(path_type=Path), metavar="FILE", help="A program that is given a folder to write into."
)
@click.option("--package", default="torch", show_default=True, metavar="NAME", help="Whose version names the folder.")
@click.option("--overwrite", is_flag=True, help="Replace the golden files of this version.")
@guarded
def command(*, folder: Path, factory: str | None, script: Path | None, package: str, overwrite: bool) -> int:
    """Write golden files of what is installed now into FOLDER/PACKAGE-VERSION.

    By a factory: its weights, inputs and outputs. By a script: every checkpoint that it writes. Beside them goes a
    manifest with sums, versions, and what each must read back as.
    """
    from matrix.corpus.project import ProjectError, generate

    if (factory is None) == (script is None):
        raise click.UsageError("give --factory or --script")
    try:
        made = generate(folder, factory=factory, script=script, package=package, overwrite=overwrite)
    except ProjectError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"written: {made}")
    return 0
