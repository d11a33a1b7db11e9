"""`torch-legacy`: the pickle streams of `torch.save` up to 1.5, and of `_use_new_zipfile_serialization=False`.

- layout: five pickles (magic number, protocol version, system facts, the content, the storages' keys), then
  each storage in the keys' order: its number of elements as 8 bytes, and its bytes.
- kept: everything that the neutral model holds, exactly.
- read: what torch writes and cannot read back too: float8, uint16/32/64, complex32, bits, float4; protocol 0;
  views of storages (`view_metadata`, torch 0.2 to 0.3).
- big-endian writers: their storages are little-endian too, only the number of elements is as the machine has
  it in torch before 1.9. Complex numbers come out of them with their parts exchanged or not at all: refused.
- checked: that every storage is described once, lies inside the file, and that all tensors lie inside it.
- no sums: the format has none, so a flipped bit of a tensor cannot be seen.

Source of the layout: `torch/serialization.py` (`_legacy_save`, `_legacy_load`); of the byte order:
`torch/csrc/serialization.cpp` (`THPStorage_writeFileRaw`).
"""

from __future__ import annotations

from typing import Any, BinaryIO, Final

from compat.checkpoint import Checkpoint, StorageRecord, StorageRef
from compat.data import FileData, SlicedData, read
from compat.dtypes import DTYPES
from compat.errors import Corrupt, Unsupported, brief
from compat.formats._format import Capabilities, Format, WriteOptions, Written
from compat.pickles import PickleWriter, read_pickle
from compat.pickles.writer import storage_class
from compat.rebuild import MEANINGS, settle
from compat.sources import Source
from compat.strided import swap
from compat.torchfile import Storages, checked, refuse_many_parts, storages_of, untypable

MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001
_MAGIC_BYTES: Final = (MAGIC.to_bytes(10, "little"), str(MAGIC).encode())
_VIEW_FIELDS: Final = 6
# Before each storage, its number of elements.
_COUNT: Final = 8
# A stream is read in growing pieces until it is whole: its length stands nowhere.
_FIRST_READ: Final = 1 << 20


def _detect(source: Source) -> bool:
    return any(magic in source.head[:64] for magic in _MAGIC_BYTES)


class _Views(Storages):
    """Storages, some of which are views of others."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.views: dict[str, tuple[str, int, StorageRecord]] = {}

    def load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and pid and pid[0] == "module":
            return pid[1] if len(pid) > 1 else None
        ref = super().load(pid[:5] if isinstance(pid, tuple) else pid)
        view = pid[5] if len(pid) >= _VIEW_FIELDS else None
        return ref if view is None else self._view(ref, view)

    def _view(self, parent: StorageRef, view: Any) -> StorageRef:
        if not isinstance(view, tuple) or len(view) != 3:  # noqa: PLR2004 - key, offset, size
            raise Corrupt(f"a view of a storage is described by {brief(view)}", source=self.source)
        key, offset, numel = view
        if type(key) not in (str, int) or any(type(n) is not int or n < 0 for n in (offset, numel)):
            raise Corrupt(f"a view of a storage is described by {brief(view)}", source=self.source)
        key, width = str(key), DTYPES[parent.dtype].itemsize
        if (offset + numel) * width > parent.storage.nbytes:
            raise Corrupt(f"view {key} of storage {parent.storage.key} reaches outside it", source=self.source)
        if key == parent.storage.key:
            return parent
        if key in self.found:
            raise Corrupt(f"storage {key} is said to be a part of storage {parent.storage.key}", source=self.source)
        if key not in self.views:
            record = StorageRecord(
                key=key, nbytes=numel * width, device=parent.storage.device, dtype=parent.storage.dtype
            )
            self.views[key] = (parent.storage.key, offset * width, record)
        whole, begin, record = self.views[key]
        return StorageRef(record, parent.dtype, self.found[whole], begin // width)


def _streams(source: Source) -> tuple[dict[str, Any], Any, list[Any], int, list[str], _Views]:
    """The pickles at the front, and where they end."""
    size = min(source.size, _FIRST_READ)
    while True:
        try:
            return _parse(source, bytes(source.read(0, size)))
        except Corrupt:
            # What breaks at the end of a piece may be whole in a longer one.
            if size == source.size:
                raise
        size = min(source.size, size * 8)


def _parse(source: Source, head: bytes) -> tuple[dict[str, Any], Any, list[Any], int, list[str], _Views]:
    storages = _Views(source.name)
    position = 0
    parts: list[Any] = []
    named: list[str] = []
    for index in range(5):
        persistent = storages.load if index == 3 else None  # noqa: PLR2004 - the content is the fourth
        value, position, found = read_pickle(
            head, position, meanings=MEANINGS, persistent=persistent, source=source.name
        )
        parts.append(value)
        named += found
    magic, protocol, system, content, keys = parts
    if magic != MAGIC or protocol != _PROTOCOL or not isinstance(system, dict):
        raise Corrupt(
            f"begins with {brief(magic, 40)}, {brief(protocol, 40)}",
            source=source.name,
            expected=f"{MAGIC}, {_PROTOCOL}",
        )
    if not isinstance(keys, list):
        raise Corrupt(f"the list of storages is {brief(keys)}", source=source.name)
    return system, content, keys, position, named, storages


def _open(source: Source) -> Checkpoint:
    system, tree, keys, position, named, storages = _streams(source)
    byteorder = "little" if system.get("little_endian", True) else "big"
    if sorted(map(str, keys)) != sorted(storages.found):
        raise Corrupt("the list of storages is not that of the content", source=source.name, offset=position)
    behind = sum(_COUNT + storages.found[str(key)].nbytes for key in keys)
    for key in map(str, keys):
        behind -= _COUNT + storages.found[key].nbytes
        position = _place(source, storages.found[key], position, byteorder, behind)
    for parent, offset, record in storages.views.values():
        whole = storages.found[parent]
        if whole.data is not None:
            record.data = SlicedData(parent=whole.data, offset=offset, nbytes=record.nbytes)
    settled = settle(tree)
    refuse_many_parts(settled, source)
    return checked(
        Checkpoint(
            format=FORMAT.name,
            tree=settled,
            source=source.name,
            globals=list(dict.fromkeys(named)),
            metadata={"byteorder": byteorder, "protocol_version": _PROTOCOL},
            notes=[f"{source.size - position:,} bytes follow the checkpoint"] if position < source.size else [],
            close=source.close,
        )
    )


def _place(source: Source, storage: StorageRecord, position: int, byteorder: str, behind: int) -> int:
    """Say where a storage's bytes lie, and where the next storage begins; `behind` are the bytes of all later ones."""
    if position + _COUNT > source.size:
        raise _cut(source, storage, position + _COUNT + storage.nbytes, behind)
    count, dtype = source.read(position, _COUNT), DTYPES[storage.dtype or "uint8"]
    width = dtype.itemsize
    stated = int.from_bytes(count, "little")
    if byteorder == "big":
        if dtype.component < width:
            raise Unsupported(
                f"storage {storage.key} of {dtype.name} comes from a big-endian machine, which mixes its parts up",
                feature="byteorder",
                source=source.name,
            )
        stated = stated if stated * width == storage.nbytes else int.from_bytes(count, "big")
    if stated * width != storage.nbytes:
        raise Corrupt(
            f"storage {storage.key} has {stated:,} elements of {width} bytes",
            source=source.name,
            offset=position,
            expected=f"{storage.nbytes:,} bytes, as the content says",
        )
    begin = position + _COUNT
    if begin + storage.nbytes > source.size:
        raise _cut(source, storage, begin + storage.nbytes, behind)
    storage.data = FileData(source=source, offset=begin, nbytes=storage.nbytes)
    return begin + storage.nbytes


