"""What writing and reading a layout share: its version, its bounds, and the signs that lazy bits flip."""

from __future__ import annotations

from typing import Final

from compat.checkpoint import TensorRecord
from compat.data import Buffer
from compat.dtypes import DTYPES

VERSION: Final = 1
# A storage may be this much larger than what its tensors show; beyond it, it is not restored.
MAX_HIDDEN: Final = 4
FREE: Final = 64 * 1024
# A name that the format keeps for itself.
RESERVED: Final = "__metadata__"


def flip_signs(elements: Buffer, record: TensorRecord) -> Buffer:
    """Apply a tensor's conjugate and negative bits to its bytes; doing it twice gives them back."""
    dtype = DTYPES[record.dtype]
    if "int" in record.dtype:
        return _negate(elements, dtype.itemsize)
    sign = bytes(dtype.component - 1) + b"\x80"
    keep = bytes(dtype.component)
    if dtype.itemsize == dtype.component:
        unit = sign if record.neg else keep
    else:
        unit = (sign if record.neg else keep) + (sign if record.neg != record.conj else keep)
    size = memoryview(elements).nbytes
    mask = unit * (size // len(unit))
    return (int.from_bytes(elements, "little") ^ int.from_bytes(mask, "little")).to_bytes(size, "little")


def _negate(elements: Buffer, width: int) -> bytes:
    """Two's complement, element by element: the negative bit of whole numbers."""
    data, modulus = bytes(elements), 1 << (8 * width)
    numbers = (int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width))
    return b"".join((-number % modulus).to_bytes(width, "little") for number in numbers)
