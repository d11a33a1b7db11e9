"""Gather strided elements into contiguous bytes and scatter them back, with the standard library alone.

Shapes, strides and offsets count elements; buffers are bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Final, Literal

from compat.checkpoint import TensorRecord, is_contiguous
from compat.data import Buffer, FileData, MemoryData, read

# Unsigned machine words: elements are moved, never interpreted.
_CODES: Final[dict[int, Literal["B", "H", "I", "Q"]]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


def _runs(shape: Sequence[int], stride: Sequence[int], offset: int) -> Iterator[int]:
    """The offset, in elements, of the first element of each innermost run, in order."""
    outer = [range(0, n * s, s) if s else [0] * n for n, s in zip(shape[:-1], stride[:-1], strict=True)]
    for steps in product(*outer):
        yield offset + sum(steps)


def _normal(
    itemsize: int, shape: Sequence[int], stride: Sequence[int], offset: int
) -> tuple[int, tuple[int, ...], tuple[int, ...], int]:
    """At least one dimension, and elements that a machine word holds (16-byte ones become pairs)."""
    shape, stride = tuple(shape) or (1,), tuple(stride) or (1,)
    if itemsize not in _CODES:
        half = itemsize // 2
        return _normal(half, (*shape, 2), (*(2 * s for s in stride), 1), 2 * offset)
    return itemsize, shape, stride, offset


def gather(source: Buffer, *, itemsize: int, shape: Sequence[int], stride: Sequence[int], offset: int) -> Buffer:
    """The elements in logical order, as contiguous bytes."""
    view = memoryview(source).cast("B")
    if is_contiguous(shape, stride):
        begin = offset * itemsize
        return view[begin : begin + prod(shape) * itemsize] if prod(shape) else b""
    itemsize, shape, stride, offset = _normal(itemsize, shape, stride, offset)
    words = view[: view.nbytes // itemsize * itemsize].cast(_CODES[itemsize])
    length, step = shape[-1], stride[-1]
    if step == 0:
        return b"".join(bytes(words[at : at + 1]) * length for at in _runs(shape, stride, offset))
    reach = (length - 1) * step + 1
    return b"".join(words[at : at + reach : step].tobytes() for at in _runs(shape, stride, offset))


def scatter(
    source: Buffer,
    target: bytearray,
    *,
    itemsize: int,
    shape: Sequence[int],
    stride: Sequence[int],
    offset: int,
) -> None:
    """Write contiguous elements to where a shape, a stride and an offset say: the inverse of `gather`."""
    if prod(shape) == 0:
        return
    itemsize, shape, stride, offset = _normal(itemsize, shape, stride, offset)
    code = _CODES[itemsize]
    words = memoryview(source).cast("B").cast(code)
    into = memoryview(target)[: len(target) // itemsize * itemsize].cast(code)
    length, step = shape[-1], stride[-1]
    for index, at in enumerate(_runs(shape, stride, offset)):
        run = words[index * length : (index + 1) * length]
        if step == 0:
            into[at] = run[length - 1]
        elif step == 1:
            into[at : at + length] = run
        else:
            for place in range(length):
                into[at + place * step] = run[place]


def swap(buffer: Buffer, component: int) -> Buffer:
    """The bytes with each unit of `component` bytes reversed, as between big and little endian."""
    if component == 1:
        return buffer
    view = memoryview(buffer).cast("B")
    swapped = bytearray(view.nbytes)
    for position in range(component):
        swapped[position::component] = view[component - 1 - position :: component]
    return swapped


def storage_bytes(record: TensorRecord) -> Buffer:
    """All bytes of a tensor's storage, little-endian, in memory."""
    from compat.dtypes import DTYPES

    storage = record.storage
    if storage.data is None:
        return b""
    buffer = read(storage.data)
    if storage.byteorder == "big":
        return swap(buffer, DTYPES[storage.dtype or record.dtype].component)
    return buffer


def element_chunks(record: TensorRecord) -> Iterator[Buffer]:
    """A tensor's elements in logical order, little-endian, streamed where they lie in one piece.

    Conjugate and negative bits are not applied: these are the bytes as they are stored.
    """
    storage = record.storage
    if storage.data is None or record.numel == 0:
        return
    if storage.byteorder == "little" and record.is_contiguous:
        if record.covers_storage:
            yield from storage.data.chunks()
            return
        begin = record.storage_offset * record.itemsize
        if isinstance(storage.data, FileData):
            yield from storage.data.source.chunks(storage.data.offset + begin, record.nbytes)
            return
        if isinstance(storage.data, MemoryData):
            yield memoryview(storage.data.buffer).cast("B")[begin : begin + record.nbytes]
            return
    yield gather(
        storage_bytes(record),
        itemsize=record.itemsize,
        shape=record.shape,
        stride=record.stride,
        offset=record.storage_offset,
    )


def element_bytes(record: TensorRecord) -> bytes:
    """A tensor's elements in logical order as contiguous little-endian bytes."""
    return b"".join(bytes(piece) for piece in element_chunks(record))
