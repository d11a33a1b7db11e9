"""Read the fields of protocol buffer messages where they lie in a source, without loading what is skipped.

Source of the encoding: the Protocol Buffers documentation, "Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from compat.errors import Corrupt
from compat.sources import Source

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5
_WINDOW: Final = 64 * 1024
_MAX_VARINT: Final = 10


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message.

    Attributes:
        number: which one; wire: how it is encoded.
        value: the number itself, for those that are numbers.
        start, end: where its content lies in the source, for those that are bytes.
    """

    number: int
    wire: int
    value: int = 0
    start: int = 0
    end: int = 0


class Reader:
    """Walks messages in a source through a window, so that small fields cost no system call each."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._start = 0
        self._window = b""

    def _bytes(self, offset: int, size: int) -> bytes:
        if not (self._start <= offset and offset + size <= self._start + len(self._window)):
            self._start = offset
            self._window = bytes(self.source.read(offset, min(_WINDOW, self.source.size - offset)))
        return self._window[offset - self._start : offset - self._start + size]

    def varint(self, offset: int, end: int) -> tuple[int, int]:
        """The number at `offset`, and the offset behind it."""
        value = 0
        for index, byte in enumerate(self._bytes(offset, min(_MAX_VARINT, end - offset))):
            value |= (byte & 0x7F) << (7 * index)
            if not byte & 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, offset + index + 1
        raise Corrupt("a number of the message does not end", source=self.source.name, offset=offset)

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message that lies from `start` to `end`, in order.

        Raises:
            Corrupt: a field is malformed or reaches behind `end`.
        """
        while start < end:
            tag, position = self.varint(start, end)
            number, wire = tag >> 3, tag & 7
            if wire == VARINT:
                value, following = self.varint(position, end)
                field = Field(number, wire, value)
            elif wire == BYTES:
                size, position = self.varint(position, end)
                following = position + size
                field = Field(number, wire, 0, position, following)
            elif wire in (FIXED32, FIXED64):
                following = position + (4 if wire == FIXED32 else 8)
                field = Field(number, wire, 0, position, following)
            else:
                raise Corrupt(f"field {number} has the wire type {wire}", source=self.source.name, offset=start)
            if following > end or number == 0:
                raise Corrupt(f"field {number} reaches behind its message", source=self.source.name, offset=start)
            yield field
            start = following

    def content(self, field: Field) -> bytes:
        """The bytes of a field."""
        return bytes(self.source.read(field.start, field.end - field.start))

    def text(self, field: Field) -> str:
        """The text of a field."""
        return self.content(field).decode("utf-8", "surrogateescape")

    def numbers(self, field: Field) -> list[int]:
        """The numbers of a repeated field, packed or not."""
        if field.wire == VARINT:
            return [field.value]
        found = []
        position = field.start
        while position < field.end:
            value, position = self.varint(position, field.end)
            found.append(value)
        return found


def signed(value: int) -> int:
    """A varint's 64 bits as a signed number."""
    number: int = struct.unpack("<q", struct.pack("<Q", value))[0]
    return number
