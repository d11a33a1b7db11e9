"""What else than pickles could run in a file: code that an archive carries, operators that a graph asks for.

Formats that hold no code say so. Nothing is compiled or run to find out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from compat.checkpoint import Checkpoint
from compat.data import read
from compat.errors import CompatError
from compat.protobuf import Reader
from compat.sources import FolderSource, Source
from compat.torcharchive import archive_of
from compat.zipdir import Archive

_NO_CODE: Final = {
    "safetensors": "safetensors holds numbers and text, and nothing that could run",
    "safetensors-sharded": "safetensors holds numbers and text, and nothing that could run",
    "npz": "arrays of numbers hold nothing that could run; arrays of objects would be pickles, and are scanned as such",
    "gguf": "GGUF holds numbers and text; a chat template among its metadata is a program that some runtimes run",
}
_UNPICKLED: Final = {
    "dcp": "torch.distributed.checkpoint unpickles .metadata and all items that are no tensors without limits",
    "torch-export": "torch.export.load unpickles parts of the archive, and compiles the graph",
}
_MAX_CODE: Final = 64 << 20
# TorchScript's operators that touch files: `torch/csrc/jit/runtime/register_special_ops.cpp` and `aten::from_file`.
_FILES: Final = re.compile(r"\btorch\.(save|load|from_file)\(|\bops\.aten\.(save|load|from_file)\(")
_OPERATORS: Final = re.compile(r"\bops\.([A-Za-z_]\w*)\.")
_TORCHS_OWN: Final = frozenset(("aten", "prim", "inductor", "quantized", "_quantized", "prepacked"))
_LIBRARY: Final = (".so", ".dll", ".dylib", ".pyd")
_OPSETS, _DOMAIN, _FUNCTIONS = 8, 1, 25
_STANDARD: Final = frozenset(("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.training"))


def what_runs(kind: str, source: Source, checkpoint: Checkpoint | None) -> Iterator[str]:
    """Sentences about what in a file could run without being unpickled, or that nothing can.

    Args:
        kind: the file's format.
        source: its bytes.
        checkpoint: what its format reads; None where it cannot be read.
    """
    for table in (_NO_CODE, _UNPICKLED):
        if kind in table:
            yield table[kind]
    try:
        if not isinstance(source, FolderSource) and (archive := archive_of(source)) is not None:
            yield from _archived(archive, kind)
        elif kind == "onnx" and checkpoint is not None:
            yield from _onnx(source)
    except CompatError as error:
        yield f"what else could run in it cannot be told: {error.seen}"


def _archived(archive: Archive, kind: str) -> Iterator[str]:
    libraries = [name for name in archive.entries if name.endswith(_LIBRARY)]
    if libraries:
        yield f"holds compiled code, which its loader maps and runs: {', '.join(libraries[:5])}"
    if kind == "torchscript":
        yield from _torchscript(archive)


def _torchscript(archive: Archive) -> Iterator[str]:
    """TorchScript code is compiled by torch.jit.load; it knows no imports, but some operators touch files."""
    codes = [name for name in archive.entries if "code/" in name and name.endswith(".py")]
    yield (
        f"holds TorchScript in {len(codes):,} files, which torch.jit.load compiles and calling the module runs; "
        "it is a language without imports, no Python"
    )
    budget = _MAX_CODE
    others: set[str] = set()
    for name in codes:
        budget -= archive.entries[name].nbytes
        if budget < 0:
            yield f"its code is larger than {_MAX_CODE:,} bytes; the rest was not looked at"
            return
        text = bytes(read(archive.data(name))).decode("utf-8", "replace")
        touching = sorted({found[1] or found[2] for found in _FILES.finditer(text)})
        if touching:
            yield f"its code in {name} reads or writes files when it is run: {', '.join(touching)}"
        others |= set(_OPERATORS.findall(text)) - _TORCHS_OWN
    if others:
        yield f"its code calls operators of libraries that must be loaded first: {', '.join(sorted(others)[:10])}"


def _onnx(source: Source) -> Iterator[str]:
    """An ONNX graph is data for a runtime; operators outside of the standard need a library of the user's."""
    reader = Reader(source)
    domains: set[str] = set()
    functions = 0
    for part in reader.fields(0, source.size):
        if part.number == _OPSETS:
            domains |= {reader.text(field) for field in reader.fields(part.start, part.end) if field.number == _DOMAIN}
        functions += part.number == _FUNCTIONS
    yield "an ONNX graph is data for a runtime: nothing in it is unpickled or imported"
    custom = sorted(domains - _STANDARD)
    if custom:
        yield f"its operators are also those of {', '.join(custom[:10])}, for which the runtime must load libraries"
    if functions:
        yield f"defines {functions:,} functions, which are graphs too"
