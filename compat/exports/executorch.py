"""`executorch`: a program for ExecuTorch's portable kernels (`.pte`), by `executorch.exir`.

- kept: the computation; buffers that the module changes keep their changes.
- not kept: names; the state_dict cannot be recovered, and `state="sidecar"` writes it beside the artefact.
- bounded: memory is planned when it is exported, so a dynamic batch has a largest size: `LARGEST_BATCH`.
- refused: branches that depend on values, sizes that the computation does not allow to change.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from compat.errors import MissingDependency
from compat.exports._target import ExportOptions, RunOptions, Target, TargetCapabilities
from compat.loading import import_torch
from compat.torchruntime import check_batch, dynamic_shapes, leaves, missing, quiet

LARGEST_BATCH: Final = 64
# The identifier of its flatbuffers, behind the offset of their root (schema/program.fbs, `file_identifier`).
_MAGIC: Final = b"ET"


def _available() -> str | None:
    return missing("torch", "executorch")


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependency("executorch", needed_for="the export target executorch") from error


def _export(module: Any, args: tuple[Any, ...], path: Path, options: ExportOptions) -> None:
    torch, exir = import_torch("exporting"), _library("executorch.exir")
    shapes = options.dynamic
    if shapes == "batch":
        check_batch(torch, args)
        size = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
        shapes = tuple({0: size} if leaf.ndim else None for leaf in leaves(torch, args))
    with quiet(torch):
        given = dynamic_shapes(torch, args, shapes)
        program = torch.export.export(module, args, dynamic_shapes=given, strict=options.strict)
        passes = _library("executorch.exir.passes.init_mutable_pass")
        # Buffers that the module changes would begin with zeros, whatever they held; the pass knows them by the
        # names that torch.export gives them.
        keeps = passes.InitializedMutableBufferPass([name.replace(".", "_") for name, _ in module.named_buffers()])
        config = exir.ExecutorchBackendConfig(passes=[keeps])
        path.write_bytes(exir.to_edge(program).to_executorch(config).buffer)


def _load(path: Path, options: RunOptions) -> Callable[..., Any]:
    del options  # the portable kernels have no choices
    torch, runtime = import_torch("running an ExecuTorch program"), _library("executorch.runtime")
    program = runtime.Runtime.get().load_program(str(path))
    method = program.load_method("forward")

    def run(*args: Any) -> list[Any]:
        given = [tensor.detach().cpu().contiguous() for tensor in leaves(torch, args)]
        # What it returns lies in memory that its next call uses again.
        return [output.clone() for output in method.execute(given)]

    return run


def _is_program(head: bytes, path: Path) -> bool:
    del path  # one file
    return head[4:6] == _MAGIC


TARGET = Target(
    name="executorch",
    summary="executorch.exir",
    suffix=".pte",
    format="",
    available=_available,
    export=_export,
    load=_load,
    detect=_is_program,
    heavy=True,
    capabilities=TargetCapabilities(pytrees=False, state="none", same_runtime=False, shapes=("static", "batch")),
    helps=(
        ("[Dd]ata-dependent|GuardOnDataDependent", "Use torch.cond for the branch."),
        ("bound|upper", f"A dynamic size needs an upper bound; batches have {LARGEST_BATCH}."),
    ),
)
