"""The records of a GGUF file: typed key/values and tensor descriptions, read within bounds and written.

Source of the layout: `docs/gguf.md` and `ggml/include/ggml.h` of ggml, versions 2 and 3.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from compat.errors import Corrupt, Unsupported, brief
from compat.sources import Source

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
# Names as ggml keeps them: 64 bytes with the closing zero.
MAX_NAME: Final = 63
MAX_DIMS: Final = 4
_MAX_DEPTH: Final = 8
_STRING: Final = 8
_ARRAY: Final = 9

# Value type → its format for struct.
_SCALARS: Final[Mapping[int, str]] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockType:
    """How a type of ggml packs elements: `elements` of them into `nbytes` bytes; `dtype` where torch has it."""

    name: str
    number: int
    elements: int
    nbytes: int
    dtype: str | None = None


# name, number, elements per block, bytes per block, dtype. Source: ggml_type and type_traits in ggml.c.
_ROWS: Final = (
    ("F32", 0, 1, 4, "float32"),
    ("F16", 1, 1, 2, "float16"),
    ("Q4_0", 2, 32, 18, None),
    ("Q4_1", 3, 32, 20, None),
    ("Q5_0", 6, 32, 22, None),
    ("Q5_1", 7, 32, 24, None),
    ("Q8_0", 8, 32, 34, None),
    ("Q8_1", 9, 32, 40, None),
    ("Q2_K", 10, 256, 84, None),
    ("Q3_K", 11, 256, 110, None),
    ("Q4_K", 12, 256, 144, None),
    ("Q5_K", 13, 256, 176, None),
    ("Q6_K", 14, 256, 210, None),
    ("Q8_K", 15, 256, 292, None),
    ("IQ2_XXS", 16, 256, 66, None),
    ("IQ2_XS", 17, 256, 74, None),
    ("IQ3_XXS", 18, 256, 98, None),
    ("IQ1_S", 19, 256, 50, None),
    ("IQ4_NL", 20, 32, 18, None),
    ("IQ3_S", 21, 256, 110, None),
    ("IQ2_S", 22, 256, 82, None),
    ("IQ4_XS", 23, 256, 136, None),
    ("I8", 24, 1, 1, "int8"),
    ("I16", 25, 1, 2, "int16"),
    ("I32", 26, 1, 4, "int32"),
    ("I64", 27, 1, 8, "int64"),
    ("F64", 28, 1, 8, "float64"),
    ("IQ1_M", 29, 256, 56, None),
    ("BF16", 30, 1, 2, "bfloat16"),
    ("TQ1_0", 34, 256, 54, None),
    ("TQ2_0", 35, 256, 66, None),
    ("MXFP4", 39, 32, 17, None),
    ("NVFP4", 40, 64, 36, None),
    ("Q1_0", 41, 128, 18, None),
)
TYPES: Final = {
    number: BlockType(name=name, number=number, elements=elements, nbytes=nbytes, dtype=dtype)
    for name, number, elements, nbytes, dtype in _ROWS
}
BY_NAME: Final = {found.name: found for found in TYPES.values()}
BY_DTYPE: Final = {found.dtype: found for found in TYPES.values() if found.dtype}


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value of a key, with its type in the file: `(type,)`, or `(9, element type)` for an array."""

    value: Any
    kind: tuple[int, ...]


class GGUFReader:
    """Reads numbers, text and values one after the other, none larger than what is left of the file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.position = len(MAGIC)
        self.endian = "<"
        version = self.scalar(4)
        if version not in VERSIONS and version & 0xFFFF == 0:
            self.endian, self.position = ">", len(MAGIC)
            version = self.scalar(4)
        self.version = version

    def corrupt(self, seen: str) -> Corrupt:
        """An error about this place."""
        return Corrupt(seen, source=self.source.name, offset=self.position)

    def scalar(self, kind: int) -> Any:
        """The next number of a type."""
        form = _SCALARS.get(kind)
        if form is None:
            raise self.corrupt(f"a value has the unknown type {kind}")
        size = struct.calcsize(form)
        raw = self.source.read(self.position, size)
        self.position += size
        return struct.unpack(self.endian + form, raw)[0]

    def text(self) -> str:
        """The next text."""
        length = self.scalar(10)
        raw = bytes(self.source.read(self.position, length))
        self.position += length
        return raw.decode("utf-8", "surrogateescape")

    def count(self, smallest: int) -> int:
        """The next count of things that take so many bytes at least, when there is room for them."""
        count: int = self.scalar(10)
        if count * smallest > self.source.size - self.position:
            raise self.corrupt(f"{count:,} things are said to follow in {self.source.size - self.position:,} bytes")
        return count

    def value(self, depth: int = 0) -> Value:
        """The next typed value."""
        return self._of(self.scalar(4), depth)

    def _of(self, kind: int, depth: int) -> Value:
        if kind == _STRING:
            return Value(value=self.text(), kind=(kind,))
        if kind != _ARRAY:
            return Value(value=self.scalar(kind), kind=(kind,))
        if depth > _MAX_DEPTH:
            raise self.corrupt("arrays nest too deep")
        inner = self.scalar(4)
        if inner in _SCALARS:
            size = struct.calcsize(_SCALARS[inner])
            count = self.count(size)
            raw = self.source.read(self.position, count * size)
            self.position += count * size
            return Value(value=list(struct.unpack(f"{self.endian}{count}{_SCALARS[inner]}", raw)), kind=(kind, inner))
        count = self.count(8)
        items = [self._of(inner, depth + 1) for _ in range(count)]
        return Value(value=[item.value for item in items], kind=(kind, inner))


def packed(found: Value) -> bytes:
    """A typed value as a file has it.

    Raises:
        Unsupported: it is an array of arrays, whose element types are not known any more.
    """
    kind = found.kind[0]
    if kind == _ARRAY:
        inner = found.kind[1]
        if inner == _ARRAY:
            raise Unsupported("an array of arrays among the metadata", feature="metadata")
        body = b"".join(_bare(inner, item) for item in found.value)
        return struct.pack("<IIQ", kind, inner, len(found.value)) + body
    return struct.pack("<I", kind) + _bare(kind, found.value)


def _bare(kind: int, value: Any) -> bytes:
    try:
        return packed_text(value) if kind == _STRING else struct.pack(f"<{_SCALARS[kind]}", value)
    except (struct.error, KeyError, TypeError) as error:
        raise Unsupported(f"the metadata has {brief(value)} as type {kind}", feature="metadata") from error


def packed_text(text: str) -> bytes:
    """Text as a file has it."""
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw
