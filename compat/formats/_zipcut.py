"""How much of a zip archive is missing that was cut short, from what stands before the cut.

The directory stands at the end, so it is gone. Each record has a header before it; torch writes its size only behind
it, in a data descriptor, but says in `data.pkl`, which comes first, how large all storages are.

Source of the layout: PKWARE's APPNOTE.TXT, sections 4.3.7, 4.3.9 and 4.3.16; the order of records:
`torch/serialization.py` (`_save`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from compat.errors import CompatError, brief
from compat.formats._looks import Look
from compat.pickles import read_pickle
from compat.rebuild import MEANINGS
from compat.sources import Source
from compat.torchfile import Storages
from compat.zipdir import LOCAL_SIGNATURE

_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")
_END: Final = struct.Struct("<4sHHHHIIH")
_END64: Final = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64_SIZE: Final = 20
_CENTRAL_SIGNATURE: Final = b"PK\x01\x02"
_DESCRIPTOR: Final = b"PK\x07\x08"
_SIZE_BEHIND: Final = 0x8
_MAX32: Final = 0xFFFFFFFF
_MAX_RECORDS: Final = 100_000
_WINDOW: Final = 1 << 20
# A pickle stream longer than this is not read only to say how much is missing.
_MAX_STREAM: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class End:
    """The record at the end of an archive.

    Attributes:
        shift: how many bytes the archive lies behind where it says it does; below zero, so many are missing.
    """

    shift: int


def find_end(source: Source) -> End | None:
    """The end of a zip archive with its directory before it; None where there is none."""
    size = min(source.size, _END.size + 0xFFFF)
    tail = bytes(source.read(source.size - size, size))
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        return None
    *_, length, start, _ = _END.unpack_from(tail, at)
    behind = source.size - size + at
    at64 = at - _LOCATOR64_SIZE - _END64.size
    if at64 >= 0 and tail[at64 : at64 + 4] == b"PK\x06\x06":
        *_, length, start = _END64.unpack_from(tail, at64)
        behind = source.size - size + at64
    directory = behind - length
    if directory < 0 or bytes(source.read(directory, min(4, source.size - directory))) != _CENTRAL_SIGNATURE:
        return None
    return End(directory - start)


@dataclass(frozen=True, slots=True)
class _Record:
    """A record's header: where its bytes begin, and their number where the header or the content says it."""

    name: str
    begin: int
    nbytes: int | None
    described: bool


def missing_of_zip(source: Source) -> Look | None:
    """Where an archive without its directory is cut, and how much of it is missing at least."""
    sizes: dict[str, int] = {}
    whole: set[str] = set()
    position, record = 0, None
    while len(whole) < _MAX_RECORDS:
        record = _record(source, position, sizes)
        if record is None:
            break
        end = _end_of(source, record)
        if end is None or end > source.size:
            break
        if record.name.endswith("/data.pkl"):
            sizes = _storages(source, record, end)
        whole.add(record.name)
        position, record = end, None
    return _verdict(source, sizes, whole, record)


def _verdict(source: Source, sizes: dict[str, int], whole: set[str], record: _Record | None) -> Look:
    there = 0 if record is None else source.size - record.begin
    expected = dict(sizes)
    if record is not None:
        expected.setdefault(record.name, max(record.nbytes or 0, there))
    missing = sum(size for name, size in expected.items() if name not in whole)
    missing -= min(there, expected[record.name]) if record is not None else 0
    where = "behind" if record is None else f"inside {brief(record.name)}, behind"
    seen = f"it is cut {where} {len(whole):,} whole records"
    if missing > 0:
        kind = " of tensors" if sizes else ""
        seen += f": at least {missing:,} bytes{kind} are missing, of {source.size + missing:,} or more in all"
    elif sizes and record is None:
        seen += ": no tensor is missing, only its directory"
    else:
        seen += ": how much is missing cannot be told"
    return Look(seen, "The file is cut short (a download or a save that did not finish); get it again.")


def _record(source: Source, position: int, sizes: dict[str, int]) -> _Record | None:
    """The record whose header stands at an offset; None where none does."""
    if position + _LOCAL.size > source.size:
        return None
    signature, _, flags, _, _, _, _, packed, nbytes, name_size, extra_size = _LOCAL.unpack(
        source.read(position, _LOCAL.size)
    )
    begin = position + _LOCAL.size + name_size + extra_size
    if signature != LOCAL_SIGNATURE or begin > source.size:
        return None
    names = bytes(source.read(position + _LOCAL.size, name_size + extra_size))
    name = names[:name_size].decode("utf-8", "replace")
    size: int | None = packed
    if _MAX32 in (packed, nbytes):
        size = _wide_size(names[name_size:], nbytes == _MAX32)
    if flags & _SIZE_BEHIND and not packed:
        size = sizes.get(name)
    return _Record(name, begin, size, bool(flags & _SIZE_BEHIND))


def _wide_size(extra: bytes, both: bool) -> int | None:
    at = 0
    while at + 4 <= len(extra):
        tag, size = struct.unpack_from("<HH", extra, at)
        if tag == 1 and size >= (16 if both else 8) and at + 4 + size <= len(extra):
            return int.from_bytes(extra[at + 4 + 8 * both : at + 12 + 8 * both], "little")
        at += 4 + size
    return None


def _end_of(source: Source, record: _Record) -> int | None:
    """Where the next header stands; None where that cannot be found before the source ends."""
    if not record.described:
        return None if record.nbytes is None else record.begin + record.nbytes
    position = record.begin + (record.nbytes or 0)
    if record.nbytes is not None and position + 24 > source.size:
        return None
    return _behind_descriptor(source, record.begin, position)


def _behind_descriptor(source: Source, begin: int, position: int) -> int | None:
    """Where the first descriptor at or behind `position` ends that states the size of the record at `begin`."""
    while position < source.size:
        window = bytes(source.read(position, min(_WINDOW, source.size - position)))
        at = window.find(_DESCRIPTOR)
        while at >= 0 and at + 24 <= len(window):
            size = position + at - begin
            for form in ("<I", "<Q"):
                if struct.unpack_from(form, window, at + 8)[0] == size:
                    end = position + at + 8 + 2 * struct.calcsize(form)
                    if bytes(source.read(end, min(2, source.size - end))) == b"PK":
                        return end
            at = window.find(_DESCRIPTOR, at + 1)
        if len(window) < _WINDOW:
            return None
        position += len(window) - 23
    return None


def _storages(source: Source, record: _Record, end: int) -> dict[str, int]:
    """The records that hold the storages that a pickle stream names, and their sizes."""
    storages = Storages(source.name)
    if end - record.begin > _MAX_STREAM:
        return {}
    try:
        stream = bytes(source.read(record.begin, end - record.begin))
        read_pickle(stream, meanings=MEANINGS, persistent=storages.load, source=source.name)
    except CompatError:
        return {}
    root = record.name.removesuffix("data.pkl")
    return {f"{root}data/{key}": storage.nbytes for key, storage in storages.found.items()}
