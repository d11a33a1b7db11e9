"""What the TorchScript targets share: saving and running a script module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compat.exports._target import RunOptions
from compat.loading import import_torch
from compat.torchruntime import missing, quiet, saving


def available() -> str | None:
    """Why TorchScript cannot be used here."""
    return missing("torch")


def traced(module: Any, args: tuple[Any, ...]) -> Any:
    """A module recorded by running it once; what its code decides by values is decided for ever."""
    torch = import_torch("exporting")
    before = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    # Checking the trace would run the module three more times.
    made = torch.jit.trace(module, args, strict=False, check_trace=False)
    with torch.no_grad():
        for buffer, value in before:  # the run that was recorded may have changed them
            buffer.copy_(value)
    return made


def save(script: Any, path: Path) -> None:
    """Write a script module."""
    with saving():
        import_torch("exporting").jit.save(script, str(path))


def load(path: Path, options: RunOptions) -> Callable[..., Any]:
    """A script module, ready to run."""
    del options  # torch has no other way to run it
    torch = import_torch("running TorchScript")
    with quiet(torch):
        script = torch.jit.load(str(path), map_location="cpu")

    def run(*args: Any) -> Any:
        with quiet(torch):
            return script(*args)

    return run
