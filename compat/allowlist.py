"""What `torch.load(weights_only=True)` lets a file name by default, torch by torch, as data.

Source: `_get_allowed_globals` and the opcodes of `Unpickler` in `torch/_weights_only_unpickler.py`, together with
`torch/storage.py` (`_dtype_to_storage_type_map`, `_new_dtypes`) and `torch/__init__.py` (`_storage_classes`), read
in the last release of every minor version from 1.13, the first that has the argument, to 2.15. Minor versions that
are not named changed nothing. What a program itself adds by `torch.serialization.add_safe_globals` is not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

FIRST: Final = "1.13"
# From here on `torch.serialization.safe_globals` is there, which allows more for a while.
SAFE_GLOBALS_SINCE: Final = "2.5"


@dataclass(frozen=True, slots=True)
class Allowed:
    """The torch versions that let a name in.

    Attributes:
        since: the first minor version.
        until: the first minor version that does not any more; empty where there is none.
    """

    since: str
    until: str = ""


# Version → names it began to allow, without the `torch.` that all of them begin with.
_BEGAN: Final = {
    "1.13": """
        Tensor Size nn.parameter.Parameter serialization._get_layout storage.TypedStorage storage.UntypedStorage
        _utils._rebuild_parameter _utils._rebuild_tensor _utils._rebuild_tensor_v2 _utils._rebuild_sparse_tensor
        _utils._rebuild_sparse_csr_tensor _utils._rebuild_meta_tensor_no_storage
        complex32 complex64 complex128 float16 float32 float64 int8 int16 int32 int64
        QInt8Storage QInt32Storage QUInt8Storage QUInt4x2Storage QUInt2x4Storage
    """,
    "2.0": "_tensor._rebuild_from_type_v2",
    "2.2": "_utils._rebuild_tensor_v3 _utils._rebuild_nested_tensor float8_e5m2 float8_e4m3fn",
    "2.3": "float8_e5m2fnuz float8_e4m3fnuz",
    "2.4": """
        device bfloat16 bool uint8 qint8 qint32 quint8 quint4x2 quint2x4 bits8 bits16 bits1x8 bits2x4 bits4x2
        per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric
        per_channel_affine_float_qparams
        _utils._rebuild_parameter_with_state _utils._rebuild_qtensor _utils._rebuild_wrapper_subclass
    """,
    "2.5": "_utils._rebuild_device_tensor_from_numpy",
    "2.6": "_utils._rebuild_device_tensor_from_cpu_tensor uint16 uint32 uint64",
    "2.7": "float8_e8m0fnu int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7",
    "2.8": "float4_e2m1fn_x2",
    "2.14": "bcomplex32",
}
# Python's names, in full.
_BEGAN_OF_PYTHON: Final = {
    "1.13": "collections.OrderedDict",
    "2.4": "collections.Counter",
    "2.5": "_codecs.encode builtins.bytearray",
    "2.6": "builtins.set builtins.complex",
}
_KINDS: Final = "Double Float Half BFloat16 Long Int Short Char Byte"


def _classes() -> Iterator[str]:
    """The tensor and storage classes that there is one of for each element type and device."""
    for kind in _KINDS.split():
        yield from (f"torch.{place}{kind}Tensor" for place in ("", "cuda.", "sparse.", "cuda.sparse."))
    yield from ("torch.BoolTensor", "torch.cuda.BoolTensor")
    for kind in (*_KINDS.split(), "Bool", "ComplexFloat", "ComplexDouble"):
        yield from (f"torch.{kind}Storage", f"torch.cuda.{kind}Storage")


_ENDED: Final = {"_utils._rebuild_sparse_csr_tensor": "2.0", "_utils._rebuild_nested_tensor": "2.15"}

ALLOWED: Final[dict[str, Allowed]] = (
    {name: Allowed(FIRST) for name in _classes()}
    | {f"torch.{name}": Allowed(since, _ENDED.get(name, "")) for since, text in _BEGAN.items() for name in text.split()}
    | {name: Allowed(since) for since, text in _BEGAN_OF_PYTHON.items() for name in text.split()}
)

# The opcodes that torch's reader knows: those of protocol 2, without what no `torch.save` writes.
_KNOWN: Final = """
    APPEND APPENDS BINFLOAT BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINUNICODE BUILD EMPTY_DICT EMPTY_LIST
    EMPTY_SET EMPTY_TUPLE GLOBAL LONG1 LONG_BINGET LONG_BINPUT MARK NEWFALSE NEWOBJ NEWTRUE NONE PROTO REDUCE
    SETITEM SETITEMS SHORT_BINSTRING STOP TUPLE TUPLE1 TUPLE2 TUPLE3
"""
OPCODES: Final = frozenset(_KNOWN.split())
_OPCODES_SINCE: Final = {"BINFLOAT": "2.0"}


def since_of(names: Iterable[str], opcodes: Iterable[str]) -> str:
    """The first minor version of torch that lets these names in and knows these opcodes."""
    versions = [FIRST, *(ALLOWED[name].since for name in names)]
    versions += [_OPCODES_SINCE.get(opcode, FIRST) for opcode in opcodes]
    return max(versions, key=order)


def until_of(names: Iterable[str]) -> str:
    """The first minor version of torch that refuses one of these names again; empty where none does."""
    return min((until for name in names if (until := ALLOWED[name].until)), key=order, default="")


def order(version: str) -> tuple[int, ...]:
    """What minor versions are ordered by."""
    return tuple(map(int, version.split(".")))
