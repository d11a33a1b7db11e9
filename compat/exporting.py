"""Export a module as an artefact of any target, and run artefacts."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from compat import exports
from compat.atomic import atomic_files
from compat.errors import CompatError, MissingDependency, UnknownFormat, Unsupported
from compat.exports import ExportOptions, RunOptions, Target
from compat.exports._target import Dynamic
from compat.loading import import_torch, open_checkpoint
from compat.saving import save
from compat.states import load_state_dict
from compat.torchruntime import copied, reason_of

# Beside an artefact: which target made it, and with what.
_HEAD: Final = 4096
_SIDECAR: Final = ".state.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An artefact that is ready to run.

    Attributes:
        path: its file.
        target: which kind it is.
        metadata: what the file says about itself.
        run: calls it with positional arguments; gives what the module gives, or a flat list of tensors where the
            target has no nested outputs.
    """

    path: Path
    target: str
    run: Callable[..., Any]
    metadata: dict[str, Any] = field(default_factory=dict)

    def state_dict(self) -> OrderedDict[str, Any]:
        """The weights: from the sidecar where there is one, else what can be read from the artefact itself.

        Reading them executes nothing. Which of them the source's state_dict had is said by `audit`.
        """
        beside = sidecar(self.path)
        return load_state_dict(beside if beside.exists() else self.path, prefix=None)


def sidecar(path: Path) -> Path:
    """Where the exact state_dict lies beside an artefact that cannot hold it."""
    return path.with_name(path.name + _SIDECAR)


def export(
    module: Any,
    args: Sequence[Any],
    dst: Any,
    *,
    target: str | None = None,
    dynamic: Dynamic = None,
    state: Literal["sidecar"] | None = None,
    overwrite: bool = False,
    strict: bool = False,
    opset: int | None = None,
    optimize: bool = False,
    external_data: bool = False,
) -> Exported:
    """Export a module, and load what was written.

    The module is copied first and never changed. The artefact appears whole, with all its files, or not at all.

    Args:
        module: in eval mode.
        args: an example of its positional arguments; with `dynamic`, a batch of two or more.
        dst: the file to write.
        target: a name of `compat.exports`; None goes by the suffix.
        dynamic: which sizes may differ later: None for none, "batch", "auto", or torch's own `dynamic_shapes`.
        state: "sidecar" writes the exact state_dict beside the artefact, as safetensors.
        overwrite: replace existing files.
        strict: follow Python's bytecode (torch-export).
        opset: the ONNX opset.
        optimize: let the exporter rewrite the graph; weights may be folded and renamed (onnx).
        external_data: keep the weights in a file beside the model (onnx).

    Raises:
        Unsupported: the module is in training mode, or cannot be exported; the message has the exporter's reason.
        MissingDependency: the target's library is not installed.
        TargetExists: there is a file and `overwrite` is False.
    """
    torch = import_torch("exporting")
    path = Path(dst)
    chosen = exports.get(target) if target else _by_suffix(path)
    _check_available(chosen)
    _check_mode(module)
    _check_dtypes(chosen, module)
    options = ExportOptions(dynamic=dynamic, strict=strict, opset=opset, optimize=optimize, external_data=external_data)
    with atomic_files(path, overwrite=overwrite, folder=False) as folder:
        staged = folder / path.name
        try:
            chosen.export(copied(torch, module), tuple(args), staged, options)
        except CompatError as error:
            error.source = error.source or f"as {chosen.name}"
            raise
        except BaseException as error:  # exporters raise whatever they stumble on, not only Exceptions
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            raise _refused(chosen, error) from error
        if state == "sidecar":
            save(module.state_dict(), sidecar(staged))
    return load_exported(path, target=chosen.name)


def _by_suffix(path: Path) -> Target:
    found = [target for target in exports.all_targets() if path.suffix == target.suffix]
    light = [target for target in found if not target.heavy]
    if len(found) == 1 or len(light) == 1 or (found and path.suffix == ".onnx"):
        return (light or found)[0]
    named = [target.name for target in (found or exports.all_targets())]
    raise Unsupported(
        f"the suffix {path.suffix!r} says no export target",
        feature="target",
        source=path,
        expected=f"one of {', '.join(named)}",
        hint="Name it: target=… (--target …).",
    )


def _check_available(target: Target) -> None:
    reason = target.available()
    if reason is not None:
        raise MissingDependency(reason.split()[0], needed_for=f"the export target {target.name}")


