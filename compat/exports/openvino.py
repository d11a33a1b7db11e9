"""`openvino`: an OpenVINO model (`.xml` and `.bin`), by `openvino.convert_model` of what `torch.export` gives.

- kept: the computation; values of some weights, without their names.
- not kept: buffers that the module changes, which stay as they were; names. The state_dict cannot be recovered, and
  `state="sidecar"` writes it beside the artefact.
- refused: float64, which OpenVINO computes in float32 without a word; bfloat16, for its inputs pass through numpy.
- precision: float32 is computed in float32 (`INFERENCE_PRECISION_HINT`), and weights are not narrowed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from compat.errors import MissingDependency, Unsupported
from compat.exports._target import ExportOptions, RunOptions, Target, TargetCapabilities
from compat.loading import import_torch
from compat.torchruntime import dynamic_shapes, leaves, missing, quiet

_SUFFIX = ".xml"


def _available() -> str | None:
    return missing("torch", "openvino")


def _library() -> Any:
    try:
        return import_module("openvino")
    except ImportError as error:
        raise MissingDependency("openvino", needed_for="the export target openvino") from error


def _export(module: Any, args: tuple[Any, ...], path: Path, options: ExportOptions) -> None:
    torch, openvino = import_torch("exporting"), _library()
    if path.suffix != _SUFFIX:
        raise Unsupported(
            f"the suffix {path.suffix!r}", feature="suffix", expected=f"{_SUFFIX}, which OpenVINO asks for"
        )
    with quiet(torch):
        shapes = dynamic_shapes(torch, args, options.dynamic)
        program = torch.export.export(module, args, dynamic_shapes=shapes, strict=options.strict)
        model = openvino.convert_model(program)
        # The conversion forgets every size; a model of any sizes answers calls that the module refuses.
        shapes = [list(map(_size, leaf.shape)) for leaf in _inputs(torch, program)]
        model.reshape({port: openvino.PartialShape(sizes) for port, sizes in zip(model.inputs, shapes, strict=True)})
        openvino.save_model(model, str(path), compress_to_fp16=False)


def _inputs(torch: Any, program: Any) -> list[Any]:
    """What the graph takes from its caller, as torch's fake tensors."""
    named = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in named]
    return leaves(torch, values)


def _size(size: Any) -> int:
    """A size that may change is -1."""
    return size if isinstance(size, int) else -1


def _load(path: Path, options: RunOptions) -> Callable[..., Any]:
    del options  # its hints are ours, so that float32 is float32
    torch, openvino = import_torch("running an OpenVINO model"), _library()
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(*args: Any) -> list[Any]:
        given = [tensor.detach().cpu().contiguous().numpy() for tensor in leaves(torch, args)]
        for port, array in zip(compiled.inputs, given, strict=True):
            _check(openvino, port, array)
        results = compiled(given)
        return [torch.from_numpy(results[output].copy()) for output in compiled.outputs]

    return run


def _check(openvino: Any, port: Any, array: Any) -> None:
    """Refuse what OpenVINO would convert without a word.

    Raises:
        Unsupported: an input has another dtype or shape than the model says.
    """
    dtype, shape = port.get_element_type().to_dtype(), port.get_partial_shape()
    if array.dtype != dtype or not shape.compatible(openvino.PartialShape(list(array.shape))):
        raise Unsupported(
            f"openvino refuses this call: an input is {array.dtype} {list(array.shape)}",
            feature="run",
            expected=f"{dtype} {shape}",
        )


def _is_model(head: bytes, path: Path) -> bool:
    return b"<net " in head[:512] and path.with_suffix(".bin").exists()


TARGET = Target(
    name="openvino",
    summary="openvino.convert_model",
    suffix=_SUFFIX,
    format="",
    available=_available,
    export=_export,
    load=_load,
    detect=_is_model,
    heavy=True,
    capabilities=TargetCapabilities(
        dtypes=frozenset({"float32", "float16"}),
        refuses_dtypes="export",
        stateful=False,
        pytrees=False,
        state="none",
        same_runtime=False,
        shapes=("static", "batch"),
    ),
    helps=(("[Dd]ata-dependent|GuardOnDataDependent", "Use torch.cond for the branch."),),
)
