"""The line that loads a file: with compat, and with torch alone where torch can.

Sources: `torch/serialization.py` (`load`, `_load`, `_legacy_load`), `torch/_weights_only_unpickler.py`. A line for
torch is given only where all its rules are met; otherwise the reason is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from compat.allowlist import ALLOWED, OPCODES, SAFE_GLOBALS_SINCE, order, since_of, until_of
from compat.checkpoint import (
    Checkpoint,
    Composite,
    GlobalRef,
    NumpyArray,
    NumpyDType,
    Opaque,
    StorageRef,
    TensorRecord,
    walk,
)
from compat.dtypes import DTYPES
from compat.errors import CompatError
from compat.pickles.shadows import Trace
from compat.records import GlobalName
from compat.recovery import is_module
from compat.sources import Source
from compat.streams import Search
from compat.torcharchive import archive_of, root_of
from compat.unwrapping import find

# More names than these make no line that anyone would read.
_MAX_NAMES: Final = 40
_TUPLES_SINCE: Final = "2.6"  # allow-listing a thing under another name than its own
# Modules that torch had once; what is named in them cannot be allowed any more.
_GONE: Final = ("torch.tensor.", "torch.nn.backends.", "torch.nn._functions.", "torch.legacy.")
# Format → what its own library is asked, and which module that is.
_OTHER_LOADERS: Final = {
    "npz": ("numpy.load({path}, allow_pickle=False)", "numpy"),
    "onnx": ("onnx.load({path})", "onnx"),
    "safetensors": ("safetensors.torch.load_file({path})", "safetensors.torch"),
    "torch-export": ("torch.export.load({path})", "torch"),
    "torchscript": ("torch.jit.load({path})", "torch"),
}
_NO_LINE: Final = {
    "torch-tar": "torch reads archives of torch 0.1 with weights_only=False only",
    "safetensors-sharded": "torch reads no index of shards",
    "torch-sharded": "torch reads no index of shards; each shard is a file of its own",
    "gguf": "torch reads no GGUF",
    "dcp": "torch.distributed.checkpoint fills a state that is there already; it unpickles without limits",
    "archive": "the archive is no checkpoint; its records are",
    "pickle": "a plain pickle is no checkpoint; pickle.load executes what it says",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """How to load a file.

    Attributes:
        line: the line with compat, which executes nothing; empty where the file cannot be read.
        torch: the line with torch alone, or with the library that the format belongs to; empty where there is none.
        imports: the statements that import what it needs.
        since: the first torch that the line works with; empty where that does not matter.
        until: the first torch that it does not work with any more; empty where there is none.
        reason: why torch alone cannot, or must not.
    """

    line: str = ""
    torch: str = ""
    imports: tuple[str, ...] = ()
    since: str = ""
    until: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The advice as a JSON object."""
        return {
            "compat": self.line,
            "torch": self.torch,
            "imports": list(self.imports),
            "torch_since": self.since,
            "torch_until": self.until,
            "reason": self.reason,
        }


def advise(found: Search, source: Source, kind: str, *, broken: bool, dangerous: bool) -> Advice:
    """The lines that load a file.

    Args:
        found: its streams, and the checkpoint where it is one.
        source: its bytes.
        kind: its format.
        broken: whether it cannot be read to its end.
        dangerous: whether it names what is known to do harm.
    """
    path = repr(source.name)
    checkpoint = found.checkpoint
    if broken or checkpoint is None:
        unread = "the file cannot be read"
        return Advice(reason=unread if broken else _NO_LINE.get(kind, unread))
    line = _own_line(checkpoint, path)
    if dangerous:
        return Advice(line=line, reason="it names what is known to do harm: do not let torch unpickle it")
    obstacle = _NO_LINE.get(kind) or _obstacle(checkpoint, source)
    if obstacle:
        return Advice(line=line, reason=obstacle)
    if kind in _OTHER_LOADERS:
        other, module = _OTHER_LOADERS[kind]
        return Advice(line=line, torch=other.format(path=path), imports=(f"import {module}",))
    return _torch_line(checkpoint, [stream.trace for stream in found.streams], line, path)


def _own_line(checkpoint: Checkpoint, path: str) -> str:
    try:
        leaves = [leaf for _, leaf in walk(checkpoint.tree) if isinstance(leaf, (Opaque, GlobalRef))]
    except CompatError:
        return ""
    if is_module(checkpoint.tree):
        return f"compat.load_state_dict({path})"
    if isinstance(checkpoint.tree, dict):
        modules = [key for key, value in dict.items(checkpoint.tree) if isinstance(key, str) and is_module(value)]
        if modules:
            return f"compat.load_state_dict({path}{_which(checkpoint.tree, modules[0])})"
    return f'compat.load({path}, on_unknown="keep")' if leaves else f"compat.load({path})"


