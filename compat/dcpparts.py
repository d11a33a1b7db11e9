"""Tensors of several parts: whether the parts are the whole of it, and its bytes put together from theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Final

from compat.checkpoint import TensorRecord, contiguous_stride, is_contiguous
from compat.data import Buffer, read
from compat.errors import Corrupt, Unsupported, brief
from compat.layout import Array
from compat.strided import scatter

Region = tuple[tuple[int, ...], tuple[int, ...]]
# How many corners are looked at: 2**n for each of the parts of a tensor that is split in n dimensions.
_MAX_CORNERS: Final = 1 << 23


def check_parts(name: str, shape: Sequence[int], regions: Sequence[Region], source: str) -> None:
    """Refuse parts (offsets and sizes, in elements) that are not each element of a tensor of this shape once.

    Raises:
        Corrupt: one reaches beyond the tensor, two overlap, or an element is in none.
        Unsupported: there are more parts in more dimensions than can be looked at.
    """
    for offsets, sizes in regions:
        if len(offsets) != len(shape) or len(sizes) != len(shape):
            raise Corrupt(
                f"a part of {brief(name)} has the offsets {list(offsets)} and the sizes {list(sizes)}",
                source=source,
                expected=f"{len(shape)} of each",
            )
        if any(start + size > whole for start, size, whole in zip(offsets, sizes, shape, strict=True)):
            raise Corrupt(
                f"the part of {brief(name)} at {list(offsets)} of sizes {list(sizes)} reaches beyond it",
                source=source,
                expected=f"a part of {list(shape)}",
            )
    filled = [region for region in regions if prod(region[1])]
    count, whole = sum(prod(sizes) for _, sizes in filled), prod(shape)
    if count < whole:
        raise Corrupt(
            f"the parts of {brief(name)} have {count:,} elements",
            source=source,
            expected=f"{whole:,}",
            hint="A rank's part is missing; get the folder again, whole.",
        )
    if count > whole or not _is_each_once(name, shape, filled, source):
        raise Corrupt(f"parts of {brief(name)} overlap", source=source, expected="every element in one part")


def _is_each_once(name: str, shape: Sequence[int], regions: Sequence[Region], source: str) -> bool:
    """Whether boxes, none of them empty, are together each element of a shape once."""
    # In the other dimensions all boxes are alike.
    split = [
        dim for dim, size in enumerate(shape) if any((begin[dim], sizes[dim]) != (0, size) for begin, sizes in regions)
    ]
    if len(regions) << len(split) > _MAX_CORNERS:
        raise Unsupported(
            f"{brief(name)} is in {len(regions):,} parts, split in {len(split)} dimensions",
            feature="parts",
            source=source,
        )
    whole = ((0,) * len(shape), tuple(shape))
    return not regions or _corners(regions, split) == _corners([whole], split)


def _corners(regions: Sequence[Region], split: Sequence[int]) -> dict[tuple[int, ...], int]:
    """The corners of boxes, counted with a sign that is minus for an odd number of upper bounds.

    These counts are the differences, in every dimension, of the number of boxes that hold an element: they are
    the same for two sets of boxes exactly if those hold every element equally often.
    """
    found: Counter[tuple[int, ...]] = Counter()
    for begin, sizes in regions:
        bounds = [((begin[dim], 1), (begin[dim] + sizes[dim], -1)) for dim in split]
        for corner in product(*bounds):
            found[tuple(at for at, _ in corner)] += prod(sign for _, sign in corner)
    return {corner: count for corner, count in found.items() if count}


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembledData:
    """The bytes of a dense tensor that lies in parts, each element in one of them.

    Attributes:
        shape: the tensor's shape, in elements.
        itemsize: bytes per element.
        parts: where each part begins in the tensor, in elements of each dimension, and what it holds.
    """

    shape: tuple[int, ...]
    itemsize: int
    parts: Sequence[tuple[tuple[int, ...], TensorRecord]]

    @property
    def nbytes(self) -> int:
        """How many bytes there are."""
        return prod(self.shape) * self.itemsize

    def chunks(self) -> Iterator[Buffer]:
        """The bytes: streamed where the parts follow each other, as rows do; else all of them at once."""
        stride = contiguous_stride(self.shape)
        placed = [
            (sum(at * step for at, step in zip(begin, stride, strict=True)), record)
            for begin, record in self.parts
            if record.numel
        ]
        if all(is_contiguous(record.shape, stride) for _, record in placed):
            for _, record in sorted(placed, key=lambda part: part[0]):
                yield from values_of(record).chunks()
            return
        target = bytearray(self.nbytes)
        for begin, record in placed:
            sizes, steps = _joined(record.shape, self.shape, stride)
            elements = read(values_of(record))
            scatter(elements, target, itemsize=self.itemsize, shape=sizes, stride=steps, offset=begin)
        yield target


def values_of(record: TensorRecord) -> Array:
    """A tensor's elements in logical order, with conjugation and negation applied."""
    return Array(name="", dtype=record.dtype, shape=record.shape, record=record)


def _joined(
    sizes: tuple[int, ...], shape: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A part's sizes and steps in the whole, with those last dimensions as one in which it lies in one piece."""
    last = len(sizes) - 1
    while last > 0 and sizes[last] == shape[last]:
        last -= 1
    return (*sizes[:last], prod(sizes[last:])), (*stride[:last], 1)
