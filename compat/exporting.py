"""Export a module as an artefact of any target, and run artefacts."""

from __future__ import annotations

import copy
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

# Beside an artefact: which target made it, and with what.
_SIDECAR: Final = ".state.safetensors"
_REASON: Final = 240
_SENTENCE: Final = 3
_NO_REASON: Final = ("File ", "Traceback", "^", "#")


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
    import_torch("exporting")
    path = Path(dst)
    chosen = exports.get(target) if target else _by_suffix(path)
    _check_available(chosen)
    _check_mode(module)
    options = ExportOptions(dynamic=dynamic, strict=strict, opset=opset, optimize=optimize, external_data=external_data)
    with atomic_files(path, overwrite=overwrite, folder=False) as folder:
        staged = folder / path.name
        try:
            chosen.export(copy.deepcopy(module), tuple(args), staged, options)
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
    if len(found) == 1 or (found and path.suffix == ".onnx"):
        return found[0]
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


def _refused(target: Target, error: BaseException) -> Unsupported:
    """An exporter's failure in one sentence, with what usually helps."""
    text = str(error)
    helps = next((hint for pattern, hint in target.helps if re.search(pattern, text)), None)
    return Unsupported(
        f"{target.name} cannot hold this module: {type(error).__name__}: {reason_of(text)}",
        feature="export",
        hint=helps,
    )


def reason_of(text: str) -> str:
    """The first sentence that says something, of what an exporter printed."""
    lines = [line.strip() for line in text.splitlines()]
    telling = [line for line in lines if len(line.split()) >= _SENTENCE and not line.startswith(_NO_REASON)]
    return (telling or [line for line in lines if line] or ["no reason was given"])[0][:_REASON]


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
    with open_checkpoint(path) as checkpoint:
        found, metadata = checkpoint.format, dict(checkpoint.metadata)
    chosen = exports.get(target) if target else next((t for t in exports.all_targets() if t.format == found), None)
    if chosen is None or chosen.format != found:
        kinds = sorted({t.format for t in exports.all_targets()})
        raise UnknownFormat(
            f"is {found}" + (f", and {chosen.name} is {chosen.format}" if chosen else ", which holds no computation"),
            source=path,
            expected=f"an artefact: {', '.join(kinds)}",
        )
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
    return Exported(path=path, target=chosen.name, run=run, metadata=json.loads(json.dumps(metadata, default=str)))
