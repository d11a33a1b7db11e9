"""The line that loads a file: with compat, and with torch alone where torch can.

Sources: `torch/serialization.py` (`load`, `_load`, `_legacy_load`), `torch/_weights_only_unpickler.py`. A line for
torch is given only where all its rules are met; otherwise the reason is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from compat.allowlist import ALLOWED, FIRST, OPCODES, SAFE_GLOBALS_SINCE, order, since_of, until_of
from compat.checkpoint import Checkpoint, GlobalRef, NumpyArray, Opaque, StorageRef, TensorRecord, walk
from compat.dtypes import DTYPES
from compat.errors import CompatError
from compat.pickles.shadows import Trace
from compat.recovery import is_module
from compat.sources import Source
from compat.streams import Search

# More names than these make no line that anyone would read.
_MAX_NAMES: Final = 40
_TUPLES_SINCE: Final = "2.6"  # allow-listing a thing under another name than its own
_OTHER_LOADERS: Final = {
    "safetensors": "safetensors.torch.load_file({path})",
    "torchscript": "torch.jit.load({path})",
    "torch-export": "torch.export.load({path})",
    "onnx": "onnx.load({path})",
    "npz": "numpy.load({path}, allow_pickle=False)",
}
_NO_LINE: Final = {
    "torch-tar": "torch reads archives of torch 0.1 with weights_only=False only",
    "safetensors-sharded": "torch reads no index of shards",
    "torch-sharded": "torch reads no index of shards; each shard is a file of its own",
    "gguf": "torch reads no GGUF",
    "dcp": "torch.distributed.checkpoint fills a state that is there already; it unpickles without limits",
    "pickle": "a plain pickle is no checkpoint; pickle.load executes what it says",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """How to load a file.

    Attributes:
        line: the line with compat, which executes nothing; empty where the file cannot be read.
        torch: the line with torch alone, or with the library that the format belongs to; empty where there is none.
        imports: what that line needs to be imported first.
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
        return Advice(reason=_NO_LINE.get(kind, "the file cannot be read") if not broken else "the file cannot be read")
    line = _own_line(checkpoint, path)
    if dangerous:
        return Advice(line=line, reason="it names what is known to do harm: do not let torch unpickle it")
    if kind in _OTHER_LOADERS:
        return Advice(line=line, torch=_OTHER_LOADERS[kind].format(path=path))
    if kind in _NO_LINE:
        return Advice(line=line, reason=_NO_LINE[kind])
    obstacle = _obstacle(checkpoint, kind)
    if obstacle:
        return Advice(line=line, reason=obstacle)
    return _torch_line(checkpoint, [stream.trace for stream in found.streams], line, path)


def _own_line(checkpoint: Checkpoint, path: str) -> str:
    try:
        leaves = [leaf for _, leaf in walk(checkpoint.tree) if isinstance(leaf, (Opaque, GlobalRef))]
    except CompatError:
        return ""
    if is_module(checkpoint.tree):
        return f"compat.load_state_dict({path})"
    return f'compat.load({path}, on_unknown="keep")' if leaves else f"compat.load({path})"


def _obstacle(checkpoint: Checkpoint, kind: str) -> str:
    """Why no torch that is about reads the file, whatever it names; empty where there is no such reason."""
    storages = [leaf.storage for _, leaf in walk(checkpoint.tree) if isinstance(leaf, (TensorRecord, StorageRef))]
    if kind == "torch-legacy" and any(storage.dtype is None for storage in storages):
        return "torch writes storages without a type into this format and cannot read them back"
    if checkpoint.metadata.get("folder") == "tensors":
        return "the zip files of torch 1.4 are read by torch 1.4 only"
    if kind == "torch-zip" and "version" not in checkpoint.metadata:
        return "torch refuses archives without a record `version`"
    return ""


def _torch_line(checkpoint: Checkpoint, traces: Sequence[Trace], line: str, path: str) -> Advice:
    """`torch.load(weights_only=True)`, with what must be allowed for it."""
    names = {str(named.name) for found in traces for named in found.names}
    opcodes = {opcode for found in traces for opcode in found.opcodes}
    if not opcodes <= OPCODES:
        strange = ", ".join(sorted(opcodes - OPCODES)[:4])
        return Advice(line=line, reason=f"weights_only=True knows pickle protocol 2 only, and the file uses {strange}")
    outside = sorted(names - set(ALLOWED))
    dtypes = [DTYPES[leaf.dtype].since for _, leaf in walk(checkpoint.tree) if isinstance(leaf, TensorRecord)]
    inside = names & set(ALLOWED)
    since = max((since_of(inside, opcodes), *dtypes, *(("2.0",) if "weird" in names else ())), key=order)
    until = until_of(inside)
    load = f"torch.load({path}, weights_only=True)"
    if not outside:
        return Advice(line=line, torch=load, imports=("torch",), since=since, until=until)
    if len(outside) > _MAX_NAMES:
        return Advice(line=line, reason=f"{len(outside):,} names would have to be allowed first")
    allowed, needed = _allowed(outside, checkpoint)
    imports = sorted({"torch", *(name.rpartition(".")[0] for name in outside), *(("numpy",) if needed else ())} - {"builtins"})
    since = max(since, _TUPLES_SINCE if any(item.startswith("(") for item in allowed) else SAFE_GLOBALS_SINCE, key=order)
    listed = ", ".join([*allowed, *needed])
    return Advice(
        line=line,
        torch=f"with torch.serialization.safe_globals([{listed}]): loaded = {load}",
        imports=tuple(imports),
        since=since,
        until=until,
    )


def _allowed(outside: Iterable[str], checkpoint: Checkpoint) -> tuple[list[str], list[str]]:
    """What must be allowed: the names, and the classes of numpy's dtypes, which no file names."""
    allowed = []
    for name in outside:
        plain = name.removeprefix("builtins.")
        # numpy 2 moved these modules: the same things have another name of their own today.
        moved = name.startswith(("numpy.core.", "numpy._core."))
        allowed.append(f'({name}, "{name}")' if moved else plain)
    kinds = sorted({leaf.dtype for _, leaf in walk(checkpoint.tree) if isinstance(leaf, NumpyArray)})
    return allowed, [f'type(numpy.dtype("{kind}"))' for kind in kinds]


assert FIRST in {entry.since for entry in ALLOWED.values()}
