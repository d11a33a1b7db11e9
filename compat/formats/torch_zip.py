"""`torch-zip`: what `torch.save` writes since 1.6, and the opt-in zip files of 1.4 and 1.5.

- kept: everything that the neutral model holds, exactly: dtypes, strides, offsets, shared storages, device
  tags, Parameters, `_metadata`, extras, opaque objects.
- read: any root folder name, stored and deflated records, storages with and without a type; pickle protocols
  0 to 5 and what Python 2 wrote; `byteorder`, by which elements are swapped by the width they are shown with.
- read too where torch does: bytes before the first record, as long as they begin like one.
- checked: the directory, local headers, sums of the records that are read, sizes and bounds of all tensors.
- written: protocol 2 stream, records aligned to 64 bytes, CRC-32 of every record.

Source of the layout: `torch/serialization.py` (`_save`, `_load`) and `caffe2/serialize/inline_container.cc`.
"""

from __future__ import annotations

from typing import Any, BinaryIO

from compat.checkpoint import Checkpoint, StorageRecord
from compat.data import read
from compat.dtypes import DTYPES
from compat.formats._format import Capabilities, Format, WriteOptions, Written
from compat.pickles import PickleWriter, read_pickle
from compat.pickles.writer import storage_class
from compat.rebuild import MEANINGS, settle
from compat.sources import Source
from compat.strided import swap
from compat.torcharchive import PICKLE, archive_of, byteorder_of, facts_of, is_script, place_storage, root_of, stream_of
from compat.torchfile import Storages, checked, storages_of, untypable
from compat.zipdir import Archive, ArchiveWriter


def _detect(source: Source) -> bool:
    archive = archive_of(source)
    root = None if archive is None else root_of(archive)
    return archive is not None and root is not None and not is_script(archive, root)


def _open(source: Source) -> Checkpoint:
    archive = Archive(source) if (known := archive_of(source)) is None else known
    root = root_of(archive) or ""
    byteorder = byteorder_of(archive, root)
    storages = Storages(source.name)
    tree, _, named = read_pickle(
        stream_of(archive, f"{root}{PICKLE}"),
        meanings=MEANINGS,
        persistent=storages.load,
        source=source.name,
    )
    # torch 1.4 put the tensors into another folder; every later torch fails on its files.
    folder = "tensors" if any(name.startswith(f"{root}tensors/") for name in archive.entries) else "data"
    for storage in storages.found.values():
        place_storage(archive, f"{root}{folder}/{storage.key}", storage, byteorder)
    return checked(
        Checkpoint(
            format=FORMAT.name,
            tree=settle(tree),
            source=source.name,
            globals=named,
            metadata={"byteorder": byteorder, **facts_of(archive, root)},
            close=source.close,
        )
    )


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
        (PICKLE, stream),
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
