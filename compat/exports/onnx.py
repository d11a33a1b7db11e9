"""`onnx`: an ONNX model, by the exporter that starts from `torch.export` (`torch.onnx.export(dynamo=True)`).

- kept: with `optimize=False`, the tensors that the computation uses, under their names; ties collapse to one name.
- not kept: tensors that nothing uses, `num_batches_tracked` among them; buffers' changes: a model has no state.
- wrong without a word: an opset below 18 or above 25 may give a model that claims another; both are refused here,
  and every model is checked before it is kept. Buffers that the module changes do not change.
- refused: branches that depend on values, operators without an ONNX form (RReLU, cdist, matrix_exp).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

from compat import onnxruntimes
from compat.errors import Unsupported
from compat.exports._target import ExportOptions, Target, TargetCapabilities
from compat.loading import import_torch
from compat.torchruntime import dynamic_shapes, missing, quiet

_DEFAULT_OPSET: Final = 20
_OPSETS: Final = range(18, 26)


def _available() -> str | None:
    return missing("torch", "onnx", "onnxscript")


def _export(module: Any, args: tuple[Any, ...], path: Path, options: ExportOptions) -> None:
    import onnx

    torch = import_torch("exporting")
    opset = options.opset or _DEFAULT_OPSET
    if opset not in _OPSETS:
        raise Unsupported(
            f"opset {opset}: the exporter converts to it without saying when that fails",
            feature="opset",
            expected=f"{_OPSETS[0]} to {_OPSETS[-1]}, or onnx-torchscript for older ones",
        )
    log = logging.getLogger("torch.onnx")
    level = log.level
    # It tells of every library that is not installed.
    log.setLevel(logging.CRITICAL)
    try:
        _write(torch, module, args, path, opset, options)
    finally:
        log.setLevel(level)
    onnx.checker.check_model(str(path))


def _write(torch: Any, module: Any, args: tuple[Any, ...], path: Path, opset: int, options: ExportOptions) -> None:
    shapes = dynamic_shapes(torch, args, options.dynamic)
    with quiet(torch):
        torch.onnx.export(
            module,
            args,
            str(path),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=shapes,
            external_data=options.external_data,
            optimize=options.optimize,
            input_names=onnxruntimes.input_names(torch, args),
            verbose=False,
        )


TARGET = Target(
    name="onnx",
    summary="torch.onnx.export",
    suffix=".onnx",
    format="onnx",
    available=_available,
    export=_export,
    load=onnxruntimes.load,
    capabilities=TargetCapabilities(
        stateful=False,
        dtypes=frozenset({"float32", "float16", "float64"}),
        pytrees=False,
        state="live",
        same_runtime=False,
    ),
    helps=(
        ("[Dd]ata-dependent|GuardOnDataDependent", "Use torch.cond for the branch."),
        ("[Nn]o .*(lowering|decomposition|function)|DispatchError|No ONNX function", "Rewrite the operator by others."),
        ("[Cc]onstraints violated|specialized", 'Use dynamic="auto", which finds the sizes that may change.'),
    ),
)
