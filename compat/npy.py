"""One `.npy` array: its header read without evaluating anything, and written.

Source of the layout: `numpy/lib/format.py` and NEP 1.
"""

from __future__ import annotations

import ast
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from compat.data import Data
from compat.dtypes import DTYPES
from compat.errors import Corrupt, Unsupported, brief
from compat.records import MAX_DIMS, MAX_INT64

MAGIC: Final = b"\x93NUMPY"
_ALIGNMENT: Final = 64
# numpy itself reads no longer header.
_MAX_HEADER: Final = 10_000
_BY_NUMPY: Final = {dtype.numpy: dtype.name for dtype in DTYPES.values() if dtype.numpy}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an array's header says.

    Attributes:
        dtype: torch's name of the element type; None where torch has none.
        descr: numpy's own; byteorder: of the elements.
        shape: in elements; fortran: whether the first dimension varies fastest.
        size: how long the header is.
    """

    dtype: str | None
    descr: str
    byteorder: str
    shape: tuple[int, ...]
    fortran: bool
    size: int


def read_header(data: Data, name: str) -> Header:
    """The header of an array.

    Raises:
        Corrupt: it is no array, or its header is damaged.
        Unsupported: it is an array of Python objects, which only unpickling could read.
    """
    start = bytes(next(iter(data.chunks()), b""))
    if not start.startswith(MAGIC) or len(start) < 10:  # noqa: PLR2004 - magic, version and length
        raise Corrupt(f"the record {name!r} begins with {start[:8].hex(' ')}", expected="an array in numpy's format")
    wide = start[6] > 1
    length = int.from_bytes(start[8:12] if wide else start[8:10], "little")
    begin = 12 if wide else 10
    if start[6] not in (1, 2, 3) or length > _MAX_HEADER or begin + length > min(len(start), data.nbytes):
        raise Corrupt(f"the array {name!r} has a header of version {start[6]} and {length:,} bytes")
    facts = _literal(start[begin : begin + length], name)
    descr, shape, fortran = facts.get("descr"), facts.get("shape"), facts.get("fortran_order")
    if _has_objects(descr):
        raise Unsupported(
            f"the array {name!r} holds Python objects, which lie in the file as a pickle",
            feature="object-arrays",
            paths=[name],
            expected="arrays of numbers",
            hint="Save them as numbers; reading them would execute what the file says.",
        )
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMS or not isinstance(fortran, bool):
        raise Corrupt(f"the header of the array {name!r} is {brief(facts)}")
    if any(type(size) is not int or not 0 <= size <= MAX_INT64 for size in shape):
        raise Corrupt(f"the array {name!r} has shape {brief(shape)}")
    order, kind = (descr[:1], descr[1:]) if isinstance(descr, str) else ("", "")
    dtype = _BY_NUMPY.get(kind) if order in tuple("<>|=") else None
    header = Header(
        dtype=dtype,
        descr=str(descr),
        byteorder="big" if order == ">" else "little",
        shape=shape,
        fortran=fortran,
        size=begin + length,
    )
    if dtype is not None and prod(shape) * DTYPES[dtype].itemsize != data.nbytes - header.size:
        raise Corrupt(
            f"the array {name!r} has {data.nbytes - header.size:,} bytes",
            expected=f"{prod(shape) * DTYPES[dtype].itemsize:,}",
        )
    return header


def _literal(text: bytes, name: str) -> dict[str, Any]:
    try:
        facts = ast.literal_eval(text.decode("utf-8").strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise Corrupt(f"the header of the array {name!r} is no literal: {brief(text)}") from error
    if not isinstance(facts, dict):
        raise Corrupt(f"the header of the array {name!r} is {brief(facts)}", expected="a dict")
    return facts


def _has_objects(descr: Any) -> bool:
    if isinstance(descr, str):
        return descr.lstrip("<>|=").startswith("O")
    if isinstance(descr, (list, tuple)):
        return any(_has_objects(part) for part in descr)
    return False


def header_of(dtype: str, shape: Sequence[int]) -> bytes:
    """The header of a contiguous array of a type that numpy has."""
    numpy = DTYPES[dtype].numpy or ""
    order = "|" if DTYPES[dtype].component == 1 else "<"
    sizes = "".join(f"{size}, " for size in shape[:-1]) + (f"{shape[-1]}" if shape else "")
    sizes += "," if len(shape) == 1 else ""
    text = f"{{'descr': '{order}{numpy}', 'fortran_order': False, 'shape': ({sizes}), }}".encode("ascii")
    text += b" " * (-(len(MAGIC) + 4 + len(text) + 1) % _ALIGNMENT) + b"\n"
    return MAGIC + b"\x01\x00" + struct.pack("<H", len(text)) + text
