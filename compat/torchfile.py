"""What the torch formats share: storages named by persistent ids, and a tree that is checked before it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from compat.checkpoint import (
    Checkpoint,
    StorageRecord,
    StorageRef,
    TensorRecord,
    check_bounds,
    path_text,
    walk,
)
from compat.dtypes import DTYPES
from compat.errors import Corrupt, Unsupported, brief
from compat.rebuild import StorageType
from compat.records import MAX_INT64
from compat.sources import Source

# How many tensors of classes that are not imported are noted by name.
_NOTED: Final = 10
_MAX_COPIES: Final = 16


class Storages:
    """The storages that one pickle stream refers to, by key."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: dict[str, StorageRecord] = {}

    def load(self, pid: Any) -> StorageRef:
        """The storage behind a persistent id: ("storage", class, key, device, numel, …).

        Raises:
            Corrupt: it is no such tuple, or contradicts an earlier one for the same key.
        """
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":  # noqa: PLR2004
            raise Corrupt(f"a persistent id is {brief(pid)}", source=self.source, expected='("storage", class, key, …)')
        _, kind, key, device, numel = pid[:5]
        if (
            not isinstance(kind, StorageType)
            or type(key) not in (str, int)
            or not isinstance(device, str)
            or type(numel) is not int
            or not 0 <= numel <= MAX_INT64
        ):
            raise Corrupt(f"a storage is described by {brief(pid, 120)}", source=self.source)
        dtype = kind.dtype or "uint8"
        key = str(key)
        known = self.found.get(key)
        if known is None:
            nbytes = numel * DTYPES[dtype].itemsize
            known = StorageRecord(key=key, nbytes=nbytes, device=device, dtype=kind.dtype)
            self.found[key] = known
        return StorageRef(known, dtype)


def storages_of(tree: Any) -> Iterator[tuple[str, StorageRecord, str | None]]:
    """Every storage that a tree refers to, once, with the path that first does and the dtype it sees there."""
    seen: set[int] = set()
    for path, leaf in walk(tree):
        if isinstance(leaf, (TensorRecord, StorageRef)) and id(leaf.storage) not in seen:
            seen.add(id(leaf.storage))
            yield path_text(path), leaf.storage, leaf.dtype


def untypable(tree: Any) -> set[str]:
    """Keys of storages that stand for themselves, that dtypes share, or whose size no dtype of theirs divides."""
    seen: dict[int, tuple[StorageRecord, set[str]]] = {}
    for _, leaf in walk(tree):
        if isinstance(leaf, (TensorRecord, StorageRef)):
            is_bare = isinstance(leaf, StorageRef) and leaf.storage.dtype is None
            seen.setdefault(id(leaf.storage), (leaf.storage, set()))[1].add("" if is_bare else leaf.dtype)
    return {
        storage.key
        for storage, dtypes in seen.values()
        if len(dtypes) > 1 or "" in dtypes or storage.nbytes % DTYPES[next(iter(dtypes))].itemsize
    }


def checked(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, when every tensor lies inside its storage.

    Raises:
        Corrupt: one does not.
        Unsupported: tensors of several widths share an untyped storage of the other byte order.
    """
    _refuse_mixed_widths(checkpoint)
    foreign: list[str] = []
    for path, leaf in walk(checkpoint.tree):
        if isinstance(leaf, TensorRecord):
            if leaf.subclass is not None and len(foreign) < _NOTED:
                foreign.append(
                    f"{path_text(path)} was saved as a {leaf.subclass.name:.200}; it is read as a plain tensor"
                )
            try:
                check_bounds(leaf, source=checkpoint.source)
            except Corrupt:  # only now is its name worth the time that a long one takes
                check_bounds(leaf, source=checkpoint.source, path=path_text(path))
                raise
    checkpoint.notes += foreign
    return checkpoint


def refuse_many_parts(tree: Any, source: Source) -> None:
    """Refuse a file whose bare parts of storages, each of which is a copy once loaded, are far larger than itself.

    Raises:
        Unsupported: they are. Tensors on parts of storages share the whole, and cost nothing.
    """
    parts = {id(leaf.storage): leaf.storage.nbytes for _, leaf in walk(tree) if _is_part(leaf)}
    if sum(parts.values()) > _MAX_COPIES * source.size:
        raise Unsupported(
            f"its {len(parts):,} parts of storages have {sum(parts.values()):,} bytes",
            feature="storage",
            source=source.name,
            expected=f"at most {_MAX_COPIES} times the file's size",
        )


def _is_part(leaf: Any) -> bool:
    return isinstance(leaf, StorageRef) and leaf.whole is not None


def _refuse_mixed_widths(checkpoint: Checkpoint) -> None:
    """Bytes of the other order are swapped by the width of what they are: it must be one."""
    widths: dict[int, int] = {}
    for path, leaf in walk(checkpoint.tree):
        if isinstance(leaf, (TensorRecord, StorageRef)) and leaf.storage.byteorder == "big" and not leaf.storage.dtype:
            width = DTYPES[leaf.dtype].component
            if widths.setdefault(id(leaf.storage), width) != width:
                raise Unsupported(
                    f"{path_text(path)} shares big-endian bytes with a tensor of another width",
                    feature="byteorder",
                    source=checkpoint.source,
                    paths=[path_text(path)],
                )
