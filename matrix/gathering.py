"""The bytes a tensor shows, gathered from its storage by shape, stride and offset; and where two differ."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import prod
from typing import Final, Literal

from matrix.nodes import TensorNode
from matrix.peer import ITEMSIZES

# The memoryview formats whose slices step over elements of a width in C.
_STEPPED: Final[dict[int, Literal["B", "H", "I", "Q"]]] = {1: "B", 2: "H", 4: "I", 8: "Q"}

_DECODED: Final = {
    "float64": "<d",
    "float32": "<f",
    "float16": "<e",
    "int64": "<q",
    "int32": "<i",
    "int16": "<h",
    "int8": "<b",
    "uint64": "<Q",
    "uint32": "<I",
    "uint16": "<H",
    "uint8": "<B",
    "complex128": "<2d",
    "complex64": "<2f",
    "complex32": "<2e",
}

_CHUNK: Final = 1 << 16


def visible(tensor: TensorNode, data: bytes) -> bytes:
    """Return the elements a tensor shows, in logical (row-major) order, as raw bytes."""
    itemsize = ITEMSIZES[tensor.dtype]
    if 0 in tensor.shape:
        return b""
    dims = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride, strict=True) if size != 1]
    start = tensor.storage_offset * itemsize
    last = start + (sum((size - 1) * stride for size, stride in dims) + 1) * itemsize
    if last > len(data):
        raise ValueError(
            f"a tensor of shape {list(tensor.shape)} and stride {list(tensor.stride)} ends at byte {last}, "
            f"expected at most {len(data)}: its storage is too short"
        )
    block = 1  # how many elements lie behind each other, in order
    while dims and dims[-1][1] == block:
        block *= dims.pop()[0]
    if not dims:
        return data[start : start + block * itemsize]
    view = memoryview(data)
    size, stride = dims[-1]
    if block == 1 and itemsize in _STEPPED and stride:
        dims.pop()
        whole = view[start : start + (last - start) // itemsize * itemsize].cast(_STEPPED[itemsize])
        stop = (size - 1) * stride + 1
        return b"".join(whole[at : at + stop : stride].tobytes() for at in _starts(dims))
    return b"".join(view[start + at * itemsize : start + (at + block) * itemsize] for at in _starts(dims))


def _starts(dims: list[tuple[int, int]]) -> Iterator[int]:
    """Yield the element offsets that outer dimensions reach, in row-major order."""
    if not dims:
        yield 0
        return
    (size, stride), inner = dims[0], dims[1:]
    for index in range(size):
        for at in _starts(inner):
            yield index * stride + at


def resolved(tensor: TensorNode, data: bytes) -> bytes:
    """Return the values that bytes with torch's lazy conjugation and negation bits stand for."""
    itemsize = ITEMSIZES[tensor.dtype]
    is_complex = tensor.dtype.startswith("complex")
    width = itemsize // 2 if is_complex else itemsize
    out = bytearray(data)
    for at in range(0, len(out), width):
        imaginary = is_complex and at % itemsize == width
        if tensor.neg == (tensor.conj and imaginary):
            continue
        if "float" in tensor.dtype or is_complex:
            out[at + width - 1] ^= 0x80
        else:
            value = int.from_bytes(out[at : at + width], "little")
            out[at : at + width] = (-value % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(out)


def differs(expected: bytes, actual: bytes, dtype: str, shape: tuple[int, ...]) -> tuple[str, str] | None:
    """Return how to say what was expected and seen at the first byte that differs, or None if none does."""
    if expected == actual:
        return None
    common = min(len(expected), len(actual))
    first = _first(expected, actual, common)
    if first == common:
        return f"{len(expected)} bytes", f"{len(actual)} bytes"
    itemsize = ITEMSIZES[dtype]
    element = first // itemsize
    spot = f"at byte {first} of {len(expected)}"
    if shape and prod(shape) * itemsize == len(expected):
        spot += f", element {_index(element, shape)}"
    sides = [bytes(side[element * itemsize : (element + 1) * itemsize]) for side in (expected, actual)]
    return f"{_decoded(dtype, sides[0])} {spot}", _decoded(dtype, sides[1])


def _first(expected: bytes, actual: bytes, common: int) -> int:
    for start in range(0, common, _CHUNK):
        stop = min(start + _CHUNK, common)
        if expected[start:stop] != actual[start:stop]:
            return next(at for at in range(start, stop) if expected[at] != actual[at])
    return common


def _index(element: int, shape: tuple[int, ...]) -> list[int]:
    index = []
    for size in reversed(shape):
        element, place = divmod(element, size)
        index.append(place)
    return index[::-1]


def _decoded(dtype: str, raw: bytes) -> str:
    """Return an element's bytes, and its value where the standard library can tell it."""
    text = f"{raw.hex()} ({dtype}"
    if dtype == "bfloat16" and len(raw) == ITEMSIZES[dtype]:
        return f"{text} {struct.unpack('<f', bytes(2) + raw)[0]!r})"
    form = _DECODED.get(dtype)
    if form is None or struct.calcsize(form) != len(raw):
        return f"{text})"
    values = struct.unpack(form, raw)
    return f"{text} {values[0]!r})" if len(values) == 1 else f"{text} {complex(*values)!r})"