def _which(tree: Any, first: str) -> str:
    """The argument that says which weights are meant, where there are several."""
    try:
        find(tree)
    except CompatError:
        return f", key={first!r}"
    return ""


def _obstacle(checkpoint: Checkpoint, source: Source) -> str:
    """Why no torch that is about reads the file, whatever it names; empty where there is no such reason."""
    kind = checkpoint.format
    if kind == "torch-legacy":
        leaves = [leaf for _, leaf in walk(checkpoint.tree)]
        storages = [leaf.storage for leaf in leaves if isinstance(leaf, (TensorRecord, StorageRef))]
        if any(storage.dtype is None and storage.data is not None for storage in storages):
            return "torch writes storages without a type into this format and cannot read them back"
        if any(isinstance(leaf, Composite) and leaf.kind == "nested" for leaf in leaves):
            return "torch needs the sizes of nested tensors before it has read them in this format"
    if kind == "torchscript" and "class" not in checkpoint.metadata:
        return "the archives of torch 1.0 to 1.2 that are described in JSON are read by those only"
    archive = archive_of(source) if kind == "torch-zip" else None
    if archive is not None:
        root = root_of(archive) or ""
        if any(name.startswith(f"{root}tensors/") for name in archive.entries):
            return "the zip files of torch 1.4 are read by torch 1.4 only"
        if "version" not in checkpoint.metadata:
            return "torch refuses archives without a record `version`"
    return ""


def _torch_line(checkpoint: Checkpoint, traces: Sequence[Trace], line: str, path: str) -> Advice:
    """`torch.load(weights_only=True)`, with what must be allowed for it."""
    names = {str(named.name): named for found in traces for named in found.names}
    opcodes = {opcode for found in traces for opcode in found.opcodes}
    outside = sorted(set(names) - set(ALLOWED))
    inside = set(names) & set(ALLOWED)
    refused = _refused(traces, opcodes, outside)
    if refused:
        return Advice(line=line, reason=refused)
    dtypes = [DTYPES[leaf.dtype].since for _, leaf in walk(checkpoint.tree) if isinstance(leaf, TensorRecord)]
    since = max((since_of(inside, opcodes), *dtypes), key=order)
    until = until_of(inside)
    load = f"torch.load({path}, weights_only=True)"
    if not outside:
        return Advice(line=line, torch=load, imports=("import torch",), since=since, until=until)
    kinds = sorted({leaf.dtype for _, leaf in walk(checkpoint.tree) if isinstance(leaf, (NumpyArray, NumpyDType))})
    imports, listed = _allowed([names[name].name for name in outside])
    if kinds:
        # The classes of numpy's dtypes must be allowed too, and no file names them.
        imports.append("import numpy")
        listed += [f'type(numpy.dtype("{kind}"))' for kind in kinds]
    by_tuple = any(item.startswith("(") for item in listed)
    return Advice(
        line=line,
        torch=f"with torch.serialization.safe_globals([{', '.join(listed)}]): loaded = {load}",
        imports=("import torch", *imports),
        since=max(since, _TUPLES_SINCE if by_tuple else SAFE_GLOBALS_SINCE, key=order),
        until=until,
    )


def _refused(traces: Sequence[Trace], opcodes: set[str], outside: Sequence[str]) -> str:
    """Why `weights_only=True` refuses a file, whatever it is allowed; empty where it does not."""
    if not opcodes <= OPCODES:
        strange = ", ".join(sorted(opcodes - OPCODES)[:4])
        return f"weights_only=True knows pickle protocol 2 only, and the file uses {strange}"
    if any(found.carried for found in traces):
        return "weights_only=True takes no modules that bring the source of their classes along"
    if "torch.ScriptObject" in outside:
        return "weights_only=True makes no TorchScript objects, such as packed weights"
    gone = [name for name in outside if name.startswith(_GONE)]
    if gone:
        return f"it names {gone[0]}, which torch has no more"
    return f"{len(outside):,} names would have to be allowed first" if len(outside) > _MAX_NAMES else ""


def _allowed(outside: Sequence[GlobalName]) -> tuple[list[str], list[str]]:
    """The imports of what must be allowed, and how each is called then."""
    imports, listed = [], []
    taken: set[str] = {"torch", "numpy", "loaded"}
    for name in outside:
        if name.module == "builtins":
            listed.append(name.qualname)
            continue
        first, _, rest = name.qualname.partition(".")
        alias = first
        while alias in taken:
            alias += "_"
        taken.add(alias)
        imports.append(f"from {name.module} import {first}" + (f" as {alias}" if alias != first else ""))
        called = f"{alias}.{rest}" if rest else alias
        # numpy 2 moved these modules: the same things have another name of their own today.
        moved = name.startswith(("numpy.core.", "numpy._core."))
        listed.append(f'({called}, "{name}")' if moved else called)
    return imports, listed
