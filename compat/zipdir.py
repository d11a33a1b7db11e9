"""A bounded reader and a writer of the zip archives that checkpoints are.

Reading trusts no number: sizes, offsets and counts are held against the file before they are used, records
may not overlap or share a name, and each local header must agree with the directory.

Source of the layout: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5; what torch writes and accepts:
`caffe2/serialize/inline_container.cc`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, Final

from compat.data import Buffer, Data, DeflatedData, FileData
from compat.errors import Corrupt, Unsupported
from compat.sources import Source

LOCAL_SIGNATURE: Final = b"PK\x03\x04"
_CENTRAL_SIGNATURE: Final = b"PK\x01\x02"
_END_SIGNATURE: Final = b"PK\x05\x06"
_END64_SIGNATURE: Final = b"PK\x06\x06"
_LOCATOR64_SIGNATURE: Final = b"PK\x06\x07"

_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL: Final = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END: Final = struct.Struct("<4sHHHHIIH")
_END64: Final = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64: Final = struct.Struct("<4sIQI")

_MAX32: Final = 0xFFFFFFFF
_MAX16: Final = 0xFFFF
_STORED: Final = 0
_DEFLATED: Final = 8
_ENCRYPTED: Final = 0x1
_MAX_COMMENT: Final = 0xFFFF
_MAX_RATIO: Final = 1032  # deflate cannot do better: zlib's own documentation

# torch aligns every record's bytes to 64 and fills the gap with an extra field of this tag.
ALIGNMENT: Final = 64
_PADDING_TAG: Final = 0x4246  # "FB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record of an archive.

    Attributes:
        name: its full name.
        method: 0 for stored, 8 for deflated.
        crc32: the sum of its bytes; None where the writer left it out (torch can: it stores 0).
        header: where its local header begins, in bytes.
    """

    name: str
    method: int
    crc32: int | None
    compressed: int
    nbytes: int
    header: int


