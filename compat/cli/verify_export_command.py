"""`compat verify-export`: whether an artefact computes what its module does, and holds its weights."""

from __future__ import annotations

import click

from compat import exports
from compat.cli._output import FOUND, guarded, json_option, print_json, printable
from compat.cli._verified import print_verification, verification_facts
from compat.exporting import load_exported
from compat.factories import example_of, make_module
from compat.loading import load
from compat.verifying import verify_export


@click.command("verify-export")
@click.argument("file")
@click.option("--model", "factory", required=True, metavar="PKG.MOD:FACTORY", help="What makes the module.")
@click.option("--weights", metavar="CHECKPOINT", help="Load these weights into the module first.")
@click.option("--target", type=click.Choice(exports.names()), help="What FILE is; the default goes by its content.")
@click.option("--runtime", default="", help="onnxruntime or reference, for ONNX.")
@click.option("--provider", "providers", multiple=True, help="An execution provider of onnxruntime, in order.")
@json_option
@guarded
def command(
    file: str,
    *,
    factory: str,
    weights: str | None,
    target: str | None,
    runtime: str,
    providers: tuple[str, ...],
    as_json: bool,
) -> int:
    """Run FILE and the module it was exported from on the module's example_inputs(), and compare.

    Running executes what FILE says: only for files you trust. Exit 1 when outputs differ, or a weight has other
    bytes under its name.
    """
    module = make_module(factory).eval()
    if weights is not None:
        module.load_state_dict(load(weights))
    exported = load_exported(file, target=target, runtime=runtime, providers=providers or None)
    found = verify_export(exported, module, example_of(module, factory))
    if as_json:
        print_json("verify-export", {"file": file, "target": exported.target, **verification_facts(found)})
    else:
        click.echo(f"{printable(file)}: {exported.target}")
        print_verification(found)
    changed = found.weights is not None and "changed" in found.weights.counts
    return FOUND if changed or not found.ok else 0
