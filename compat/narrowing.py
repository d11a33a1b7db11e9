"""Turn floating-point bytes into those of a narrower type, rounded as torch rounds, with the standard library alone."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from compat.data import Buffer
from compat.dtypes import DTYPES

_FLOAT32_INFINITY: Final = 0x7F800000
_FLOAT32_MAGNITUDE: Final = 0x7FFFFFFF
_BFLOAT16_NAN: Final = 0x7FC0


def _float32(piece: bytes) -> bytes:
    count = len(piece) // 8
    # An array, unlike struct, turns what is too large into an infinity, as torch does.
    return _little(array("f", struct.unpack(f"<{count}d", piece)))


def _float16(piece: bytes) -> bytes:
    values = struct.unpack(f"<{len(piece) // 4}f", piece)
    try:
        return struct.pack(f"<{len(values)}e", *values)
    except OverflowError:
        return b"".join(map(_half, values))


def _half(value: float) -> bytes:
    try:
        return struct.pack("<e", value)
    except OverflowError:
        return struct.pack("<e", float("inf") if value > 0 else float("-inf"))


def _bfloat16(piece: bytes) -> bytes:
    # Round to nearest, ties to even, as c10/util/BFloat16.h (round_to_nearest_even) does.
    return _little(
        array(
            "H",
            [
                (word + 0x7FFF + (word >> 16 & 1)) >> 16
                if word & _FLOAT32_MAGNITUDE <= _FLOAT32_INFINITY
                else _BFLOAT16_NAN
                for word in struct.unpack(f"<{len(piece) // 4}I", piece)
            ],
        )
    )


def _little(values: array[float] | array[int]) -> bytes:
    if struct.pack("=H", 1) != struct.pack("<H", 1):
        values.byteswap()
    return values.tobytes()


# (wide, narrow) → the function that rounds whole elements of the one to the other.
NARROWED: Final[Mapping[tuple[str, str], Callable[[bytes], bytes]]] = MappingProxyType(
    {
        ("float64", "float32"): _float32,
        ("float32", "float16"): _float16,
        ("float32", "bfloat16"): _bfloat16,
    }
)


def narrowed(pieces: Iterable[Buffer], wide: str, narrow: str) -> Iterator[bytes]:
    """The same elements in a narrower type: pieces of `wide` elements in, pieces of `narrow` ones out.

    Pieces may be cut anywhere. A NaN comes out as a NaN, not necessarily with torch's bits.
    """
    turn, itemsize = NARROWED[wide, narrow], DTYPES[wide].itemsize
    rest = b""
    for piece in pieces:
        content = rest + bytes(piece)
        whole = len(content) // itemsize * itemsize
        rest = content[whole:]
        yield turn(content[:whole])
