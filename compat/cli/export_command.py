"""`compat export`: write a module as an artefact, and verify it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from compat import exports
from compat.cli._output import FOUND, guarded, json_option, print_json, printable
from compat.cli._verified import print_verification, verification_facts
from compat.errors import CompatError
from compat.exporting import export
from compat.factories import example_of, make_module
from compat.verifying import verify_export


@click.command("export")
@click.argument("factory", metavar="PKG.MOD:FACTORY")
@click.option("--out", "-o", required=True, metavar="FILE", help="The artefact to write.")
@click.option("--target", type=click.Choice(exports.names()), help="What to write; the default goes by the suffix.")
@click.option("--dynamic", type=click.Choice(["batch", "auto"]), help="Which sizes may differ later.")
@click.option("--opset", type=int, help="The ONNX opset.")
@click.option("--optimize", is_flag=True, help="Let the exporter rewrite the graph (onnx).")
@click.option("--external-data", is_flag=True, help="Keep the weights in a file beside the model (onnx).")
@click.option("--sidecar", is_flag=True, help="Write the exact state_dict beside the artefact.")
@click.option("--verify/--no-verify", default=True, help="Run it and compare outputs and weights (default).")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@click.option("--verbose", is_flag=True, help="Print all that the exporter said when it fails.")
@json_option
@guarded
def command(
    factory: str, *, out: str, verify: bool, sidecar: bool, verbose: bool, as_json: bool, **options: Any
) -> int:
    """Export the module that PKG.MOD:FACTORY makes.

    The module has example_inputs(), which gives its positional arguments. Its factory is your own code and runs;
    exit 1 when what was written computes something else.
    """
    module = make_module(factory).eval()
    args = example_of(module, factory)
    try:
        exported = export(module, args, out, state="sidecar" if sidecar else None, **options)
    except CompatError as error:
        if verbose and error.__cause__ is not None:
            click.echo(str(error.__cause__), err=True)
        raise
    found = verify_export(exported, module, args) if verify else None
    if as_json:
        facts = {"path": str(exported.path), "target": exported.target, "metadata": exported.metadata}
        print_json("export", {**facts, "verification": None if found is None else verification_facts(found)})
    else:
        capabilities = asdict(exports.get(exported.target).capabilities)
        click.echo(f"{printable(str(exported.path))}: {exported.target}, state {capabilities['state']}")
        if found is not None:
            print_verification(found)
    return FOUND if found is not None and not found.ok else 0
