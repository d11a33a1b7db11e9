"""What a `torch.save` pickle stream calls to make tensors: torch's rebuild functions, on records.

Nothing of torch is imported. Source: `torch/_utils.py` (the `_rebuild_*` functions), `torch/_tensor.py`
(`__reduce_ex__`, `_rebuild_from_type_v2`), `torch/nn/parameter.py`, `torch/nested/_internal/nested_tensor.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from compat import arrays
from compat.checkpoint import (
    Composite,
    GlobalRef,
    NumpyArray,
    Opaque,
    StorageRecord,
    StorageRef,
    TensorRecord,
    TorchValue,
    contiguous_stride,
    sealed,
)
from compat.composites import JAGGED_CALL, JAGGED_CLASS, TYPED_CALL, from_early_jagged_call, from_jagged_call
from compat.data import MemoryData
from compat.dtypes import BY_STORAGE, DTYPES
from compat.errors import Corrupt, brief
from compat.pickles.reader import Meaning
from compat.records import MAX_DIMS, MAX_INT64


@sealed
@dataclass(frozen=True, slots=True)
class StorageType:
    """A storage class used as a name, such as `torch.FloatStorage`; `dtype` is None for untyped ones."""

    dtype: str | None


def expect(value: Any, kind: type | tuple[type, ...], what: str) -> Any:
    """The value, when it is of that kind.

    Raises:
        Corrupt: it is not; a bool is no int here.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise Corrupt(f"{what} is {brief(value)}")
    return value


def ints(values: Any, what: str) -> tuple[int, ...]:
    """A tuple of whole numbers, as sizes and strides are.

    Raises:
        Corrupt: they are something else, too many, or beyond 64 bits.
    """
    numbers = tuple(expect(values, (tuple, list), what))
    if len(numbers) > MAX_DIMS:
        raise Corrupt(f"{what} has {len(numbers):,} dimensions", expected=f"at most {MAX_DIMS}")
    for number in numbers:
        if abs(expect(number, int, what)) > MAX_INT64:
            raise Corrupt(f"{what} is {brief(values)}", expected="numbers of 64 bits")
    return numbers


def _dtype_name(dtype: Any) -> str:
    if not isinstance(dtype, TorchValue) or dtype.kind != "dtype":
        raise Corrupt(f"a tensor's dtype is {brief(dtype)}")
    return dtype.name


def _metadata_bits(metadata: Any) -> set[str]:
    if not metadata:
        return set()
    expect(metadata, dict, "a tensor's metadata")
    return {name for name in ("conj", "neg") if metadata.get(name)}


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, dtype: str, bits: Any
) -> TensorRecord:
    lazy = _metadata_bits(bits)
    shape, steps = ints(size, "a tensor's shape"), ints(stride, "a tensor's stride")
    expect(offset, int, "a tensor's storage_offset")
    if storage.whole is not None:
        _check_part(storage, offset, shape, steps)
    return TensorRecord(
        dtype=dtype,
        shape=shape,
        stride=steps,
        storage_offset=storage.begin + offset,
        storage=storage.whole or storage.storage,
        requires_grad=bool(requires_grad),
        conj="conj" in lazy,
        neg="neg" in lazy,
    )


def _check_part(storage: StorageRef, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    """Refuse a tensor that reaches outside the part of a storage that it was made on."""
    if offset < 0 or len(shape) != len(stride) or min((*shape, *stride), default=0) < 0:
        raise Corrupt(f"a tensor has shape {brief(shape)}, stride {brief(stride)}, storage_offset {brief(offset)}")
    needed = 0 if 0 in shape else offset + 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if needed * DTYPES[storage.dtype].itemsize > storage.storage.nbytes:
        raise Corrupt(f"a tensor needs {needed:,} elements of view {storage.storage.key} of a storage")


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> TensorRecord:
    """What `_rebuild_tensor(…)` stands for: every tensor of torch 0.1 to 0.3.

    Raises:
        Corrupt: it is made of something else.
    """
    return _rebuild_tensor_v2(storage, offset, size, stride, False, None)


def _rebuild_tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, _hooks: Any, metadata: Any = None
) -> TensorRecord:
    expect(storage, StorageRef, "a tensor's storage")
    return _tensor(storage, offset, size, stride, requires_grad, storage.dtype, metadata)


def _rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    _hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> TensorRecord:
    expect(storage, StorageRef, "a tensor's storage")
    return _tensor(storage, offset, size, stride, requires_grad, _dtype_name(dtype), metadata)


def _rebuild_parameter(data: Any, requires_grad: Any, hooks: Any) -> Any:
    return _parameter("torch._utils._rebuild_parameter", data, (requires_grad, hooks), None)


def _rebuild_parameter_with_state(data: Any, requires_grad: Any, hooks: Any, state: Any) -> Any:
    return _parameter("torch._utils._rebuild_parameter_with_state", data, (requires_grad, hooks, state), state)


def _parameter(name: str, data: Any, behind: tuple[Any, ...], state: Any) -> Any:
    """A Parameter; one around an object that stays opaque, such as a quantized weight, stays opaque too."""
    if isinstance(data, Opaque):
        return _called(name, (data, *behind))
    attributes = state or getattr(data, "attributes", None)
    if isinstance(data, Composite):
        return replace(data, parameter=True, requires_grad=bool(behind[0]), attributes=attributes)
    record: TensorRecord = expect(data, TensorRecord, "a parameter's data")
    return replace(record, kind="parameter", requires_grad=bool(behind[0]), attributes=attributes)


