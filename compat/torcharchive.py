"""What torch's zip archives share: their root folder, their small records, and where storages lie.

Source of the layout: `caffe2/serialize/inline_container.cc`, `torch/serialization.py` and
`torch/csrc/jit/serialization/export.cpp`.
"""

from __future__ import annotations

from typing import Final

from compat.data import read
from compat.errors import Corrupt
from compat.records import StorageRecord
from compat.sources import Source
from compat.zipdir import LOCAL_SIGNATURE, Archive

PICKLE: Final = "data.pkl"
CONSTANTS: Final = "constants.pkl"
CODE: Final = "code/"
_SMALL_RECORD: Final = 256
# Pickle streams of this size are read whatever they inflate from; larger ones may not have shrunk more than that.
MAX_INFLATED: Final = 16 * 1024 * 1024
_MAX_STREAM_RATIO: Final = 32
# Two values of these share a byte: their storages have fewer bytes than elements.
_PACKED: Final = ("quint4x2", "quint2x4")


def archive_of(source: Source) -> Archive | None:
    """The zip archive that a source is; None where it is none. Its directory is read once.

    Raises:
        Corrupt: it begins like an archive and has no whole directory.
    """
    if not source.head.startswith(LOCAL_SIGNATURE):
        return None
    archive = source.cache.get("archive")
    if not isinstance(archive, Archive):
        archive = source.cache["archive"] = Archive(source)
    return archive


def root_of(archive: Archive, record: str = PICKLE) -> str | None:
    """The outermost folder that holds a record, with its slash; None where none does."""
    roots = [name[: -len(record)] for name in archive.entries if name.rpartition("/")[2] == record]
    return min(roots, key=lambda root: root.count("/"), default=None)


def is_script(archive: Archive, root: str) -> bool:
    """Whether an archive is one of torch.jit.save: it has code, or a stream of the constants of that code.

    One of the two is enough: an archive that lost the other is a damaged script, and none of torch.save.
    """
    return any(name.startswith((f"{root}{CONSTANTS}", f"{root}{CODE}")) for name in archive.entries)


def small_text(archive: Archive, name: str) -> str | None:
    """The text of a small record; None where there is no such record."""
    entry = archive.entries.get(name)
    if entry is None or entry.nbytes > _SMALL_RECORD:
        return None
    return bytes(read(archive.data(name))).decode("utf-8", "replace").strip()


def stream_of(archive: Archive, name: str) -> bytes:
    """The bytes of a pickle stream.

    Raises:
        Corrupt: there is no such record, or it is a small one that inflates to hours of work.
    """
    data = archive.data(name)
    entry = archive.entries[name]
    if entry.nbytes > max(MAX_INFLATED, _MAX_STREAM_RATIO * entry.compressed):
        raise Corrupt(
            f"record {name!r} claims to inflate {entry.compressed:,} bytes to {entry.nbytes:,}",
            source=archive.source.name,
            offset=entry.header,
        )
    return bytes(read(data))


def byteorder_of(archive: Archive, root: str) -> str:
    """How the archive's storages were written; archives older than torch 2.1 do not say, and are little-endian."""
    byteorder = small_text(archive, f"{root}byteorder") or "little"
    if byteorder not in ("little", "big"):
        raise Corrupt(f"the record byteorder says {byteorder!r}", source=archive.source.name, expected="little or big")
    return byteorder


def facts_of(archive: Archive, root: str) -> dict[str, str]:
    """What an archive's small records say of it."""
    facts = {
        "root": root.rstrip("/"),
        "byteorder": small_text(archive, f"{root}byteorder"),
        "version": small_text(archive, f"{root}version") or small_text(archive, f"{root}.data/version"),
        "format_version": small_text(archive, f"{root}.format_version"),
        "storage_alignment": small_text(archive, f"{root}.storage_alignment"),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def place_storage(archive: Archive, name: str, storage: StorageRecord, byteorder: str) -> None:
    """Say in which record a storage's bytes lie.

    Raises:
        Corrupt: there is no such record, or it has another size than the stream says.
    """
    if storage.device == "meta" and name not in archive.entries:
        return
    data = archive.data(name)
    if data.nbytes != storage.nbytes and storage.dtype not in _PACKED:
        raise Corrupt(
            f"record {name!r} has {data.nbytes:,} bytes", source=archive.source.name, expected=f"{storage.nbytes:,}"
        )
    storage.nbytes = data.nbytes
    storage.data = data
    storage.byteorder = byteorder
