"""`torch-export`: one graph of a module's computation, by `torch.export.export`.

- kept: the state_dict under its names; key order and the identity of tied parameters are not.
- stateful: buffers that the module changes keep their changes.
- resolved: conjugate and negative bits of buffers, which `torch.export.save` drops without a word; the copy that
  is exported has none.
- refused: branches that depend on values, sizes that the computation does not allow to change.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compat.exports._target import ExportOptions, RunOptions, Target, TargetCapabilities
from compat.loading import import_torch
from compat.torchruntime import dynamic_shapes, missing, quiet, saving


def _available() -> str | None:
    if (reason := missing("torch")) is not None:
        return reason
    import torch

    return None if hasattr(torch, "export") else f"torch {torch.__version__} has no torch.export; it came with 2.1"


def _export(module: Any, args: tuple[Any, ...], path: Path, options: ExportOptions) -> None:
    torch = import_torch("exporting")
    shapes = dynamic_shapes(torch, args, options.dynamic)
    with quiet(torch):
        program = torch.export.export(module, args, dynamic_shapes=shapes, strict=options.strict)
        # Given a path, torch wants it to end in .pt2.
        with saving(), path.open("xb") as file:
            torch.export.save(program, file)


def _load(path: Path, options: RunOptions) -> Callable[..., Any]:
    del options  # torch has no other way to run it
    torch = import_torch("running an exported program")
    with quiet(torch), path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(*args: Any) -> Any:
        with quiet(torch):
            return module(*args)

    return run


TARGET = Target(
    name="torch-export",
    summary="torch.export.export",
    suffix=".pt2",
    format="torch-export",
    available=_available,
    export=_export,
    load=_load,
    capabilities=TargetCapabilities(),
    helps=(
        ("[Dd]ata-dependent|GuardOnDataDependent", "Use torch.cond for the branch, or torchscript-script."),
        ("[Cc]onstraints violated|specialized", 'Use dynamic="auto", which finds the sizes that may change.'),
        ("KeyError", "torch.export.save has no name for a dtype of the module."),
    ),
)
