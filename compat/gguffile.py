"""The records of a GGUF file: typed key/values and numbers, read within bounds and written.

Source of the layout: `docs/gguf.md` and `src/gguf.cpp` of ggml, versions 2 and 3.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from compat.errors import Corrupt, Unsupported, brief
from compat.sources import Source

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
UINT32: Final = 4
STRING: Final = 8
_BOOL: Final = 7
_ARRAY: Final = 9
UINT64: Final = 10
_MAX_DEPTH: Final = 8
# What is read at once: key/values are many and small.
_WINDOW: Final = 256 * 1024
# The fewest bytes that a text takes, and an array.
_SMALLEST: Final = {STRING: 8, _ARRAY: 12}

# Value type → its code for struct and for array.
_SCALARS: Final[Mapping[int, str]] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    UINT32: "I",
    5: "i",
    6: "f",
    _BOOL: "B",
    UINT64: "Q",
    11: "q",
    12: "d",
}

# A value's type: `(type,)`; `(9, element type)` for an array; for one of arrays with their types behind it.
Kind = tuple[Any, ...]
_KINDS: Final[Mapping[int, Kind]] = {kind: (kind,) for kind in (*_SCALARS, STRING)}
_ARRAY_KINDS: Final[Mapping[int, Kind]] = {kind: (_ARRAY, kind) for kind in (*_SCALARS, STRING)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value of a key, with its type in the file."""

    value: Any
    kind: Kind


class GGUFReader:
    """Reads numbers, text and values one after the other, none larger than what is left of the file.

    Attributes:
        version: of the format; endian: `<` or `>`, as struct has it.
        position: where the next thing lies.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.position = len(MAGIC)
        self.endian = "<"
        self._window = b""
        self._begin = 0
        version = self.scalar(UINT32)
        if version not in VERSIONS and version & 0xFFFF == 0:
            self.endian, self.position = ">", len(MAGIC)
            version = self.scalar(UINT32)
        self.version = version
        self._length = struct.Struct(f"{self.endian}Q")

    def corrupt(self, seen: str, expected: str | None = None) -> Corrupt:
        """An error about this place."""
        return Corrupt(seen, source=self.source.name, offset=self.position, expected=expected)

    def _take(self, size: int) -> bytes:
        """The next bytes."""
        at = self.position - self._begin
        if at < 0 or at + size > len(self._window):
            left = self.source.size - self.position
            # Where fewer are left than asked for, the source says so.
            self._window = bytes(self.source.read(self.position, max(size, min(_WINDOW, left))))
            self._begin, at = self.position, 0
        self.position += size
        return self._window[at : at + size]

    def scalar(self, kind: int) -> Any:
        """The next number of a type."""
        form = _SCALARS.get(kind)
        if form is None:
            raise self.corrupt(f"a value has the unknown type {kind}")
        found = struct.unpack(self.endian + form, self._take(struct.calcsize(f"={form}")))[0]
        return self._boolean(found) if kind == _BOOL else found

    def _boolean(self, number: int) -> bool:
        if number > 1:
            raise self.corrupt(f"a boolean is {number}", expected="0 or 1")
        return number == 1

    def text(self) -> str:
        """The next text; bytes that are no UTF-8 survive as surrogates."""
        (length,) = self._length.unpack(self._take(8))
        return self._take(length).decode("utf-8", "surrogateescape")

    def count(self, smallest: int) -> int:
        """The next count of things that take so many bytes at least, when there is room for them."""
        count: int = self.scalar(UINT64)
        if count * smallest > self.source.size - self.position:
            raise self.corrupt(f"{count:,} things are said to follow in {self.source.size - self.position:,} bytes")
        return count

    def value(self) -> Value:
        """The next typed value."""
        value, kind = self._of(self.scalar(UINT32), 0)
        return Value(value=value, kind=kind)

    def _of(self, kind: int, depth: int) -> tuple[Any, Kind]:
        if kind == STRING:
            return self.text(), _KINDS[kind]
        if kind != _ARRAY:
            return self.scalar(kind), _KINDS[kind]
        if depth > _MAX_DEPTH:
            raise self.corrupt("arrays nest too deep", expected=f"at most {_MAX_DEPTH} levels")
        inner = self.scalar(UINT32)
        if inner in _SCALARS:
            return self._numbers(inner), _ARRAY_KINDS[inner]
        if inner not in _SMALLEST:
            raise self.corrupt(f"the elements of an array have the unknown type {inner}")
        count = self.count(_SMALLEST[inner])
        if inner == STRING:
            return [self.text() for _ in range(count)], _ARRAY_KINDS[inner]
        arrays = [self._of(_ARRAY, depth + 1) for _ in range(count)]
        return [value for value, _ in arrays], (_ARRAY, _ARRAY, *(found for _, found in arrays))

    def _numbers(self, kind: int) -> list[Any]:
        numbers = array(_SCALARS[kind])
        numbers.frombytes(self._take(self.count(numbers.itemsize) * numbers.itemsize))
        if struct.pack("=H", 1) != struct.pack(f"{self.endian}H", 1):
            numbers.byteswap()
        return [self._boolean(number) for number in numbers] if kind == _BOOL else numbers.tolist()


def packed(value: Any, kind: Kind) -> bytes:
    """A value of a type as a file has it, behind its type.

    Raises:
        Unsupported: it is none of that type.
    """
    return struct.pack("<I", kind[0]) + _bare(value, kind)


def _bare(value: Any, kind: Kind) -> bytes:
    try:
        if kind[0] == STRING:
            return packed_text(value)
        if kind[0] != _ARRAY:
            return struct.pack(f"<{_SCALARS[kind[0]]}", value)
        inner = kind[1]
        begin = struct.pack("<IQ", inner, len(value))
        if inner == STRING:
            return begin + b"".join(map(packed_text, value))
        if inner == _ARRAY:
            return begin + b"".join(_bare(item, found) for item, found in zip(value, kind[2:], strict=True))
        return begin + struct.pack(f"<{len(value)}{_SCALARS[inner]}", *value)
    except (struct.error, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Unsupported(f"the metadata has {brief(value)} as type {brief(kind)}", feature="metadata") from error


def packed_text(text: str) -> bytes:
    """Text as a file has it."""
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw
