"""The records: what the neutral model knows of tensors, storages and foreign objects, with no data in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, TypeVar

from compat.data import Data
from compat.dtypes import DTYPES
from compat.errors import Corrupt, Unsupported, brief

Record = TypeVar("Record")

# Sizes, strides and offsets are 64-bit everywhere in torch.
MAX_INT64: Final = (1 << 63) - 1
MAX_DIMS: Final = 64
# The element type that an untyped storage is seen with.
UNTYPED_DTYPE: Final = "uint8"


def sealed(kind: type[Record]) -> type[Record]:
    """Let no pickle stream change a record that it got hold of: dataclasses with slots would allow it."""

    def refuse(self: Record, state: object) -> None:
        del state  # it may be too large to show
        raise Corrupt(f"a {type(self).__name__} is given a state")

    # After the decorator `dataclass`, which sets a method of this name itself.
    kind.__setstate__ = refuse  # type: ignore[attr-defined]  # what BUILD calls, where there is one
    return kind


@sealed
@dataclass(slots=True, kw_only=True, eq=False)
class StorageRecord:
    """One allocation that tensors look into.

    Not frozen: legacy files say where a storage's bytes lie only after all tensors were described.

    Attributes:
        key: its name in the file, unique in the checkpoint.
        nbytes: its size in bytes.
        device: the device tag it was saved with, such as `cpu` or `cuda:0`.
        dtype: the element type of a typed storage; None for an untyped one.
        data: where the bytes lie; None for storages without bytes (the meta device).
        byteorder: how the bytes were written.
    """

    key: str
    nbytes: int
    device: str = "cpu"
    dtype: str | None = None
    data: Data | None = None
    byteorder: str = "little"


@sealed
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorRecord:
    """One strided tensor, without its data.

    Attributes:
        dtype: torch's name, such as `float32`.
        shape: the size of each dimension, in elements.
        stride: the step of each dimension, in elements.
        storage_offset: where the first element lies, in elements.
        kind: `tensor`, `parameter` or `buffer` (torch.nn.Buffer).
        conj: the complex-conjugate bit; neg: the negative bit. Both change values, not bytes.
        attributes: Python attributes that were saved with the tensor.
        subclass: the class it was saved as, where that is not one of torch's plain ones; it is not imported.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage_offset: int
    storage: StorageRecord
    requires_grad: bool = False
    kind: str = "tensor"
    conj: bool = False
    neg: bool = False
    attributes: Any = None
    subclass: GlobalRef | None = None

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return DTYPES[self.dtype].itemsize

    @property
    def numel(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without gaps."""
        return -(-self.numel * self.itemsize // DTYPES[self.dtype].per_byte)

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in order without gaps."""
        return is_contiguous(self.shape, self.stride)

    @property
    def covers_storage(self) -> bool:
        """Whether the elements are exactly the storage's bytes, in order."""
        return self.is_contiguous and self.storage_offset == 0 and self.nbytes == self.storage.nbytes


@sealed
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Composite:
    """A tensor that is made of tensors: sparse, quantized or nested.

    Attributes:
        kind: the layout (`sparse_coo`…, `jagged`), the quantization scheme (`per_tensor_affine`…), or `nested`.
        parts: what it is made of by name, in the order of torch's own rebuild function.
        parameter: whether it is a Parameter.
        attributes: Python attributes that were saved with the tensor.
    """

    kind: str
    parts: Mapping[str, Any]
    requires_grad: bool = False
    parameter: bool = False
    attributes: Any = None


@sealed
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NumpyArray:
    """A numpy array or scalar of a plain element type. Its bytes lie in the pickle stream, not in a storage.

    Attributes:
        dtype: numpy's array-protocol type string with its byte order, such as `<f4`, `|b1` or `>U5`.
        shape: the size of each dimension, in elements; empty for a scalar.
        data: the elements' bytes, in that byte order.
        order: `C` or `F`: which dimension varies fastest in `data`, the last or the first.
        scalar: whether it is a numpy scalar rather than an array without dimensions.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    order: str = "C"
    scalar: bool = False

    def __repr__(self) -> str:
        return f"<numpy scalar {self.dtype}>" if self.scalar else f"<numpy array {self.dtype} {brief(self.shape)}>"


@sealed
@dataclass(frozen=True, slots=True)
class NumpyDType:
    """A plain numpy dtype used as a value, by its array-protocol type string."""

    dtype: str


@sealed
class Size(tuple[int, ...]):
    """A `torch.Size`, told apart from a plain tuple."""

    __slots__ = ()


@sealed
@dataclass(frozen=True, slots=True)
class TorchValue:
    """A torch constant that is no tensor: a dtype, device, layout, memory format or quantization scheme.

    Attributes:
        kind: `dtype`, `device`, `layout`, `memory_format` or `qscheme`.
        name: torch's name for it, such as `float32` or `cuda:0`.
    """

    kind: str
    name: str


TORCH_VALUES: Final = frozenset(TorchValue("dtype", name) for name in DTYPES) | {
    TorchValue(kind, name)
    for kind, names in {
        "layout": (
            "strided",
            "sparse_coo",
            "sparse_csr",
            "sparse_csc",
            "sparse_bsr",
            "sparse_bsc",
            "jagged",
            "_mkldnn",
        ),
        "memory_format": ("contiguous_format", "channels_last", "channels_last_3d", "preserve_format"),
        "qscheme": (
            "per_tensor_affine",
            "per_tensor_symmetric",
            "per_channel_affine",
            "per_channel_symmetric",
            "per_channel_affine_float_qparams",
        ),
    }.items()
    for name in names
}


class GlobalName(str):
    """The full name of a class or function, which remembers where its module ends."""

    __slots__ = ("module", "qualname")

    module: str
    qualname: str

    def __new__(cls, module: str, qualname: str) -> GlobalName:
        """Join the two parts."""
        made = super().__new__(cls, f"{module}.{qualname}")
        made.module, made.qualname = module, qualname
        return made

    @classmethod
    def parse(cls, name: str) -> GlobalName:
        """Split a full name at its last dot, unless it already knows better."""
        if isinstance(name, GlobalName):
            return name
        module, _, qualname = name.rpartition(".")
        return cls(module, qualname)


@sealed
@dataclass(frozen=True, slots=True)
class GlobalRef:
    """A class or function named by the file as a value, and not imported."""

    name: str


class Opaque:
    """An object of a class that is not imported: what the file says of it, as inert data.

    Attributes:
        name: the full name of the class or function it would have been made by.
        args: the positional arguments; kwargs: the keyword arguments.
        state: what its `__setstate__` would have been given; None where there was nothing.
        items: what would have been appended to it; pairs: what would have been set as its items.
        made_by: `call` where it would have been called, `new` where only its `__new__` would have been.
        callee: the opaque object that would have been called, where it is not a name but a made one.
    """

    __slots__ = ("args", "callee", "items", "kwargs", "made_by", "name", "pairs", "state")

    def __init__(self, name: str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.args = args
        self.kwargs = dict(kwargs or {})
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: list[tuple[Any, Any]] = []
        self.made_by = "new"
        self.callee: Opaque | None = None

    def __repr__(self) -> str:
        return f"<Opaque {self.name}>"


@sealed
@dataclass(frozen=True, slots=True)
class StorageRef:
    """A bare storage used as a value, with the element type it was typed with.

    Attributes:
        whole: the storage that it is a part of, where old files say so: tensors of both share its bytes.
        begin: where in the whole it begins, in elements.
    """

    storage: StorageRecord
    dtype: str
    whole: StorageRecord | None = None
    begin: int = 0


def is_contiguous(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether elements with this shape and stride lie in order without gaps, by torch's rule.

    Dimensions of size one may have any stride, and a tensor without elements is always contiguous.
    """
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size == 0:
            return True
        if size != 1:
            if step != expected:
                return 0 in shape
            expected *= size
    return True


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """The stride, in elements, that torch gives a fresh tensor of this shape."""
    stride: list[int] = []
    step = 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return tuple(reversed(stride))


def check_bounds(record: TensorRecord, *, source: object = None, path: str = "") -> None:
    """Refuse a tensor that reaches outside its storage.

    Raises:
        Corrupt: a negative size, stride or offset, or an element behind the storage's end.
        Unsupported: elements smaller than a byte lie elsewhere than in order from the storage's begin.
    """
    where = f"tensor {path!r}" if path else "a tensor"
    if len(record.shape) != len(record.stride) or len(record.shape) > MAX_DIMS:
        raise Corrupt(f"{where} has shape {brief(record.shape)} but stride {brief(record.stride)}", source=source)
    numbers = (record.storage_offset, *record.shape, *record.stride)
    if min(numbers) < 0 or max(numbers) > MAX_INT64 or prod(n or 1 for n in record.shape) > MAX_INT64:
        raise Corrupt(
            f"{where} has shape {brief(record.shape)}, stride {brief(record.stride)}, "
            f"storage_offset {brief(record.storage_offset)}",
            source=source,
            expected="natural numbers of 64 bits",
        )
    if 0 in record.shape or record.storage.data is None:
        return
    last = record.storage_offset + sum((n - 1) * s for n, s in zip(record.shape, record.stride, strict=True))
    per_byte = DTYPES[record.dtype].per_byte
    if per_byte > 1 and (record.storage_offset or not record.is_contiguous):
        raise Unsupported(f"{where} of {record.dtype} does not begin and end with its storage", feature="strides")
    needed = -(-(last + 1) * record.itemsize // per_byte)
    if needed > record.storage.nbytes:
        raise Corrupt(f"{where} needs {needed:,} bytes of a storage of {record.storage.nbytes:,}", source=source)