def _check_mode(module: Any) -> None:
    """Refuse a module in training mode: some exporters write it as if it were not, without a word."""
    names = [name or "the module" for name, part in module.named_modules() if part.training]
    if names:
        raise Unsupported(
            f"{names[0]} is in training mode",
            feature="training",
            paths=names[:10],
            expected="a module in eval mode",
            hint="Call module.eval() first; artefacts are for inference.",
        )


def _check_dtypes(target: Target, module: Any) -> None:
    """Refuse what the target's runtime would compute in another precision without a word."""
    if target.capabilities.refuses_dtypes != "export":
        return
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in tensors:
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_floating_point() and dtype not in target.capabilities.dtypes:
            raise Unsupported(
                f"{name} is {dtype}, which {target.name} does not compute in",
                feature="dtype",
                paths=[name],
                expected=f"one of {', '.join(sorted(target.capabilities.dtypes))}",
                hint="Convert a copy of the module first, as by module.float().",
            )


def _refused(target: Target, error: BaseException) -> Unsupported:
    """An exporter's failure in one sentence, with what usually helps."""
    text = str(error)
    helps = next((hint for pattern, hint in target.helps if re.search(pattern, text)), None)
    return Unsupported(
        f"{target.name} cannot hold this module: {type(error).__name__}: {reason_of(text)}",
        feature="export",
        hint=helps,
    )


def load_exported(
    src: Any,
    *,
    target: str | None = None,
    runtime: str = "",
    providers: Sequence[str] | None = None,
    graph_optimization: Literal["all", "none"] = "all",
) -> Exported:
    """Make an artefact ready to run. Running it executes what the file says: only for files you trust.

    Args:
        src: its path.
        target: a name of `compat.exports`; None goes by the content.
        runtime: "onnxruntime" or "reference", for ONNX.
        providers: onnxruntime's execution providers, in order.
        graph_optimization: whether the runtime may rewrite the graph.

    Raises:
        UnknownFormat: it is an artefact of another target, or none at all.
        Unsupported: the runtime refuses it.
        CompatError: the file cannot be read; see `open`.
    """
    path = Path(src)
    chosen, metadata = _recognized(path, exports.get(target) if target else None)
    options = RunOptions(providers=providers, graph_optimization=graph_optimization, runtime=runtime)
    try:
        run = chosen.load(path, options)
    except CompatError:
        raise
    except Exception as error:  # runtimes raise whatever they stumble on
        raise Unsupported(
            f"{chosen.name} cannot be run here: {type(error).__name__}: {reason_of(str(error))}",
            feature="load",
            source=path,
        ) from error
    run = _translated(chosen, run)
    return Exported(path=path, target=chosen.name, run=run, metadata=json.loads(json.dumps(metadata, default=str)))


def _recognized(path: Path, chosen: Target | None) -> tuple[Target, dict[str, Any]]:
    """Which target made an artefact, and what it says about itself."""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(_HEAD)
        found = [t for t in exports.all_targets() if t.detect is not None and t.detect(head, path)]
        if found and chosen in (None, found[0]):
            return found[0], {}
        if found and chosen is not None:
            expected = f"an artefact of {chosen.name}"
            raise UnknownFormat(f"is {found[0].name}", source=path, expected=expected)
    with open_checkpoint(path) as checkpoint:
        name, metadata = checkpoint.format, dict(checkpoint.metadata)
    meant = chosen or next((t for t in exports.all_targets() if t.format == name), None)
    if meant is None or meant.format != name:
        kinds = sorted({t.format or t.name for t in exports.all_targets()})
        told = "which holds no computation" if meant is None else f"and {meant.name} is {meant.format or meant.suffix}"
        raise UnknownFormat(f"is {name}, {told}", source=path, expected=f"an artefact: {', '.join(kinds)}")
    return meant, metadata


def _translated(target: Target, run: Callable[..., Any]) -> Callable[..., Any]:
    """The same call, whose refusals are ours: runtimes raise whatever they stumble on."""

    def called(*args: Any) -> Any:
        try:
            return run(*args)
        except (CompatError, MemoryError):
            raise
        except Exception as error:
            raise Unsupported(
                f"{target.name} refuses this call: {type(error).__name__}: {reason_of(str(error))}",
                feature="run",
            ) from error

    return called
