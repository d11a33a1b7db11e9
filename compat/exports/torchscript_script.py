"""`torchscript-script`: a module's code, compiled by `torch.jit.script`.

- kept: the whole state_dict under its names; non-persistent buffers too, as if they were persistent; control flow.
- stateful: buffers that the module changes keep their changes.
- refused: what TorchScript's language does not have, parametrizations and hooks among it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compat import torchscripting
from compat.exports._target import ExportOptions, Target, TargetCapabilities
from compat.loading import import_torch
from compat.torchruntime import quiet


def _export(module: Any, args: tuple[Any, ...], path: Path, options: ExportOptions) -> None:
    del args, options  # the code has no example and no fixed sizes
    torch = import_torch("exporting")
    with quiet(torch):
        torchscripting.save(torch.jit.script(module), path)


TARGET = Target(
    name="torchscript-script",
    summary="torch.jit.script",
    suffix=".pt",
    format="torchscript",
    available=torchscripting.available,
    export=_export,
    load=torchscripting.load,
    capabilities=TargetCapabilities(shapes=("batch",)),
    helps=(
        ("[Pp]arametriz", "Remove parametrizations first (remove_parametrizations), or use torchscript-trace."),
        ("hook", "Remove the hooks first (remove_weight_norm), or use torchscript-trace."),
        ("", "Use torchscript-trace, which records a run instead of compiling the code."),
    ),
)
