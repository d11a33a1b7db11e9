"""The contract that every format fulfils.

A format is one module beside this one with a constant `FORMAT`. What it can do is shown by presence: a
format that cannot be written has `write=None`. What its `capabilities` claim must come back unchanged;
what they do not claim is refused by `Unsupported` before a byte is written, or dropped when the caller
named it in `allow_loss`. The matrix holds every format to both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Literal

from compat.checkpoint import Checkpoint
from compat.dtypes import DTYPES, QUANTIZED
from compat.sources import Source

PLAIN_DTYPES: Final = frozenset(DTYPES) - QUANTIZED


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a format keeps. Each name is also the name of the loss where the format does not.

    Attributes:
        dtypes: the element types that keep their bytes and their name.
        aliasing: tensors that share storage still share it.
        strides: strides and storage offsets come back.
        containers: nesting and key order of dicts, OrderedDicts, lists and tuples come back.
        extras: `any` plain value, those that `json` can say, or `none`.
        metadata: an OrderedDict's `_metadata` comes back.
        requires_grad: the flag, and Parameter against Tensor, come back.
        conj: conjugate and negative bits come back.
        opaque: objects of classes that are not imported come back.
        hidden_bytes: bytes of a storage that no tensor shows come back.
        device: device tags come back.
        mmap: a load can map the file instead of reading it.
    """

    dtypes: frozenset[str] = PLAIN_DTYPES
    aliasing: bool = True
    strides: bool = True
    containers: bool = True
    extras: str = "any"
    metadata: bool = True
    requires_grad: bool = True
    conj: bool = True
    opaque: bool = True
    hidden_bytes: bool = True
    device: bool = True
    mmap: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteOptions:
    """How to write.

    Attributes:
        name: the target's file name without suffix, for formats that store it.
        filename: the target's whole file name; the others of a checkpoint of several files are named after it.
        allow_loss: names of features that may be dropped.
        max_shard_size: bytes of tensors per file, for formats of several files.
        progress: called with the number of bytes whenever some were written.
    """

    name: str = "archive"
    filename: str = "archive"
    allow_loss: Collection[str] = ()
    max_shard_size: int = 5_000_000_000
    progress: Callable[[int], None] | None = None


@dataclass(kw_only=True, slots=True)
class Written:
    """What a writer did beside writing.

    Attributes:
        lost: feature → paths that lost it, because the caller allowed it.
        carried: feature → paths whose value only compat gives back; other readers do not see it.
        renamed: path → the name the tensor has in the file, where that is another one.
    """

    lost: dict[str, list[str]] = field(default_factory=dict)
    carried: dict[str, list[str]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One byte layout under one name, for ever: a changed layout is a new name.

    Attributes:
        name: its name.
        summary: what writes it, in a few words.
        suffixes: usual file suffixes. A suffix never decides on reading.
        asked_by: the suffixes by which a new file asks for this format.
        shape: `file` for one file; `files` for a file that names others beside it; `folder` for a folder.
        shards: for a format of an index and shards, the format that each shard has.
        detect: whether a source's content has this layout, judged by a bounded part of it. Folders are shown only
            to formats of several files.
        open: read everything but the tensors' bytes.
        write: write a checkpoint as one file; None where the format is only read.
        write_files: the same for a checkpoint of several files: into an empty folder, which the caller verifies,
            syncs and moves to its place.
        left_behind: what a file of this format has beside a checkpoint's content, which no conversion takes along;
            a function where not every file has it.
        unpickles: whether `torch.load(weights_only=False)` would execute what such a file says.
        capabilities: what it keeps.
    """

    name: str
    summary: str
    suffixes: tuple[str, ...]
    detect: Callable[[Source], bool]
    open: Callable[[Source], Checkpoint]
    write: Callable[[Checkpoint, BinaryIO, WriteOptions], Written] | None = None
    write_files: Callable[[Checkpoint, Path, WriteOptions], Written] | None = None
    shape: Literal["file", "files", "folder"] = "file"
    shards: str | None = None
    asked_by: tuple[str, ...] = ()
    unpickles: bool = False
    left_behind: str | Callable[[Checkpoint], str | None] | None = None
    capabilities: Capabilities

    @property
    def writable(self) -> bool:
        """Whether it is written too, not only read."""
        return self.write is not None or self.write_files is not None
