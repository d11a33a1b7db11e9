"""What identifies a tensor's values, computed in blocks, so that memory does not grow with the tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import islice
from math import prod
from typing import Final, Literal

from compat.checkpoint import TensorRecord
from compat.data import Buffer, Data, FileData, read
from compat.errors import Unsupported
from compat.narrowing import narrowed
from compat.sources import FileSource
from compat.strided import element_chunks, gather

# Elements that do not lie in order are put in order in blocks of so many bytes.
_BLOCK: Final = 4 << 20
# A tensor may show this many times more bytes than its storage has; beyond it, what it repeats is left out.
_MAX_REPEATED: Final = 64
_FREE: Final = 1 << 20
_PROBED: Final = 1024
_WORDS: Final[dict[int, Literal["B", "H", "I", "Q"]]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


def repeats(record: TensorRecord) -> bool:
    """Whether a tensor shows so much more than there is that only its `digest` and `is_zero` can be had."""
    return record.storage.data is not None and record.nbytes > _MAX_REPEATED * record.storage.nbytes + _FREE


def digest(record: TensorRecord) -> bytes:
    """A sum of a tensor's elements in logical order, little-endian: 16 bytes.

    Raises:
        Unsupported: the tensor shows far more elements than there are.
        Corrupt: its bytes are damaged.
    """
    shown, note = _without_repeats(record)
    data = shown.storage.data
    if isinstance(data, FileData) and data.crc32 is not None and not shown.is_contiguous:
        for _ in data.chunks():  # elements out of order are read by position, which checks no sum
            pass
    return _hashed(elements(shown), note)


def permuted_digest(record: TensorRecord, order: Sequence[int]) -> bytes:
    """The `digest` of a tensor with its dimensions in another order."""
    shape, stride = (tuple(given[at] for at in order) for given in (record.shape, record.stride))
    return _hashed(elements(replace(record, shape=shape, stride=stride)))


def narrowed_digest(record: TensorRecord, narrow: str) -> bytes:
    """The `digest` of a tensor whose elements are rounded to a narrower type."""
    return _hashed(narrowed(elements(record), record.dtype, narrow))


def probe(record: TensorRecord, narrow: str | None = None) -> bytes:
    """The bytes of the first elements, also rounded to a narrower type; what differs in them differs."""
    first: Iterable[Buffer] = (bytes(piece[: _PROBED * record.itemsize]) for piece in islice(elements(record), 1))
    return b"".join(map(bytes, first if narrow is None else narrowed(first, record.dtype, narrow)))


def total(record: TensorRecord) -> int:
    """A sum that the order of the elements does not change: of their bits, taken as whole numbers."""
    width = min(record.itemsize, 8)
    count, rest = 0, b""
    for piece in elements(record):
        view = memoryview(rest + bytes(piece) if rest else piece).cast("B")
        whole = view.nbytes // width * width
        count += sum(view[:whole].cast(_WORDS[width]))
        rest = bytes(view[whole:])
    return count


def is_zero(record: TensorRecord) -> bool:
    """Whether every bit of every element is zero."""
    return not any(bytes(piece).strip(b"\0") for piece in elements(_without_repeats(record)[0]))


def elements(record: TensorRecord) -> Iterator[Buffer]:
    """A tensor's elements in logical order, little-endian, in pieces.

    A storage is read whole only where its bytes do not lie in one piece: where it is compressed, big-endian, or
    put together from the copies of several tensors.
    """
    data = record.storage.data
    if data is None or record.numel == 0:
        return
    if record.storage.byteorder == "big" or record.is_contiguous:
        yield from element_chunks(record)
        return
    storage = _resident(data)
    for shape, stride, offset in _blocks(record.shape, record.stride, record.storage_offset, record.itemsize):
        yield gather(storage, itemsize=record.itemsize, shape=shape, stride=stride, offset=offset)


def _resident(data: Data) -> Buffer:
    """A storage's bytes by position: the file's own pages where it is a plain file."""
    if isinstance(data, FileData) and isinstance(data.source, FileSource) and data.nbytes:
        return memoryview(data.source.map())[data.offset : data.offset + data.nbytes]
    return read(data)


def _blocks(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int, itemsize: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """A strided view cut along its first dimensions into views of at most `_BLOCK` bytes, in order."""
    nbytes = prod(shape) * itemsize
    if nbytes <= _BLOCK or not shape:
        yield shape, stride, offset
        return
    rows = _BLOCK // (nbytes // shape[0])
    for at in range(0, shape[0], rows or 1):
        begin = offset + at * stride[0]
        if rows:
            yield (min(rows, shape[0] - at), *shape[1:]), stride, begin
        else:
            yield from _blocks(shape[1:], stride[1:], begin, itemsize)


def _without_repeats(record: TensorRecord) -> tuple[TensorRecord, str]:
    """A tensor that shows far more than there is, without the dimensions that repeat; and which ones are left.

    Raises:
        Unsupported: what is left still shows far more elements than there are.
    """
    if not repeats(record):
        return record, ""
    kept = [at for at, step in enumerate(record.stride) if step]
    shape, stride = (tuple(given[at] for at in kept) for given in (record.shape, record.stride))
    made = replace(record, shape=shape, stride=stride)
    if repeats(made):
        raise Unsupported(
            f"a tensor shows {made.nbytes:,} bytes out of a storage of {record.storage.nbytes:,}", feature="strides"
        )
    return made, f"dimensions {kept}"


def _hashed(pieces: Iterable[Buffer], note: str = "") -> bytes:
    made = blake2b(note.encode(), digest_size=16)
    for piece in pieces:
        made.update(piece)
    return made.digest()
