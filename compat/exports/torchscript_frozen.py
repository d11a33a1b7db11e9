"""`torchscript-frozen`: a script module whose weights became constants, by `torch.jit.freeze`.

- kept: the computation; weights lie among the constants, folded into each other where that is faster.
- not kept: names. The state_dict cannot be recovered; `state="sidecar"` writes it beside the artefact.
- refused: as torchscript-script, which it begins with; where that refuses, a trace is frozen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compat import torchscripting
from compat.exports._target import ExportOptions, Target, TargetCapabilities
from compat.loading import import_torch
from compat.torchruntime import copied, quiet


def _export(module: Any, args: tuple[Any, ...], path: Path, options: ExportOptions) -> None:
    del options
    torch = import_torch("exporting")
    with quiet(torch):
        try:
            script = torch.jit.script(copied(torch, module))
        except Exception:  # noqa: BLE001 - the compiler refuses with whatever it stumbled on
            script = torchscripting.traced(module, args)
        torchscripting.save(torch.jit.freeze(script), path)


TARGET = Target(
    name="torchscript-frozen",
    summary="torch.jit.freeze",
    suffix=".pt",
    format="torchscript",
    available=torchscripting.available,
    export=_export,
    load=torchscripting.load,
    # Folding a batch norm into its convolution changes the last bits.
    capabilities=TargetCapabilities(state="none", same_runtime=False, shapes=("batch",)),
)
