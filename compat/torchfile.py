"""What the torch formats share: storages named by persistent ids, and a tree that is checked before it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
from compat.errors import Corrupt, brief
from compat.rebuild import StorageType
from compat.records import MAX_INT64


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
    """Keys of the storages that tensors of several dtypes share, or whose size no dtype of theirs divides."""
    seen: dict[int, tuple[StorageRecord, set[str]]] = {}
    for _, leaf in walk(tree):
        if isinstance(leaf, (TensorRecord, StorageRef)):
            seen.setdefault(id(leaf.storage), (leaf.storage, set()))[1].add(leaf.dtype)
    return {
        storage.key
        for storage, dtypes in seen.values()
        if len(dtypes) > 1 or storage.nbytes % DTYPES[next(iter(dtypes))].itemsize
    }


def checked(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, when every tensor lies inside its storage.

    Raises:
        Corrupt: one does not.
    """
    for path, leaf in walk(checkpoint.tree):
        if isinstance(leaf, TensorRecord):
            try:
                check_bounds(leaf, source=checkpoint.source)
            except Corrupt:  # only now is its name worth the time that a long one takes
                check_bounds(leaf, source=checkpoint.source, path=path_text(path))
                raise
    return checkpoint