def _called(name: str, args: tuple[Any, ...]) -> Opaque:
    made = Opaque(name, args)
    made.made_by = "call"
    return made


def _rebuild_from_type(call: Any, kind: Any, args: Any, state: Any) -> Any:
    """A tensor with Python attributes, or one of a subclass.

    A subclass that is a strided tensor itself is that tensor, with its class said; one that only wraps others
    stays opaque, and those it wraps are found in its state.
    """
    name = str(getattr(kind, "global_name", ""))
    if isinstance(call, Meaning) and (name in _TENSOR_TYPES or call.name in _STRIDED_CALLS):
        made = call(*expect(args, tuple, "a tensor's arguments"))
        if name in _TENSOR_TYPES and isinstance(made, (TensorRecord, Composite)):
            return replace(made, attributes=state)
        if name and isinstance(made, TensorRecord):
            return replace(made, attributes=state, subclass=GlobalRef(kind.global_name))
    if str(getattr(call, "global_name", "")) == JAGGED_CALL and name == JAGGED_CLASS:
        (kwargs,) = args if isinstance(args, tuple) and len(args) == 1 else (None,)
        return from_jagged_call(kwargs, state)
    if name == JAGGED_CLASS and call is kind:
        return from_early_jagged_call(args, state)
    return _called(TYPED_CALL, (call, kind, args, state))


def _rebuild_meta_tensor(dtype: Any, size: Any, stride: Any, requires_grad: Any) -> TensorRecord:
    name = _dtype_name(dtype)
    shape, steps = ints(size, "a tensor's shape"), ints(stride, "a tensor's stride")
    reach = 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, steps, strict=False))
    storage = StorageRecord(key="meta", nbytes=reach * DTYPES[name].itemsize, device="meta")
    return _tensor(StorageRef(storage, name), 0, shape, steps, requires_grad, name, None)


def _device_name(device: Any) -> str:
    if isinstance(device, TorchValue) and device.kind == "device":
        return device.name
    return str(expect(device, str, "a tensor's device"))


def _rebuild_from_cpu(data: Any, dtype: Any, device: Any, requires_grad: Any) -> Any:
    """A tensor of a device without storages, given by its copy in main memory."""
    record: TensorRecord = expect(data, TensorRecord, "a tensor's copy in main memory")
    if record.dtype != _dtype_name(dtype):
        raise Corrupt(f"a tensor of {_dtype_name(dtype)} is given as {record.dtype}")
    # Nothing else refers to it: the writer made it for this tensor alone.
    record.storage.device = _device_name(device)
    return replace(record, requires_grad=bool(requires_grad))


def _narrowed(array: NumpyArray, name: str) -> bytes:
    """The upper halves of float32 values, which are bfloat16 values, when the lower ones are empty."""
    lower = memoryview(array.data)[::4], memoryview(array.data)[1::4]
    if array.dtype != "<f4" or name != _UPPER_HALF or any(half.tobytes().strip(b"\0") for half in lower):
        raise Corrupt(f"a tensor of {name} is given as a numpy array of {array.dtype}")
    return b"".join(array.data[at + 2 : at + 4] for at in range(0, len(array.data), 4))


def _rebuild_from_numpy(name: str, data: Any, dtype: Any, device: Any, requires_grad: Any) -> Any:
    """The same, given as a numpy array; what numpy has no dtype for came as float32, without loss."""
    array = arrays.from_opaque(data) if isinstance(data, Opaque) else data
    if not isinstance(array, NumpyArray) or array.order != "C" or not array.dtype.startswith(("<", "|")):
        return _called(name, (data, dtype, device, requires_grad))
    wanted = _dtype_name(dtype)
    content = array.data if DTYPES[wanted].numpy == array.dtype[1:] else _narrowed(array, wanted)
    place, stride = _device_name(device), contiguous_stride(array.shape)
    storage = StorageRecord(key="numpy", nbytes=len(content), device=place, dtype=wanted, data=MemoryData(content))
    return _tensor(StorageRef(storage, wanted), 0, array.shape, stride, requires_grad, wanted, None)


_TENSOR_TYPES: Final = frozenset({"torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter"})
# The dtype that float32 is a superset of, and that numpy has not.
_UPPER_HALF: Final = BY_STORAGE["BFloat16Storage"].name
_STRIDED_CALLS: Final = frozenset(f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3"))
TENSOR_CALLS: Final[Mapping[str, Callable[..., Any]]] = {
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter_with_state,
    "torch._utils._rebuild_meta_tensor_no_storage": _rebuild_meta_tensor,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _rebuild_from_cpu,
    **{
        f"torch._utils._rebuild_{name}": partial(_rebuild_from_numpy, f"torch._utils._rebuild_{name}")
        for name in ("device_tensor_from_numpy", "xla_tensor", "mlc_tensor", "ort_tensor", "hpu_tensor")
    },
    TYPED_CALL: _rebuild_from_type,
    "torch._tensor._rebuild_from_type": _rebuild_from_type,
    # Where these two stood in torch 1.7 and 1.8.
    "torch.tensor._rebuild_from_type": _rebuild_from_type,
    "torch.tensor._rebuild_from_type_v2": _rebuild_from_type,
}
