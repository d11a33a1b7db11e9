"""`onnx-torchscript`: an ONNX model, by the exporter that starts from a trace (`torch.onnx.export(dynamo=False)`).

- kept: the tensors that the computation uses, under their names, without constant folding.
- not kept: tensors that nothing uses; buffers' changes: a model has no state; inputs that nothing uses.
- wrong without a word: branches that depend on values; the trace keeps the one that the example took.
- refused: operators without an ONNX form at the opset, `_extra_state`, float64 where onnxruntime has no kernel.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, Final

from compat import onnxruntimes
from compat.errors import Unsupported
from compat.exports._target import ExportOptions, Target, TargetCapabilities
from compat.loading import import_torch
from compat.torchruntime import check_batch, leaves, missing, quiet

_DEFAULT_OPSET: Final = 17
_OPSETS: Final = range(9, 21)


def _available() -> str | None:
    return missing("torch", "onnx")


def _export(module: Any, args: tuple[Any, ...], path: Path, options: ExportOptions) -> None:
    import onnx

    torch = import_torch("exporting")
    opset = options.opset or _DEFAULT_OPSET
    if opset not in _OPSETS:
        raise Unsupported(f"opset {opset}", feature="opset", expected=f"{_OPSETS[0]} to {_OPSETS[-1]}")
    names = onnxruntimes.input_names(torch, args)
    axes = _axes(torch, args, names, options.dynamic)
    # It prints the graph when it fails.
    with quiet(torch), contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            module,
            args,
            str(path),
            dynamo=False,
            opset_version=opset,
            dynamic_axes=axes,
            do_constant_folding=False,
            input_names=names,
        )
    model = onnx.load(str(path))
    if options.external_data:
        onnx.save_model(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    onnx.checker.check_model(str(path))


def _axes(torch: Any, args: tuple[Any, ...], names: list[str], dynamic: Any) -> dict[str, dict[int, str]]:
    """What this exporter calls `dynamic_axes`: input → dimension → the name of its size."""
    if dynamic is None:
        return {}
    if dynamic == "batch":
        check_batch(torch, args)
        return {name: {0: "batch"} for name, leaf in zip(names, leaves(torch, args), strict=True) if leaf.ndim}
    if isinstance(dynamic, tuple) and len(dynamic) == len(names):
        return {
            name: {axis: getattr(size, "__name__", f"size_{axis}") for axis, size in sizes.items()}
            for name, sizes in zip(names, dynamic, strict=True)
            if sizes
        }
    raise Unsupported(
        "a trace does not find by itself which sizes may change",
        feature="dynamic",
        expected='None, "batch", or one dict of dimensions per tensor',
    )


TARGET = Target(
    name="onnx-torchscript",
    summary="torch.onnx.export(dynamo=False)",
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
        shapes=("static", "batch"),
    ),
    helps=(
        ("opset", "Ask for a newer opset: opset=17."),
        ("not supported|unsupported", "Use the target onnx, which has more operators."),
    ),
)
