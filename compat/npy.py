"""One `.npy` array: what its header says, and a header to be written.

Source of the layout: `numpy/lib/_format_impl.py` and NEP 1.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from compat.data import Data, first
from compat.dtypes import DTYPES
from compat.errors import Corrupt, Unsupported, brief
from compat.npyheader import parse
from compat.records import MAX_DIMS, MAX_INT64

MAGIC: Final = b"\x93NUMPY"
_ALIGNMENT: Final = 64
# Enough for the header of any array that is no structure.
_START: Final = 256
# Structures of thousands of fields have long ones. Numpy itself asks before it reads more than 10,000 bytes.
_MAX_HEADER: Final = 1 << 20
# Version → (how its length is written, what its text is encoded in).
_VERSIONS: Final = {b"\1\0": ("<H", "latin-1"), b"\2\0": ("<I", "latin-1"), b"\3\0": ("<I", "utf-8")}
_KEYS: Final = frozenset({"descr", "fortran_order", "shape"})
# Type strings without byte order, and the names that numpy takes as well.
_BY_NUMPY: Final = {dtype.numpy: name for name, dtype in DTYPES.items() if dtype.numpy}
_BY_NAME: Final = {name: name for name in _BY_NUMPY.values()}
_OBJECTS: Final = re.compile(r"[<>|=]?O[0-9]*|object_?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an array's header says.

    Attributes:
        dtype: torch's name of the element type; None where torch has none.
        descr: numpy's own, a type string unless it is a structure; byteorder: of the elements.
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
    """The header of an array, held against the bytes that follow it.

    Raises:
        Corrupt: it is no array, or its header is damaged.
        Unsupported: it is an array of Python objects, which only unpickling could read.
    """
    text, size = _text(data, name)
    facts = parse(text, name)
    descr, shape, fortran = facts.get("descr"), facts.get("shape"), facts.get("fortran_order")
    if facts.keys() != _KEYS or not isinstance(fortran, bool) or not isinstance(descr, (str, list, tuple)):
        raise Corrupt(
            f"the header of the array {brief(name)} is {brief(text)}", expected="descr, fortran_order and shape"
        )
    if _has_objects(descr):
        raise Unsupported(
            f"the array {brief(name)} holds Python objects, which lie in the file as a pickle",
            feature="object-arrays",
            paths=[name],
            expected="arrays of numbers",
            hint="Save them as numbers; reading them would execute what the file says.",
        )
    if (
        not isinstance(shape, tuple)
        or len(shape) > MAX_DIMS
        or any(type(n) is not int or n > MAX_INT64 for n in shape)
        or prod(n or 1 for n in shape) > MAX_INT64
    ):
        raise Corrupt(f"the array {brief(name)} has the shape {brief(shape)}")
    order, kind = _order(descr)
    dtype = _BY_NUMPY.get(kind) or _BY_NAME.get(kind)
    if dtype is not None and prod(shape) * DTYPES[dtype].itemsize != data.nbytes - size:
        raise Corrupt(
            f"the array {brief(name)} has {data.nbytes - size:,} bytes",
            expected=f"{prod(shape) * DTYPES[dtype].itemsize:,}, as its header says",
        )
    return Header(
        dtype=dtype,
        # Bytes have no order, whatever a writer says.
        descr=f"|{kind}" if kind.startswith(("S", "V")) else descr if isinstance(descr, str) else repr(descr),
        byteorder="big" if order == ">" else "little",
        shape=shape,
        fortran=fortran,
        size=size,
    )


def _text(data: Data, name: str) -> tuple[str, int]:
    """A header's text, and where the elements begin."""
    start = first(data, _START)
    if not start.startswith(MAGIC):
        raise Corrupt(f"the record {brief(name)} begins with {start[:8].hex(' ')}", expected="an array of numpy's")
    version = start[len(MAGIC) : len(MAGIC) + 2]
    form, encoding = _VERSIONS.get(version, ("", ""))
    begin = len(MAGIC) + len(version) + struct.calcsize(form)
    if not form or len(start) < begin:
        raise Corrupt(
            f"the array {brief(name)} has a header of version {'.'.join(map(str, version))}", expected="1.0, 2.0 or 3.0"
        )
    (length,) = struct.unpack_from(form, start, begin - struct.calcsize(form))
    if length > min(_MAX_HEADER, data.nbytes - begin):
        raise Corrupt(f"the array {brief(name)} of {data.nbytes:,} bytes has a header of {length:,}")
    start = start if begin + length <= len(start) else first(data, begin + length)
    try:
        return start[begin : begin + length].decode(encoding), begin + length
    except UnicodeDecodeError as error:
        raise Corrupt(f"the header of the array {brief(name)} is no text: {error.reason}") from error


def _order(descr: Any) -> tuple[str, str]:
    """The byte order and the rest of a type string; nothing for a structure."""
    if not isinstance(descr, str):
        return "", ""
    return (descr[0], descr[1:]) if descr.startswith(("<", ">", "|", "=")) else ("=", descr)


def _has_objects(descr: Any) -> bool:
    """Whether a type, or one of a structure's, is that of Python objects."""
    if isinstance(descr, str):
        return _OBJECTS.fullmatch(descr) is not None
    if isinstance(descr, tuple):  # a type and the shape of what is repeated
        return bool(descr) and _has_objects(descr[0])
    if isinstance(descr, list):  # (name, type) or (name, type, shape)
        return any(isinstance(field, tuple) and len(field) > 1 and _has_objects(field[1]) for field in descr)
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
