"""Tensors that are made of tensors: sparse, quantized and nested ones, in every direction.

Each kind says how torch's pickles describe it, how a live one is made, and how a live one is taken apart.
Sources: `torch/_utils.py` (`_rebuild_sparse_tensor`, `_rebuild_qtensor`, `_rebuild_nested_tensor`) and
`torch/_tensor.py` (`__reduce_ex__`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, Final

from compat.checkpoint import Composite, Size, StorageRef, TensorRecord, TorchValue
from compat.errors import Corrupt, brief
from compat.records import MAX_INT64

_COMPRESSED: Final = ("sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")
_PER_TENSOR: Final = ("per_tensor_affine", "per_tensor_symmetric")
_PER_CHANNEL: Final = ("per_channel_affine", "per_channel_symmetric", "per_channel_affine_float_qparams")

Call = tuple[str, tuple[Any, ...]]


def _tensors(values: tuple[Any, ...], what: str) -> None:
    if not all(isinstance(value, TensorRecord) for value in values):
        raise Corrupt(f"{what} is made of {[type(value).__name__ for value in values]}", expected="tensors")


def from_sparse_call(layout: Any, data: Any) -> Composite:
    """What `_rebuild_sparse_tensor(layout, data)` stands for."""
    name = layout.name if isinstance(layout, TorchValue) else brief(layout).strip("'").removeprefix("torch.")
    if not isinstance(data, tuple):
        raise Corrupt(f"a sparse tensor is made of {type(data).__name__}")
    if name == "sparse_coo" and len(data) in (3, 4):
        coalesced = data[3] if len(data) == 4 else None  # noqa: PLR2004 - 4 since torch 2.1
        _tensors(data[:2], "a sparse tensor")
        parts = {"indices": data[0], "values": data[1], "size": _size(data[2]), "is_coalesced": coalesced}
    elif name in _COMPRESSED and len(data) == 4:  # noqa: PLR2004 - two kinds of indices, values, size
        _tensors(data[:3], "a sparse tensor")
        parts = {
            "compressed_indices": data[0],
            "plain_indices": data[1],
            "values": data[2],
            "size": _size(data[3]),
        }
    else:
        raise Corrupt(f"a sparse tensor of layout {name!r} is made of {len(data)} parts")
    return Composite(kind=name, parts=parts)


def _size(value: Any) -> Size:
    if not isinstance(value, (tuple, list)) or any(type(n) is not int or n < 0 for n in value):
        raise Corrupt(f"a sparse tensor has the size {brief(value)}")
    return Size(value)


def from_quantized_call(
    storage: Any, offset: Any, size: Any, stride: Any, params: Any, requires_grad: Any, _hooks: Any
) -> Composite:
    """What `_rebuild_qtensor(…)` stands for."""
    if not isinstance(storage, StorageRef) or not isinstance(params, tuple) or not params:
        raise Corrupt(f"a quantized tensor is made of {brief(storage, 60)} and {brief(params, 60)}")
    scheme = params[0]
    if not isinstance(scheme, TorchValue) or scheme.kind != "qscheme":
        raise Corrupt(f"a quantized tensor has the scheme {brief(scheme, 60)}")
    numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (None,)
    if any(type(number) is not int or abs(number) > MAX_INT64 for number in numbers):
        raise Corrupt(f"a quantized tensor lies at {brief((offset, size, stride), 120)}", expected="whole numbers")
    data = TensorRecord(
        dtype=storage.dtype,
        shape=tuple(size),
        stride=tuple(stride),
        storage_offset=offset,
        storage=storage.storage,
    )
    if scheme.name in _PER_TENSOR and len(params) == 3:  # noqa: PLR2004 - scheme, scale, zero point
        parts = {"data": data, "scale": params[1], "zero_point": params[2]}
    elif scheme.name in _PER_CHANNEL and len(params) == 4:  # noqa: PLR2004 - scheme, scales, zero points, axis
        parts = {"data": data, "scales": params[1], "zero_points": params[2], "axis": params[3]}
    else:
        raise Corrupt(f"a quantized tensor of scheme {scheme.name} has {len(params) - 1} parameters")
    return Composite(kind=scheme.name, parts=parts, requires_grad=bool(requires_grad))


def from_nested_call(buffer: Any, sizes: Any, strides: Any, offsets: Any) -> Composite:
    """What `_rebuild_nested_tensor(…)` stands for."""
    _tensors((buffer, sizes, strides, offsets), "a nested tensor")
    parts = {"buffer": buffer, "sizes": sizes, "strides": strides, "storage_offsets": offsets}
    return Composite(kind="nested", parts=parts)


FROM_CALL: Final[Mapping[str, Callable[..., Composite]]] = {
    "torch._utils._rebuild_sparse_tensor": from_sparse_call,
    "torch._utils._rebuild_qtensor": from_quantized_call,
    "torch._utils._rebuild_nested_tensor": from_nested_call,
}


# Of these functions alone requires_grad is an argument.
KEEPS_GRADIENT: Final = frozenset({"torch._utils._rebuild_qtensor"})


def to_call(node: Composite) -> Call:
    """The rebuild function that a pickle stream names for a composite, and its arguments."""
    parts = dict(node.parts)
    if node.kind == "sparse_coo":
        data = (parts["indices"], parts["values"], parts["size"])
        data += () if parts["is_coalesced"] is None else (parts["is_coalesced"],)
        return "torch._utils._rebuild_sparse_tensor", (TorchValue("layout", node.kind), data)
    if node.kind in _COMPRESSED:
        return "torch._utils._rebuild_sparse_tensor", (TorchValue("layout", node.kind), tuple(parts.values()))
    if node.kind == "nested":
        return "torch._utils._rebuild_nested_tensor", tuple(parts.values())
    data_record = parts.pop("data")
    place = (data_record.storage_offset, data_record.shape, data_record.stride)
    params = (TorchValue("qscheme", node.kind), *parts.values())
    storage = StorageRef(data_record.storage, data_record.dtype)
    return "torch._utils._rebuild_qtensor", (storage, *place, params, node.requires_grad, OrderedDict())


def from_parts(kind: str, parts: Mapping[str, Any]) -> Composite:
    """A composite of that kind, its parts checked as those of a call are.

    Raises:
        Corrupt, KeyError, TypeError, AttributeError: parts are missing, or are none of their kind.
    """
    name, args = to_call(Composite(kind=kind, parts=parts))
    return FROM_CALL[name](*args)


def live(torch: Any, kind: str, parts: Mapping[str, Any], make_quantized: Callable[[Any], Any]) -> Any:
    """A live composite from live parts.

    Args:
        torch: the torch module.
        kind: the composite's kind.
        parts: its parts, all live but the `data` of a quantized one.
        make_quantized: fills an empty quantized tensor with the data's storage.

    Raises:
        Corrupt: the parts contradict each other.
    """
    try:
        if kind == "sparse_coo":
            made = torch.sparse_coo_tensor(parts["indices"], parts["values"], parts["size"], check_invariants=True)
            return made._coalesced_(True) if parts["is_coalesced"] else made
        if kind in _COMPRESSED:
            return torch.sparse_compressed_tensor(
                parts["compressed_indices"],
                parts["plain_indices"],
                parts["values"],
                parts["size"],
                layout=getattr(torch, kind),
                check_invariants=True,
            )
        if kind == "nested":
            return _live_nested(torch, parts)
        return make_quantized(_empty_quantized(torch, parts))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise Corrupt(f"a {kind} tensor has parts that contradict each other: {error!s:.200}") from error


def _live_nested(torch: Any, parts: Mapping[str, Any]) -> Any:
    """Torch checks nothing here, so every part of the view is held against the buffer first."""
    buffer, sizes, strides, offsets = (parts[n] for n in ("buffer", "sizes", "strides", "storage_offsets"))
    rows = zip(sizes.tolist(), strides.tolist(), offsets.tolist(), strict=True)
    for size, stride, offset in rows:
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if min([offset, *size, *stride]) < 0 or (prod(size) and last >= buffer.numel()):
            raise ValueError(f"part of size {size} at {offset} lies outside a buffer of {buffer.numel()}")
    return torch._nested_view_from_buffer(buffer, sizes, strides, offsets)  # noqa: SLF001 - torch's own reader


def _empty_quantized(torch: Any, parts: Mapping[str, Any]) -> Any:
    data: TensorRecord = parts["data"]
    dtype = getattr(torch, data.dtype)
    if "axis" not in parts:
        return torch._empty_affine_quantized(  # noqa: SLF001 - as torch's own reader
            data.shape, scale=parts["scale"], zero_point=parts["zero_point"], dtype=dtype
        )
    axis = parts["axis"]
    length = data.shape[axis] if type(axis) is int and 0 <= axis < len(data.shape) else -1
    if len(parts["scales"]) != length or len(parts["zero_points"]) != length:
        raise ValueError(f"axis {axis} of shape {data.shape} has {len(parts['scales'])} scales")
    return torch._empty_per_channel_affine_quantized(  # noqa: SLF001 - as torch's own reader
        data.shape,
        scales=torch.as_tensor(parts["scales"]),
        zero_points=torch.as_tensor(parts["zero_points"]),
        axis=axis,
        dtype=dtype,
    )


def take_apart(torch: Any, tensor: Any) -> tuple[str, dict[str, Any]] | None:
    """The kind and the live parts of a composite; None for a plain strided tensor.

    The `data` of a quantized tensor is the tensor itself: its storage is what is kept.
    """
    if tensor.is_quantized:
        scheme = str(tensor.qscheme()).removeprefix("torch.")
        if scheme in _PER_TENSOR:
            return scheme, {"data": tensor, "scale": tensor.q_scale(), "zero_point": tensor.q_zero_point()}
        return scheme, {
            "data": tensor,
            "scales": tensor.q_per_channel_scales(),
            "zero_points": tensor.q_per_channel_zero_points(),
            "axis": tensor.q_per_channel_axis(),
        }
    layout = str(tensor.layout).removeprefix("torch.")
    if layout == "sparse_coo":
        return layout, {
            "indices": tensor._indices(),  # noqa: SLF001 - the public ones refuse uncoalesced tensors
            "values": tensor._values(),  # noqa: SLF001
            "size": tensor.size(),
            "is_coalesced": tensor.is_coalesced(),
        }
    if layout in _COMPRESSED:
        by_row = layout in ("sparse_csr", "sparse_bsr")
        return layout, {
            "compressed_indices": tensor.crow_indices() if by_row else tensor.ccol_indices(),
            "plain_indices": tensor.col_indices() if by_row else tensor.row_indices(),
            "values": tensor.values(),
            "size": tensor.size(),
        }
    if getattr(tensor, "is_nested", False) and tensor.layout == torch.strided:
        return "nested", {
            "buffer": tensor.values(),
            "sizes": tensor._nested_tensor_size(),  # noqa: SLF001 - as torch's own writer
            "strides": tensor._nested_tensor_strides(),  # noqa: SLF001
            "storage_offsets": tensor._nested_tensor_storage_offsets(),  # noqa: SLF001
        }
    return None
