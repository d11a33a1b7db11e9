"""The one dtype table: what every dtype is called in each world, and how wide it is.

Sources: torch's `c10/core/ScalarType.h` (names, widths), `onnx/onnx.in.proto`
(numbers), the safetensors format description (names and
`F4` counting single elements where torch counts packed pairs), numpy's array protocol type strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class DType:
    """One element type.

    Attributes:
        name: torch's name without the `torch.` in front.
        itemsize: bytes per element as torch counts elements (a packed pair is one element).
        component: bytes per unit that endianness swaps; complex numbers are two units.
        safetensors: its name in a safetensors header; None where the format has none.
        packed: how many elements safetensors counts for one of torch's.
        per_byte: how many elements share a byte of a storage, where torch counts them one by one.
        numpy: its numpy type string without byte order; None where numpy has none.
        onnx: its number in ONNX's TensorProto.DataType; None where ONNX has none.
        storage: the typed storage class that `torch.save` names; None where torch writes an untyped one.
        since: the first torch release that has it.
    """

    name: str
    itemsize: int
    component: int
    safetensors: str | None = None
    packed: int = 1
    per_byte: int = 1
    numpy: str | None = None
    onnx: int | None = None
    storage: str | None = None
    since: str = "1.0"


_ROWS: Final = (
    # name, itemsize, component, safetensors, numpy, onnx, storage, since
    ("float64", 8, 8, "F64", "f8", 11, "DoubleStorage", "1.0"),
    ("float32", 4, 4, "F32", "f4", 1, "FloatStorage", "1.0"),
    ("float16", 2, 2, "F16", "f2", 10, "HalfStorage", "1.0"),
    ("bfloat16", 2, 2, "BF16", None, 16, "BFloat16Storage", "1.3"),
    ("float8_e4m3fn", 1, 1, "F8_E4M3", None, 17, None, "2.1"),
    ("float8_e4m3fnuz", 1, 1, "F8_E4M3FNUZ", None, 18, None, "2.2"),
    ("float8_e5m2", 1, 1, "F8_E5M2", None, 19, None, "2.1"),
    ("float8_e5m2fnuz", 1, 1, "F8_E5M2FNUZ", None, 20, None, "2.2"),
    ("float8_e8m0fnu", 1, 1, "F8_E8M0", None, 24, None, "2.7"),
    ("float4_e2m1fn_x2", 1, 1, "F4", None, 23, None, "2.8"),
    ("int64", 8, 8, "I64", "i8", 7, "LongStorage", "1.0"),
    ("int32", 4, 4, "I32", "i4", 6, "IntStorage", "1.0"),
    ("int16", 2, 2, "I16", "i2", 5, "ShortStorage", "1.0"),
    ("int8", 1, 1, "I8", "i1", 3, "CharStorage", "1.0"),
    ("uint64", 8, 8, "U64", "u8", 13, None, "2.3"),
    ("uint32", 4, 4, "U32", "u4", 12, None, "2.3"),
    ("uint16", 2, 2, "U16", "u2", 4, None, "2.3"),
    ("uint8", 1, 1, "U8", "u1", 2, "ByteStorage", "1.0"),
    ("bool", 1, 1, "BOOL", "b1", 9, "BoolStorage", "1.2"),
    ("complex128", 16, 8, None, "c16", 15, "ComplexDoubleStorage", "1.6"),
    ("complex64", 8, 4, "C64", "c8", 14, "ComplexFloatStorage", "1.6"),
    ("complex32", 4, 2, None, None, None, None, "1.11"),
    ("bits8", 1, 1, None, None, None, None, "2.0"),
    ("bits16", 2, 2, None, None, None, None, "2.0"),
    ("bits1x8", 1, 1, None, None, None, None, "2.0"),
    ("bits2x4", 1, 1, None, None, None, None, "2.0"),
    ("bits4x2", 1, 1, None, None, None, None, "2.0"),
    ("qint8", 1, 1, None, None, None, "QInt8Storage", "1.3"),
    ("quint8", 1, 1, None, None, None, "QUInt8Storage", "1.3"),
    ("qint32", 4, 4, None, None, None, "QInt32Storage", "1.3"),
    ("quint4x2", 1, 1, None, None, None, "QUInt4x2Storage", "1.8"),
    ("quint2x4", 1, 1, None, None, None, "QUInt2x4Storage", "1.11"),
)

_PER_BYTE: Final = {"quint4x2": 2, "quint2x4": 4}

DTYPES: Final[Mapping[str, DType]] = MappingProxyType(
    {
        name: DType(
            name=name,
            itemsize=itemsize,
            component=component,
            safetensors=safetensors,
            packed=2 if name == "float4_e2m1fn_x2" else 1,
            per_byte=_PER_BYTE.get(name, 1),
            numpy=numpy,
            onnx=onnx,
            storage=storage,
            since=since,
        )
        for name, itemsize, component, safetensors, numpy, onnx, storage, since in _ROWS
    }
)
BY_SAFETENSORS: Final[Mapping[str, DType]] = MappingProxyType(
    {dtype.safetensors: dtype for dtype in DTYPES.values() if dtype.safetensors}
)
BY_ONNX: Final[Mapping[int, DType]] = MappingProxyType(
    {dtype.onnx: dtype for dtype in DTYPES.values() if dtype.onnx is not None}
)
BY_STORAGE: Final[Mapping[str, DType]] = MappingProxyType(
    {dtype.storage: dtype for dtype in DTYPES.values() if dtype.storage}
)

# ScalarType of torch.export's JSON → dtype. Source: `torch/_export/serde/schema.py`; the numbers have not changed
# since 2.1, later releases added some.
BY_SCALAR_TYPE: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: "uint8",
        2: "int8",
        3: "int16",
        4: "int32",
        5: "int64",
        6: "float16",
        7: "float32",
        8: "float64",
        9: "complex32",
        10: "complex64",
        11: "complex128",
        12: "bool",
        13: "bfloat16",
        28: "uint16",
        29: "float8_e4m3fn",
        30: "float8_e5m2",
        31: "float8_e4m3fnuz",
        32: "float8_e5m2fnuz",
        33: "float8_e8m0fnu",
        34: "uint32",
        35: "uint64",
    }
)

# Every name must lead back to one dtype: a doubled row would silently shadow the other.
if len(DTYPES) != len(_ROWS) or any(d.itemsize % d.component for d in DTYPES.values()):
    raise AssertionError("the dtype table names a dtype twice or gives it a broken width")

QUANTIZED: Final = frozenset(name for name in DTYPES if name.startswith(("qint", "quint")))