class Archive:
    """The directory of a zip archive, and the way to its records.

    Attributes:
        entries: every record by name, in the directory's order.
        source: the bytes it was read from.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        start, count, size = self._find_directory()
        self.entries = self._read_directory(start, count, size)
        self._refuse_overlaps()

    def corrupt(self, seen: str, offset: int | None = None, expected: str | None = None) -> Corrupt:
        """An error about this archive."""
        return Corrupt(f"the zip archive is damaged: {seen}", source=self.source.name, offset=offset, expected=expected)

    def _find_directory(self) -> tuple[int, int, int]:
        """Where the central directory begins, how many entries and how many bytes it has."""
        tail_size = min(self.source.size, _END.size + _MAX_COMMENT)
        tail_start = self.source.size - tail_size
        tail = bytes(self.source.read(tail_start, tail_size))
        at = tail.rfind(_END_SIGNATURE)
        if at < 0 or at + _END.size > len(tail):
            raise Corrupt(
                "is a zip archive without its directory, which stands at the end",
                source=self.source.name,
                offset=self.source.size,
                hint="The file is cut short (a download or a save that did not finish); get it again.",
            )
        _, disk, _, _, count, size, start, _ = _END.unpack_from(tail, at)
        if disk not in (0, _MAX16):
            raise self.corrupt("it is one of several volumes", tail_start + at)
        if count == _MAX16 or _MAX32 in (size, start):
            count, size, start = self._find_directory64(tail, at, tail_start, (count, size, start))
        if start + size > tail_start + at:
            raise self.corrupt(f"its directory is said to lie at {start:,} with {size:,} bytes", tail_start + at)
        return start, count, size

    def _find_directory64(
        self, tail: bytes, at: int, tail_start: int, plain: tuple[int, int, int]
    ) -> tuple[int, int, int]:
        locator = at - _LOCATOR64.size
        if locator < 0 or tail[locator : locator + 4] != _LOCATOR64_SIGNATURE:
            return plain
        _, _, position, _ = _LOCATOR64.unpack_from(tail, locator)
        if position + _END64.size > self.source.size:
            raise self.corrupt("its zip64 record lies outside the file", tail_start + locator)
        fields = _END64.unpack(self.source.read(position, _END64.size))
        if fields[0] != _END64_SIGNATURE:
            raise self.corrupt("its zip64 record is missing", position)
        return fields[7], fields[8], fields[9]

    def _read_directory(self, start: int, count: int, size: int) -> dict[str, Entry]:
        directory = bytes(self.source.read(start, size))
        entries: dict[str, Entry] = {}
        position = 0
        for _ in range(count):
            if position + _CENTRAL.size > size or directory[position : position + 4] != _CENTRAL_SIGNATURE:
                raise self.corrupt(f"its directory ends after {len(entries):,} entries", start + position, f"{count:,}")
            entry, position = self._entry(directory, position, start)
            if entry.name in entries:
                raise self.corrupt(f"two records are named {entry.name!r}", start + position)
            entries[entry.name] = entry
        if position != size:
            raise self.corrupt(f"its directory goes on behind its {count:,} entries", start + position)
        return entries

    def _entry(self, directory: bytes, position: int, start: int) -> tuple[Entry, int]:
        (_, _, _, flags, method, _, _, crc, compressed, nbytes, name_size, extra_size, comment_size, _, _, _,
         header) = _CENTRAL.unpack_from(directory, position)  # fmt: skip
        name_at = position + _CENTRAL.size
        extra_at = name_at + name_size
        following = extra_at + extra_size + comment_size
        if following > len(directory):
            raise self.corrupt("an entry of its directory is cut short", start + position)
        name = directory[name_at:extra_at].decode("utf-8", "surrogateescape")
        if _MAX32 in (nbytes, compressed, header):
            extra = directory[extra_at : extra_at + extra_size]
            nbytes, compressed, header = self._zip64(extra, nbytes, compressed, header, start + position)
        if flags & _ENCRYPTED:
            raise Unsupported(
                f"record {name!r} is encrypted",
                feature="encryption",
                source=self.source.name,
                hint="Decrypt it first.",
            )
        self._check_sizes(name, method, compressed, nbytes, header)
        known = crc if crc or not nbytes else None
        return Entry(
            name=name, method=method, crc32=known, compressed=compressed, nbytes=nbytes, header=header
        ), following

    def _zip64(self, extra: bytes, nbytes: int, compressed: int, header: int, offset: int) -> tuple[int, int, int]:
        at = 0
        while at + 4 <= len(extra):
            tag, size = struct.unpack_from("<HH", extra, at)
            if tag == 1:
                values = [v for (v,) in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + size // 8 * 8])]
                wanted = [nbytes == _MAX32, compressed == _MAX32, header == _MAX32]
                if len(values) < sum(wanted):
                    break
                found = iter(values)
                given = (nbytes, compressed, header)
                first, second, third = (next(found) if w else v for w, v in zip(wanted, given, strict=True))
                return first, second, third
            at += 4 + size
        raise self.corrupt("an entry's zip64 sizes are missing", offset)

    def _check_sizes(self, name: str, method: int, compressed: int, nbytes: int, header: int) -> None:
        if method not in (_STORED, _DEFLATED):
            raise Unsupported(
                f"record {name!r} is compressed by method {method}",
                feature="compression",
                source=self.source.name,
                expected="stored or deflated records",
            )
        if header + _LOCAL.size + compressed > self.source.size:
            raise self.corrupt(f"record {name!r} lies outside the file", header)
        if method == _STORED and compressed != nbytes:
            raise self.corrupt(f"record {name!r} has {compressed:,} bytes", header, f"{nbytes:,}")
        if method == _DEFLATED and nbytes > compressed * _MAX_RATIO + ALIGNMENT:
            raise self.corrupt(f"record {name!r} claims to inflate {compressed:,} bytes to {nbytes:,}", header)

    def _refuse_overlaps(self) -> None:
        end, last = 0, ""
        for entry in sorted(self.entries.values(), key=lambda entry: entry.header):
            if entry.header < end:
                raise self.corrupt(f"records {last!r} and {entry.name!r} overlap", entry.header)
            end, last = entry.header + _LOCAL.size + entry.compressed, entry.name

    def data(self, name: str) -> Data:
        """Where a record's bytes lie.

        Raises:
            Corrupt: there is no such record, or its local header disagrees with the directory.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise self.corrupt(f"record {name!r} is missing")
        offset = self._data_offset(entry)
        if entry.method == _STORED:
            return FileData(source=self.source, offset=offset, nbytes=entry.nbytes, crc32=entry.crc32)
        return DeflatedData(
            source=self.source,
            offset=offset,
            compressed=entry.compressed,
            nbytes=entry.nbytes,
            crc32=entry.crc32,
        )

    def _data_offset(self, entry: Entry) -> int:
        header = self.source.read(entry.header, _LOCAL.size)
        signature, _, _, method, _, _, _, _, _, name_size, extra_size = _LOCAL.unpack(header)
        name = bytes(self.source.read(entry.header + _LOCAL.size, name_size)) if signature == LOCAL_SIGNATURE else b""
        if method != entry.method or name.decode("utf-8", "surrogateescape") != entry.name:
            raise self.corrupt(f"record {entry.name!r} and its local header disagree", entry.header)
        offset = entry.header + _LOCAL.size + int(name_size) + int(extra_size)
        if offset + entry.compressed > self.source.size:
            raise self.corrupt(f"record {entry.name!r} lies outside the file", offset)
        return offset


