"""The contract that every export target fulfils.

A target is one module beside this one with a constant `TARGET`. It writes one artefact from a module that was
copied for it, and runs such artefacts. What it can do is data: the matrix holds it to that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Dynamic = Literal["batch", "auto"] | dict[str, Any] | tuple[Any, ...] | None
StateClaim = Literal["exact", "live", "values", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetCapabilities:
    """What an artefact of a target can do.

    Attributes:
        dynamic_batch: it can run with another batch size than the one it was exported with.
        stateful: buffers that the module changes while it runs keep their changes from call to call.
        dtypes: the floating point types that it computes in.
        refuses_dtypes: where others are refused: at `load` by what runs the artefact, or at `export` by us, for a
            runtime that would say nothing and compute in another one.
        pytrees: nested outputs come back nested; otherwise as a flat list of tensors.
        state: what of the state_dict can be read from it: `exact` (all of it under its names), `live` (what the
            computation uses, under its names), `values` (some values, under other names), `none`.
        same_runtime: it runs on torch's own kernels, so that outputs are equal bit by bit.
        shapes: which sizes it can be told to fix: `static` for all, `batch` for all but the batch, `auto` for what
            the exporter finds.
    """

    dynamic_batch: bool = True
    stateful: bool = True
    dtypes: frozenset[str] = frozenset({"float32", "float64", "float16", "bfloat16"})
    refuses_dtypes: Literal["export", "load"] = "load"
    pytrees: bool = True
    state: StateClaim = "exact"
    same_runtime: bool = True
    shapes: tuple[str, ...] = ("static", "batch", "auto")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """How to export.

    Attributes:
        dynamic: which sizes may differ from those of the example: None for none, `batch` for the first of every
            tensor, `auto` for what the exporter finds, or torch's own `dynamic_shapes`.
        strict: trace with the bytecode of Python (torch-export).
        opset: the ONNX opset; None for the target's default.
        optimize: let the exporter rewrite the graph (onnx); it folds and renames weights.
        external_data: keep the weights in a file beside the model (onnx).
    """

    dynamic: Dynamic = None
    strict: bool = False
    opset: int | None = None
    optimize: bool = False
    external_data: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How to run an artefact.

    Attributes:
        providers: onnxruntime's execution providers, in order; None for the CPU.
        graph_optimization: whether the runtime may rewrite the graph.
        runtime: which one, where a target has several: `onnxruntime` or `reference` for ONNX.
    """

    providers: Sequence[str] | None = None
    graph_optimization: Literal["all", "none"] = "all"
    runtime: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One kind of artefact under one name.

    Attributes:
        name: its name.
        summary: what makes it, in a few words.
        suffix: the usual file suffix.
        format: the name of compat's format that reads its weights, executing nothing; empty where none does.
        available: why it cannot be used here; None where it can.
        export: write the artefact of a module into a path of an empty folder; further files go beside it.
        load: make an artefact ready to run; gives a function from positional arguments to outputs.
        capabilities: what it can do.
        helps: pattern of an exporter's message → what usually helps.
        detect: whether a file, by its first bytes and its path, is an artefact; for those without a format.
        heavy: one export takes many seconds.
    """

    name: str
    summary: str
    suffix: str
    format: str
    available: Callable[[], str | None]
    export: Callable[[Any, tuple[Any, ...], Path, ExportOptions], None]
    load: Callable[[Path, RunOptions], Callable[..., Any]]
    capabilities: TargetCapabilities = field(default_factory=TargetCapabilities)
    helps: tuple[tuple[str, str], ...] = ()
    detect: Callable[[bytes, Path], bool] | None = None
    heavy: bool = False
