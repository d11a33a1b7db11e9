"""`torch-zip`: what `torch.save` writes since 1.6.

- kept: everything that the neutral model holds, exactly: dtypes, strides, offsets, shared storages, device
  tags, Parameters, `_metadata`, extras, opaque objects.
- read: any root folder name, stored and deflated records, `byteorder`, storages with and without a type.
- checked: the directory, local headers, sums of the records that are read, sizes and bounds of all tensors.
- written: protocol 2 stream, records aligned to 64 bytes, CRC-32 of every record.

Source of the layout: `torch/serialization.py` (`_save`, `_load`) and `caffe2/serialize/inline_container.cc`.
"""

from __future__ import annotations

from typing import Any, BinaryIO

from compat.checkpoint import Checkpoint, StorageRecord
from compat.data import read
from compat.dtypes import DTYPES
from compat.errors import Corrupt
from compat.formats._format import Capabilities, Format, WriteOptions, Written
from compat.pickles import PickleWriter, read_pickle
from compat.pickles.writer import storage_class
from compat.rebuild import MEANINGS, settle
from compat.sources import Source
from compat.strided import swap
from compat.torchfile import Storages, checked, storages_of, untypable
from compat.zipdir import LOCAL_SIGNATURE, Archive, ArchiveWriter

_PICKLE = "data.pkl"
_SMALL_RECORD = 256


def _archive(source: Source) -> Archive:
    archive = source.cache.get("archive")
    if not isinstance(archive, Archive):
        archive = source.cache["archive"] = Archive(source)
    return archive


def _root(archive: Archive) -> str | None:
    """The folder that holds `data.pkl`, with its slash; None where the archive is another kind."""
    roots = [name[: -len(_PICKLE)] for name in archive.entries if name.rpartition("/")[2] == _PICKLE]
    outermost = min(roots, key=lambda root: root.count("/"), default=None)
    if outermost is None or f"{outermost}constants.pkl" in archive.entries:
        return None
    return outermost


def _detect(source: Source) -> bool:
    return source.head.startswith(LOCAL_SIGNATURE) and _root(_archive(source)) is not None


def _text(archive: Archive, name: str) -> str | None:
    entry = archive.entries.get(name)
    if entry is None or entry.nbytes > _SMALL_RECORD:
        return None
    return bytes(read(archive.data(name))).decode("utf-8", "replace").strip()


def _open(source: Source) -> Checkpoint:
    archive = _archive(source)
    root = _root(archive) or ""
    byteorder = _text(archive, f"{root}byteorder") or "little"
    if byteorder not in ("little", "big"):
        raise Corrupt(f"the record byteorder says {byteorder!r}", source=source.name, expected="little or big")
    storages = Storages(source.name)
    tree, _, named = read_pickle(
        bytes(read(archive.data(f"{root}{_PICKLE}"))),
        meanings=MEANINGS,
        persistent=storages.load,
        source=source.name,
    )
    for storage in storages.found.values():
        _place(archive, f"{root}data/{storage.key}", storage, byteorder)
    facts = {
        "root": root.rstrip("/"),
        "byteorder": byteorder,
        "version": _text(archive, f"{root}version") or _text(archive, f"{root}.data/version"),
        "format_version": _text(archive, f"{root}.format_version"),
        "storage_alignment": _text(archive, f"{root}.storage_alignment"),
    }
    return checked(
        Checkpoint(
            format=FORMAT.name,
            tree=settle(tree),
            source=source.name,
            globals=named,
            metadata={name: fact for name, fact in facts.items() if fact is not None},
            close=source.close,
        )
    )


def _place(archive: Archive, name: str, storage: StorageRecord, byteorder: str) -> None:
    """Say where a storage's bytes lie."""
    if storage.device == "meta" and name not in archive.entries:
        return
    data = archive.data(name)
    if data.nbytes != storage.nbytes and storage.dtype not in ("quint4x2", "quint2x4"):
        raise Corrupt(
            f"record {name!r} has {data.nbytes:,} bytes",
            source=archive.source.name,
            expected=f"{storage.nbytes:,}",
        )
    storage.nbytes = data.nbytes
    storage.data = data
    storage.byteorder = byteorder


def _write(checkpoint: Checkpoint, target: BinaryIO, options: WriteOptions) -> Written:
    keys: dict[int, str] = {}
    untyped = untypable(checkpoint.tree)
    storages = [(storage, dtype) for _, storage, dtype in storages_of(checkpoint.tree) if storage.data is not None]

    def persistent_id(storage: StorageRecord, dtype: str | None) -> tuple[Any, ...]:
        key = keys.setdefault(id(storage), str(len(keys)))
        kind = storage_class(dtype)
        numel = storage.nbytes // (DTYPES[dtype].itemsize if dtype and DTYPES[dtype].storage else 1)
        return ("storage", kind, key, storage.device, numel)

    stream = PickleWriter(persistent_id, untyped=untyped).dumps(checkpoint.tree)
    archive = ArchiveWriter(target)
    root = options.name
    for name, content in (
        (_PICKLE, stream),
        (".format_version", b"1"),
        (".storage_alignment", b"64"),
        ("byteorder", b"little"),
    ):
        archive.add(f"{root}/{name}", [content], len(content))
    for storage, dtype in storages:
        if storage.data is not None and id(storage) in keys:
            pieces = storage.data.chunks()
            if storage.byteorder == "big":
                component = DTYPES[storage.dtype or dtype or "uint8"].component
                pieces = iter([swap(read(storage.data), component)])
            archive.add(f"{root}/data/{keys[id(storage)]}", pieces, storage.nbytes)
    archive.add(f"{root}/version", [b"3\n"], 2)
    archive.close()
    return Written()


FORMAT = Format(
    name="torch-zip",
    summary="torch.save since 1.6",
    suffixes=(".pt", ".pth", ".ckpt", ".bin"),
    asked_by=("", ".pt", ".pth", ".ckpt", ".bin", ".th", ".pkl", ".tar"),
    unpickles=True,
    detect=_detect,
    open=_open,
    write=_write,
    capabilities=Capabilities(mmap=True),
)
