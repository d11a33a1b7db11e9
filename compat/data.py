"""Where a storage's bytes lie, and how to get at them without reading more than asked.

Every kind offers the same three things: `nbytes`, `read()` for all of them at once and `chunks()` for a
stream in constant memory. Sums are checked whenever the bytes are read whole, in either way.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from compat.errors import Corrupt

if TYPE_CHECKING:
    from compat.sources import Source

# Larger pieces fall out of the processor's caches, smaller ones pay for system calls.
CHUNK: Final = 256 * 1024

# A deflated stream is never much longer than what it inflates to, but begins with tables.
_DEFLATED_TABLES: Final = 1024

Buffer = bytes | bytearray | memoryview


class Data(Protocol):
    """The bytes of one storage."""

    @property
    def nbytes(self) -> int:
        """How many bytes there are."""
        ...

    def chunks(self) -> Iterator[Buffer]:
        """The bytes in order, in pieces that are valid until the next one is asked for."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryData:
    """Bytes that are already in memory, for instance those of a live tensor."""

    buffer: Buffer

    @property
    def nbytes(self) -> int:
        """How many bytes there are."""
        return memoryview(self.buffer).nbytes

    def chunks(self) -> Iterator[Buffer]:
        """The whole buffer, once, without a copy."""
        if self.nbytes:
            yield self.buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class FileData:
    """Bytes that lie in one piece in a source.

    Attributes:
        crc32: the sum they must have; None where the file has none.
    """

    source: Source
    offset: int
    nbytes: int
    crc32: int | None = None

    def chunks(self) -> Iterator[Buffer]:
        """The bytes in pieces of `CHUNK`.

        Raises:
            Corrupt: the source is shorter than it was, or the sum is wrong.
        """
        total = 0
        for piece in self.source.chunks(self.offset, self.nbytes):
            if self.crc32 is not None:
                total = zlib.crc32(piece, total)
            yield piece
        check_sum(self, total)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeflatedData:
    """Bytes that lie compressed in a source; inflating stops at the size that was declared."""

    source: Source
    offset: int
    compressed: int
    nbytes: int
    crc32: int | None = None

    def chunks(self) -> Iterator[Buffer]:
        """The inflated bytes in pieces of about `CHUNK`.

        Raises:
            Corrupt: the stream is damaged, has another size than declared, or its sum is wrong.
        """
        inflater = zlib.decompressobj(-15)
        total, count = 0, 0
        try:
            for packed in self.source.chunks(self.offset, self.compressed):
                rest: Buffer = packed
                while rest:
                    piece = inflater.decompress(rest, CHUNK)
                    rest = inflater.unconsumed_tail
                    count += len(piece)
                    if count > self.nbytes:
                        raise self._wrong_size(f"more than {self.nbytes:,}")
                    total = zlib.crc32(piece, total)
                    if piece:
                        yield piece
                    elif not rest:
                        break
        except zlib.error as error:
            raise _damaged(self, error) from error
        if count != self.nbytes:
            raise self._wrong_size(f"{count:,}")
        check_sum(self, total)

    def _wrong_size(self, seen: str) -> Corrupt:
        return Corrupt(
            f"a deflated record holds {seen} bytes",
            expected=f"{self.nbytes:,}",
            source=self.source.name,
            offset=self.offset,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicedData:
    """A part of other bytes, as legacy files have it for views of storages."""

    parent: Data
    offset: int
    nbytes: int

    def chunks(self) -> Iterator[Buffer]:
        """The part's bytes; the parent is streamed and what lies outside is dropped."""
        position, end = 0, self.offset + self.nbytes
        for piece in self.parent.chunks():
            view = memoryview(piece)
            begin, stop = max(self.offset - position, 0), min(end - position, view.nbytes)
            if begin < stop:
                yield view[begin:stop]
            position += view.nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatteredData:
    """Bytes put together from the contiguous copies of the tensors that once shared them.

    Attributes:
        parts: each copy with the itemsize, shape, stride and offset (in elements) it is scattered by.
    """

    nbytes: int
    parts: Sequence[tuple[Data, int, tuple[int, ...], tuple[int, ...], int]]

    def chunks(self) -> Iterator[Buffer]:
        """All bytes at once: scattering needs the whole target. What no tensor shows is zero."""
        from compat.strided import scatter

        target = bytearray(self.nbytes)
        for data, itemsize, shape, stride, offset in self.parts:
            scatter(read(data), target, itemsize=itemsize, shape=shape, stride=stride, offset=offset)
        if target:
            yield target


def first(data: Data, size: int) -> bytes:
    """The first bytes, at most `size`, without reading much more; their sum is not checked.

    Raises:
        Corrupt: they are not there, or no deflated stream.
    """
    size = min(size, data.nbytes)
    if isinstance(data, FileData):
        return bytes(data.source.read(data.offset, size))
    if not isinstance(data, DeflatedData):
        return bytes(next(iter(data.chunks()), b"")[:size])
    packed = data.source.read(data.offset, min(size + _DEFLATED_TABLES, data.compressed))
    try:
        return zlib.decompressobj(-15).decompress(packed, size) if size else b""
    except zlib.error as error:
        raise _damaged(data, error) from error


def _damaged(data: DeflatedData, error: zlib.error) -> Corrupt:
    return Corrupt(f"a deflated record is damaged: {error}", source=data.source.name, offset=data.offset)


def read(data: Data) -> Buffer:
    """All bytes in one buffer: the buffer itself where they are in memory, else a fresh writable one.

    Raises:
        Corrupt: the bytes are not all there, or their sum is wrong.
    """
    if isinstance(data, MemoryData):
        return data.buffer
    target = bytearray(data.nbytes)
    read_into(data, memoryview(target))
    return target


def read_into(data: Data, target: memoryview) -> None:
    """Fill `target`, which has `data.nbytes` bytes.

    Raises:
        Corrupt: the bytes are not all there, or their sum is wrong.
    """
    if isinstance(data, FileData):
        data.source.read_into(data.offset, target)
        check_sum(data, zlib.crc32(target) if data.crc32 is not None else 0)
        return
    position = 0
    for piece in data.chunks():
        size = memoryview(piece).nbytes
        target[position : position + size] = memoryview(piece).cast("B")
        position += size
    if position != target.nbytes:
        raise Corrupt(f"a record holds {position:,} bytes", expected=f"{target.nbytes:,}")


def check_sum(data: FileData | DeflatedData, total: int) -> None:
    """Compare a computed CRC-32 with the one the file states.

    Raises:
        Corrupt: they differ.
    """
    if data.crc32 is not None and total != data.crc32:
        raise Corrupt(
            f"a record's bytes have the CRC-32 {total:#010x}",
            expected=f"{data.crc32:#010x} as the archive says",
            source=data.source.name,
            offset=data.offset,
            hint="The bytes were changed after they were written. Get the file again.",
        )
