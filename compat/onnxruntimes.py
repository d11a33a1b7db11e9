"""What the ONNX targets share: naming inputs, and running a model by onnxruntime or by onnx's reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from compat.errors import MissingDependency, Unsupported
from compat.exports._target import RunOptions
from compat.loading import import_torch
from compat.torchruntime import leaves


def input_names(torch: Any, args: tuple[Any, ...]) -> list[str]:
    """A name per tensor of the arguments, by position: exporters drop inputs that nothing uses."""
    return [f"input_{number}" for number, _ in enumerate(leaves(torch, args))]


def load(path: Path, options: RunOptions) -> Callable[..., Any]:
    """An ONNX model, ready to run; gives a flat list of tensors.

    Raises:
        MissingDependency: the runtime is not installed.
        Unsupported: there is no such runtime.
    """
    if options.runtime in ("", "onnxruntime"):
        names, run = _session(path, options)
    elif options.runtime == "reference":
        names, run = _evaluator(path)
    else:
        raise Unsupported(
            f"there is no runtime {options.runtime!r} for ONNX",
            feature="runtime",
            expected="onnxruntime or reference",
        )
    torch = import_torch("handing over tensors")

    def called(*args: Any) -> list[Any]:
        given = leaves(torch, args)
        feed = {name: _array(given[_position(name, index)]) for index, name in enumerate(names)}
        return [
            torch.from_numpy(output.copy()) if hasattr(output, "copy") else torch.as_tensor(output)
            for output in run(feed)
        ]

    return called


def _position(name: str, index: int) -> int:
    """Which tensor of the arguments an input is: by the name that the export gave it, else by its place."""
    number = name.removeprefix("input_").split(".")[0]
    return int(number) if name.startswith("input_") and number.isdigit() else index


def _array(tensor: Any) -> Any:
    try:
        return tensor.detach().cpu().resolve_conj().resolve_neg().numpy()
    except TypeError as error:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise Unsupported(f"an input has dtype {dtype}, which numpy does not have", feature="dtype") from error


def _session(path: Path, options: RunOptions) -> tuple[Sequence[str], Callable[[dict[str, Any]], Sequence[Any]]]:
    try:
        onnxruntime = import_module("onnxruntime")
    except ImportError as error:
        raise MissingDependency("onnxruntime", needed_for="running an ONNX model") from error
    chosen = onnxruntime.SessionOptions()
    chosen.log_severity_level = 4
    chosen.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        if options.graph_optimization == "all"
        else onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    providers = list(options.providers or ("CPUExecutionProvider",))
    here = onnxruntime.get_available_providers()
    lacking = [name for name in providers if name not in here]
    if lacking:
        raise Unsupported(
            f"onnxruntime has no {lacking[0]} here",
            feature="providers",
            expected=f"of {', '.join(here)}",
        )
    session = onnxruntime.InferenceSession(str(path), chosen, providers=providers)
    foreign = [entry.name for entry in (*session.get_inputs(), *session.get_outputs()) if "bfloat16" in entry.type]
    if foreign:
        raise Unsupported(
            f"{foreign[0]} has dtype bfloat16, which numpy does not have",
            feature="load",
            expected="float32, float64 or float16 inputs and outputs",
        )
    return [entry.name for entry in session.get_inputs()], lambda feed: session.run(None, feed)


def _evaluator(path: Path) -> tuple[Sequence[str], Callable[[dict[str, Any]], Sequence[Any]]]:
    try:
        onnx = import_module("onnx.reference")
    except ImportError as error:
        raise MissingDependency(str(error.name or "onnx.reference"), needed_for="the reference evaluator") from error
    evaluator = onnx.ReferenceEvaluator(str(path))
    return list(evaluator.input_names), lambda feed: evaluator.run(None, feed)
