"""`torch-tar`: what torch 0.1 wrote before it had a format of its own, read only.

- layout: a tar archive of `pickle` (the content), `tensors` (a pickled count; for each tensor a pickled (key,
  storage's key, class), its dimensions, sizes, strides and offset), `storages` (a pickled count; for each
  storage a pickled (key, location, class), its number of elements and its bytes; then the pickled views of
  storages) and `sys_info`. The content refers to tensors and storages by their keys as text.
- read: shared storages, views of storages, Parameters and Variables, whole modules as opaque objects.
- refused: archives of big-endian machines, whose metadata are in the order of the machine.
- checked: the archive's headers, that every key is known, and that all tensors lie inside their storages.
- no sums: the format has none, so a flipped bit of a tensor cannot be seen.

Source of the layout: `torch/serialization.py`, `_legacy_load.legacy_load`, with which torch reads it to this day.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from compat.checkpoint import Checkpoint, StorageRecord, StorageRef, TensorRecord
from compat.data import FileData, SlicedData
from compat.dtypes import BY_STORAGE, DTYPES
from compat.errors import Corrupt, Unsupported, brief
from compat.formats._format import Capabilities, Format
from compat.pickles import read_pickle
from compat.rebuild import MEANINGS, StorageType, settle
from compat.records import MAX_DIMS, MAX_INT64
from compat.sources import Source
from compat.tardir import is_tar, members_of
from compat.tensorcalls import rebuild_tensor
from compat.torchfile import checked, refuse_many_parts

_MEMBERS: Final = ("pickle", "tensors", "storages")
# The small pickles between raw bytes are read in growing pieces: their length stands nowhere.
_FIRST_READ: Final = 512
_MAX_KEY_DIGITS: Final = 24


def _members(source: Source) -> dict[str, FileData]:
    known = source.cache.get("tar")
    if not isinstance(known, dict):
        known = source.cache["tar"] = members_of(source)
    return known


def _detect(source: Source) -> bool:
    return is_tar(source) and set(_MEMBERS) <= set(_members(source))


class _Cursor:
    """Reads pickles and raw bytes one after the other, from one member."""

    def __init__(self, data: FileData, named: list[str]) -> None:
        self.source = data.source
        self.position = data.offset
        self.end = data.offset + data.nbytes
        self.named = named

    def pickle(self) -> Any:
        """The next pickle, which may name storage classes and nothing else that matters."""
        size = min(_FIRST_READ, self.end - self.position)
        while True:
            content = self.source.read(self.position, size)
            try:
                value, end, named = read_pickle(content, meanings=MEANINGS, source=self.source.name)
            except Corrupt:
                # What breaks at the end of a piece may be whole in a longer one.
                if self.position + size == self.end:
                    raise
                size = min(self.end - self.position, size * 8)
                continue
            self.position += end
            self.named += named
            return value

    def bytes(self, size: int) -> bytes:
        """The next raw bytes."""
        begin = self.skip(size)
        return bytes(self.source.read(begin, size))

    def skip(self, size: int) -> int:
        """Where the next raw bytes begin; the cursor goes behind them."""
        begin = self.position
        if size > self.end - begin:
            raise self.corrupt(f"a member ends {begin + size - self.end:,} bytes too early")
        self.position += size
        return begin

    def count(self) -> int:
        """The next pickle, a count of things of at least one byte each."""
        value = self.pickle()
        if type(value) is not int or not 0 <= value <= self.end - self.position:
            raise self.corrupt(f"a member says it holds {brief(value)} things")
        return value

    def tuple(self, length: int, what: str) -> Any:
        """The next pickle, a tuple of that many."""
        value = self.pickle()
        if not isinstance(value, tuple) or len(value) != length:
            raise self.corrupt(f"{what} is described by {brief(value)}")
        return value

    def corrupt(self, seen: str) -> Corrupt:
        return Corrupt(seen, source=self.source.name, offset=self.position)


class _Archive:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.members = _members(source)
        self.named: list[str] = []
        self.objects: dict[int, Any] = {}

    def key(self, value: Any, cursor: _Cursor) -> int:
        """The key of a new storage or tensor."""
        if type(value) is not int or abs(value) > MAX_INT64 * 2 or value in self.objects:
            raise cursor.corrupt(f"a key is {brief(value)}")
        return value

    def read_storages(self) -> None:
        cursor = _Cursor(self.members["storages"], self.named)
        for _ in range(cursor.count()):
            key, location, kind = cursor.tuple(3, "a storage")
            if not isinstance(kind, StorageType) or kind.dtype is None or not isinstance(location, str):
                raise cursor.corrupt(f"a storage is described by {brief((key, location, kind))}")
            nbytes = int.from_bytes(cursor.bytes(8), "little") * DTYPES[kind.dtype].itemsize
            data = FileData(source=self.source, offset=cursor.skip(nbytes), nbytes=nbytes)
            key = self.key(key, cursor)
            record = StorageRecord(key=str(key), nbytes=nbytes, device=location, dtype=kind.dtype, data=data)
            self.objects[key] = StorageRef(record, kind.dtype)
        views = cursor.pickle()
        if not isinstance(views, list):
            raise cursor.corrupt(f"the views of storages are {brief(views)}")
        for view in views:
            self._view(view, cursor)

    def _view(self, view: Any, cursor: _Cursor) -> None:
        if not isinstance(view, tuple) or len(view) != 4:  # noqa: PLR2004 - key, whole's key, offset, size
            raise cursor.corrupt(f"a view of a storage is described by {brief(view)}")
        key, root, offset, numel = view
        whole = self.objects.get(root) if type(root) is int else None
        if not isinstance(whole, StorageRef) or any(type(n) is not int or n < 0 for n in (offset, numel)):
            raise cursor.corrupt(f"a view of a storage is described by {brief(view)}")
        parent, width = whole.storage, DTYPES[whole.dtype].itemsize
        if parent.data is None or (offset + numel) * width > parent.nbytes:
            raise cursor.corrupt(f"view {brief(key)} of storage {parent.key} reaches outside it")
        data = SlicedData(parent=parent.data, offset=offset * width, nbytes=numel * width)
        key = self.key(key, cursor)
        record = StorageRecord(key=str(key), nbytes=data.nbytes, device=parent.device, dtype=parent.dtype, data=data)
        self.objects[key] = StorageRef(record, whole.dtype, whole.whole or parent, whole.begin + offset)

    def read_tensors(self) -> None:
        cursor = _Cursor(self.members["tensors"], self.named)
        for _ in range(cursor.count()):
            key, storage_key, kind = cursor.tuple(3, "a tensor")
            # The oldest files count dimensions in eight bytes, later ones in four and four that mean nothing.
            ndim = int.from_bytes(cursor.bytes(8)[:4], "little", signed=True)
            if not 0 <= ndim <= MAX_DIMS:
                raise cursor.corrupt(f"a tensor has {ndim:,} dimensions")
            numbers = struct.unpack(f"<{2 * ndim + 1}q", cursor.bytes(8 * (2 * ndim + 1)))
            storage = self._storage_of(storage_key, kind, cursor)
            self.objects[self.key(key, cursor)] = rebuild_tensor(
                storage, numbers[-1], numbers[:ndim], numbers[ndim : 2 * ndim]
            )

    def _storage_of(self, key: Any, kind: Any, cursor: _Cursor) -> StorageRef:
        """The storage that a tensor looks into; one without elements may have none."""
        found = self.objects.get(key) if type(key) is int else None
        if isinstance(found, StorageRef):
            return found
        name = str(getattr(kind, "global_name", "")).rpartition(".")[2].removesuffix("Tensor")
        dtype = BY_STORAGE.get(f"{name}Storage")
        if key is not None or dtype is None:
            raise cursor.corrupt(f"a tensor refers to the storage {brief(key)}, which is not there")
        nothing = FileData(source=self.source, offset=0, nbytes=0)
        record = StorageRecord(key="none", nbytes=0, dtype=dtype.name, data=nothing)
        return StorageRef(record, dtype.name)

    def persistent(self, pid: Any) -> Any:
        """A tensor or storage by its key, or a class that came with its source."""
        if isinstance(pid, tuple) and pid:
            return pid[0]
        if isinstance(pid, str) and pid.removeprefix("-").isdigit() and len(pid) <= _MAX_KEY_DIGITS:
            pid = int(pid)
        found: TensorRecord | StorageRef | None = self.objects.get(pid) if type(pid) is int else None
        if found is None:
            raise Corrupt(f"a persistent id is {brief(pid)}", expected="the key of a tensor or of a storage")
        return found

    def read_content(self) -> Any:
        stream = self.members["pickle"]
        content = self.source.read(stream.offset, stream.nbytes)
        tree, _, named = read_pickle(content, meanings=MEANINGS, persistent=self.persistent, source=self.source.name)
        self.named += named
        return tree

    def refuse_big_endian(self) -> dict[str, Any]:
        facts = _Cursor(self.members["sys_info"], self.named).pickle() if "sys_info" in self.members else {}
        if not isinstance(facts, dict):
            raise Corrupt(f"the facts of the writer are {brief(facts)}", source=self.source.name)
        if not facts.get("little_endian", True):
            raise Unsupported("was written on a big-endian machine", feature="byteorder", source=self.source.name)
        version = facts.get("protocol_version")
        return {"protocol_version": version} if type(version) is int else {}


def _open(source: Source) -> Checkpoint:
    archive = _Archive(source)
    facts = archive.refuse_big_endian()
    archive.read_storages()
    archive.read_tensors()
    tree = settle(archive.read_content())
    refuse_many_parts(tree, source)
    return checked(
        Checkpoint(
            format=FORMAT.name,
            tree=tree,
            source=source.name,
            globals=list(dict.fromkeys(archive.named)),
            metadata={"byteorder": "little", **facts},
            close=source.close,
        )
    )


FORMAT = Format(
    name="torch-tar",
    summary="torch.save of torch 0.1",
    suffixes=(".pt", ".pth", ".tar"),
    unpickles=True,
    detect=_detect,
    open=_open,
    capabilities=Capabilities(mmap=True),
)
