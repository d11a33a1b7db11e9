"""`aot-inductor`: machine code for this processor in a `.pt2` package, by `torch._inductor.aoti_compile_and_package`.

- kept: the computation, nested outputs; it runs where the compiler's processor and torch's release are the same.
- not kept: weights by their names. Some are baked into the code, so other ones cannot be loaded into it either.
- checked: an artefact answers calls of other sizes with garbage unless it was told to check its inputs when it is
  loaded (`AOTI_RUNTIME_CHECK_INPUTS`); here it always is.
- refused: branches that depend on values, and machines without a C++ compiler.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from compat.errors import Unsupported
from compat.exports._target import ExportOptions, RunOptions, Target, TargetCapabilities
from compat.loading import import_torch
from compat.torchruntime import dynamic_shapes, missing, quiet

_SUFFIX: Final = ".pt2"
_COMPILED: Final = "/data/aotinductor/"
_CHECKS: Final = "AOTI_RUNTIME_CHECK_INPUTS"
_MOST_ENTRIES: Final = 10_000


def _available() -> str | None:
    if (reason := missing("torch")) is not None:
        return reason
    import torch

    if not hasattr(getattr(torch, "_inductor", None), "aoti_compile_and_package"):
        return f"torch {torch.__version__} has no aoti_compile_and_package; it came with 2.6"
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) else f"{compiler} is not installed: a C++ compiler is needed"


def _export(module: Any, args: tuple[Any, ...], path: Path, options: ExportOptions) -> None:
    torch = import_torch("exporting")
    if path.suffix != _SUFFIX:
        raise Unsupported(f"the suffix {path.suffix!r}", feature="suffix", expected=f"{_SUFFIX}, which torch asks for")
    with quiet(torch):
        shapes = dynamic_shapes(torch, args, options.dynamic)
        program = torch.export.export(module, args, dynamic_shapes=shapes, strict=options.strict)
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))  # noqa: SLF001 - torch's documented name of it


@contextlib.contextmanager
def _checking() -> Iterator[None]:
    """Have what is loaded check its inputs; torch reads the variable once, when it loads."""
    before = os.environ.get(_CHECKS)
    os.environ[_CHECKS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CHECKS]
        else:
            os.environ[_CHECKS] = before


def _load(path: Path, options: RunOptions) -> Callable[..., Any]:
    del options  # it was compiled for one way to run it
    torch = import_torch("running compiled code")
    with quiet(torch), _checking():
        compiled = torch._inductor.aoti_load_package(str(path))  # noqa: SLF001 - as above

    def run(*args: Any) -> Any:
        with quiet(torch):
            return compiled(*args)

    return run


def _is_package(head: bytes, path: Path) -> bool:
    if not head.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(_COMPILED in f"/{entry.filename}" for entry in archive.infolist()[:_MOST_ENTRIES])
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


TARGET = Target(
    name="aot-inductor",
    summary="torch._inductor.aoti_compile_and_package",
    suffix=_SUFFIX,
    format="",
    available=_available,
    export=_export,
    load=_load,
    detect=_is_package,
    heavy=True,
    capabilities=TargetCapabilities(state="none", same_runtime=False, shapes=("static", "batch")),
    helps=(
        ("[Dd]ata-dependent|GuardOnDataDependent", "Use torch.cond for the branch."),
        ("[Cc]ompile|g\\+\\+", "The C++ compiler's own words are above; CXX names another one."),
    ),
)