class ArchiveWriter:
    """Write stored records, aligned as torch aligns them, with their sums; every date is 1980-01-01.

    The target must be seekable: a record's sum is known only after its bytes were streamed.
    """

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self._position = 0
        self._entries: list[tuple[bytes, int, int, int]] = []

    def add(self, name: str, pieces: Iterable[Buffer], nbytes: int) -> None:
        """Write one record of exactly `nbytes` bytes."""
        encoded = name.encode("utf-8", "surrogateescape")
        start = self._position
        big = nbytes >= _MAX32
        zip64 = struct.pack("<HHQQ", 1, 16, nbytes, nbytes) if big else b""
        unpadded = start + _LOCAL.size + len(encoded) + len(zip64) + 4
        gap = -unpadded % ALIGNMENT
        extra = zip64 + struct.pack("<HH", _PADDING_TAG, gap) + b"Z" * gap
        self._write(self._local(encoded, extra, 0, nbytes, big=big) + encoded + extra)
        total = 0
        for piece in pieces:
            total = zlib.crc32(piece, total)
            self._write(piece)
        if self._position != unpadded + gap + nbytes:
            raise Corrupt(f"record {name!r} has {self._position - unpadded - gap:,} bytes", expected=f"{nbytes:,}")
        self._target.seek(start)
        self._target.write(self._local(encoded, extra, total, nbytes, big=big))
        self._target.seek(self._position)
        self._entries.append((encoded, start, total, nbytes))

    @staticmethod
    def _local(name: bytes, extra: bytes, crc: int, nbytes: int, *, big: bool) -> bytes:
        shown = _MAX32 if big else nbytes
        return _LOCAL.pack(
            LOCAL_SIGNATURE,
            45 if big else 20,
            0x800,
            _STORED,
            0,
            0x21,
            crc,
            shown,
            shown,
            len(name),
            len(extra),
        )

    def _write(self, piece: Buffer) -> None:
        self._target.write(piece)
        self._position += memoryview(piece).nbytes

    def close(self) -> None:
        """Write the directory."""
        start = self._position
        for name, header, crc, nbytes in self._entries:
            wide = [value for value in (nbytes, nbytes, header) if value >= _MAX32]
            extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
            shown = min(nbytes, _MAX32)
            self._write(
                _CENTRAL.pack(
                    _CENTRAL_SIGNATURE, 45 if wide else 20, 45 if wide else 20, 0x800, _STORED, 0, 0x21, crc,
                    shown, shown, len(name), len(extra), 0, 0, 0, 0, min(header, _MAX32),
                )
                + name
                + extra
            )  # fmt: skip
        size = self._position - start
        count = len(self._entries)
        if count >= _MAX16 or start >= _MAX32 or size >= _MAX32:
            end64 = self._position
            self._write(_END64.pack(_END64_SIGNATURE, 44, 45, 45, 0, 0, count, count, size, start))
            self._write(_LOCATOR64.pack(_LOCATOR64_SIGNATURE, 0, end64, 1))
        shown_count = min(count, _MAX16)
        self._write(_END.pack(_END_SIGNATURE, 0, 0, shown_count, shown_count, min(size, _MAX32), min(start, _MAX32), 0))