def _cut(source: Source, storage: StorageRecord, end: int, behind: int) -> Corrupt:
    missing = min(end - source.size, storage.nbytes)
    rest = f", and the {behind:,} bytes behind it" if behind else ""
    return Corrupt(
        f"ends inside storage {storage.key}: {missing:,} of its {storage.nbytes:,} bytes are missing{rest}",
        source=source.name,
        offset=source.size,
        expected=f"{end + behind:,} bytes in all",
        hint="The file is cut short; get it again.",
    )


def _write(checkpoint: Checkpoint, target: BinaryIO, options: WriteOptions) -> Written:
    del options  # a stream has no name and loses nothing
    keys: dict[int, str] = {}
    untyped = untypable(checkpoint.tree)
    types: dict[str, str | None] = {}

    def persistent_id(storage: StorageRecord, dtype: str | None) -> tuple[Any, ...]:
        key = keys.setdefault(id(storage), str(len(keys)))
        named = dtype if dtype and DTYPES[dtype].storage else None
        types.setdefault(key, named)
        numel = storage.nbytes // (DTYPES[named].itemsize if named else 1)
        return ("storage", storage_class(named), key, storage.device, numel, None)

    content = PickleWriter(persistent_id, untyped=untyped).dumps(checkpoint.tree)
    plain = PickleWriter()
    facts = {
        "protocol_version": _PROTOCOL,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    target.writelines(plain.dumps(value) for value in (MAGIC, _PROTOCOL, facts))
    target.write(content)
    target.write(plain.dumps(list(types)))
    for _, storage, dtype in storages_of(checkpoint.tree):
        if storage.data is None or id(storage) not in keys:
            continue
        named = types[keys[id(storage)]]
        target.write((storage.nbytes // (DTYPES[named].itemsize if named else 1)).to_bytes(8, "little"))
        if storage.byteorder == "big":
            target.write(swap(read(storage.data), DTYPES[storage.dtype or dtype or "uint8"].component))
        else:
            target.writelines(storage.data.chunks())
    return Written()


FORMAT = Format(
    name="torch-legacy",
    summary="torch.save up to 1.5, and with _use_new_zipfile_serialization=False",
    suffixes=(".pt", ".pth", ".th"),
    unpickles=True,
    detect=_detect,
    open=_open,
    write=_write,
    capabilities=Capabilities(mmap=True),
)
