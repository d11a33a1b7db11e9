"""`torchscript-trace`: one run of a module, recorded by `torch.jit.trace`.

- kept: the whole state_dict under its names; non-persistent buffers too, as if they were persistent.
- stateful: buffers that the module changes keep their changes.
- wrong without a word: branches that depend on values; the trace keeps the one that the example took.
- refused: outputs that are no tensors, tuples, lists or flat dicts of them; one tensor under two names of a module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compat import torchscripting
from compat.exports._target import ExportOptions, Target, TargetCapabilities
from compat.loading import import_torch
from compat.torchruntime import quiet


def _export(module: Any, args: tuple[Any, ...], path: Path, options: ExportOptions) -> None:
    del options  # a trace has no sizes to fix, and nothing else to choose
    with quiet(import_torch("exporting")):
        torchscripting.save(torchscripting.traced(module, args), path)


TARGET = Target(
    name="torchscript-trace",
    summary="torch.jit.trace",
    suffix=".pt",
    format="torchscript",
    available=torchscripting.available,
    export=_export,
    load=torchscripting.load,
    capabilities=TargetCapabilities(shapes=("batch",)),
    helps=(
        ("parameter sharing", "Register the tensor once, or use torchscript-script."),
        ("dict|Dict", "Return tensors, tuples or flat dicts, or use torchscript-script."),
        ("bool, but got a Tensor", "Use torchscript-script, which keeps the code."),
    ),
)
