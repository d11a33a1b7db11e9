"""What ggml calls its element types, and how it packs them into blocks.

Source: `ggml_type` in `include/ggml.h` and `type_traits` in `src/ggml.c` of ggml; the block structures in
`src/ggml-common.h`. Types that were taken out of ggml again, and lie in files of their time, are of October 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Names as ggml keeps them: 64 bytes (GGML_MAX_NAME) with the closing zero.
MAX_NAME: Final = 63
MAX_DIMS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockType:
    """How a type of ggml packs elements: `elements` of them into `nbytes` bytes; `dtype` where torch has it."""

    name: str
    number: int
    elements: int
    nbytes: int
    dtype: str | None = None


# name, number, elements per block, bytes per block, dtype.
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
    # Blocks of four or eight rows, interleaved: their bytes per element are those of the plain type.
    ("Q4_0_4_4", 31, 32, 18, None),
    ("Q4_0_4_8", 32, 32, 18, None),
    ("Q4_0_8_8", 33, 32, 18, None),
    ("IQ4_NL_4_4", 36, 32, 18, None),
    ("IQ4_NL_4_8", 37, 32, 18, None),
    ("IQ4_NL_8_8", 38, 32, 18, None),
)
TYPES: Final = {
    number: BlockType(name=name, number=number, elements=elements, nbytes=nbytes, dtype=dtype)
    for name, number, elements, nbytes, dtype in _ROWS
}
REMOVED: Final = frozenset({31, 32, 33, 36, 37, 38})
BY_NAME: Final = {found.name: found for found in TYPES.values()}
BY_DTYPE: Final = {found.dtype: found for found in TYPES.values() if found.dtype is not None}

if len(TYPES) != len(_ROWS) or len(BY_NAME) != len(_ROWS):
    raise AssertionError("the table of ggml's types names one twice")
