"""Tensors that are made of tensors: sparse, quantized and nested ones, in every direction.

Each kind says how torch's pickles describe it, how a live one is made, and how a live one is taken apart.
Sources: `torch/_utils.py` (`_rebuild_sparse_tensor`, `_rebuild_qtensor`, `_rebuild_nested_tensor`),
`torch/_tensor.py` (`__reduce_ex__`) and `torch/nested/_internal/nested_tensor.py` (`_rebuild_njt`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any, Final

from compat.checkpoint import Composite, GlobalRef, Size, StorageRef, TensorRecord, TorchValue
from compat.errors import Corrupt, Unsupported, brief
from compat.records import MAX_INT64

_COMPRESSED: Final = ("sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")
_PER_TENSOR: Final = ("per_tensor_affine", "per_tensor_symmetric")
_PER_CHANNEL: Final = ("per_channel_affine", "per_channel_symmetric", "per_channel_affine_float_qparams")

# By which a tensor with Python attributes or of a subclass is made.
TYPED_CALL: Final = "torch._tensor._rebuild_from_type_v2"

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


def from_jagged_call(kwargs: Any = None, state: Any = None) -> Composite:
    """What `_rebuild_njt(…)` stands for: a nested tensor of one ragged dimension.

    Marks that only torch's compiler reads (`_dynamo_…`) are left out: making the tensor sets them anew.
    """
    if not isinstance(kwargs, dict) or not {"values", "offsets"} <= set(kwargs):
        raise Corrupt(f"a jagged tensor is made of {brief(kwargs)}")
    cache = kwargs.get("_metadata_cache") or {}
    if not isinstance(cache, dict):
        raise Corrupt(f"a jagged tensor has the cache {brief(cache)}")
    ragged = kwargs.get("_ragged_idx", 1)
    optional = {"lengths": kwargs.get("lengths")} | {name: cache.get(name) for name in _SEQUENCE_LENGTHS}
    tensors = {"values": kwargs["values"], "offsets": kwargs["offsets"]} | optional
    _tensors(tuple(value for value in tensors.values() if value is not None), "a jagged tensor")
    if type(ragged) is not int or tensors["values"] is None or tensors["offsets"] is None:
        raise Corrupt(f"a jagged tensor is ragged in dimension {brief(ragged)}")
    # Tensors without marks stay the same objects: who shares offsets has the same ragged dimension.
    bare = {n: replace(value, attributes=None) if value and value.attributes else value for n, value in tensors.items()}
    facts = state if isinstance(state, dict) else {}
    return Composite(
        kind="jagged",
        parts={**bare, "ragged_idx": ragged},
        requires_grad=bool(kwargs.get("requires_grad", False)),
        parameter=bool(facts.get("_is_param", False)),
        attributes=_without_own(facts) or None,
    )


def from_early_jagged_call(args: Any, state: Any) -> Composite:
    """What torch 2.2 to 2.4 wrote: the class called with (values, offsets), and the rest as its state.

    Their cached lengths are plain numbers, which torch computes anew when it needs them.
    """
    if not isinstance(args, tuple) or len(args) != 2 or not isinstance(state, dict):  # noqa: PLR2004 - as above
        raise Corrupt(f"a jagged tensor is made of {brief(args)}")
    facts = {"lengths": state.get("_lengths"), "_ragged_idx": state.get("_ragged_idx", 1)}
    return from_jagged_call({"values": args[0], "offsets": args[1], **facts}, state=state)


def _without_own(state: Mapping[str, Any]) -> dict[str, Any]:
    """What was set on a jagged tensor by others than torch."""
    return {n: v for n, v in state.items() if n not in _JAGGED_OWN and "_dynamo_" not in str(n)}


def attributes_of(tensor: Any) -> dict[str, Any]:
    """The Python attributes of a live tensor, as its own pickle would have them."""
    found = dict(vars(tensor))
    return _without_own(found) if type(tensor).__qualname__ == _JAGGED_NAME else found


_SEQUENCE_LENGTHS: Final = ("min_seqlen", "max_seqlen")
# The last two are torch 2.2's, which had no cache for them.
_JAGGED_OWN: Final = frozenset(
    (
        *("_values", "_offsets", "_lengths", "_ragged_idx", "_metadata_cache", "_size", "_strides", "_is_param"),
        *("_min_seqlen", "_max_seqlen"),
    )
)
_JAGGED_NAME: Final = "NestedTensor"
JAGGED_CLASS: Final = f"torch.nested._internal.nested_tensor.{_JAGGED_NAME}"
JAGGED_CALL: Final = "torch.nested._internal.nested_tensor._rebuild_njt"

FROM_CALL: Final[Mapping[str, Callable[..., Composite]]] = {
    "torch._utils._rebuild_sparse_tensor": from_sparse_call,
    # By another name in torch 1.9 to 1.13.
    "torch._utils._rebuild_sparse_csr_tensor": from_sparse_call,
    "torch._utils._rebuild_qtensor": from_quantized_call,
    "torch._utils._rebuild_nested_tensor": from_nested_call,
}


# Of these functions alone requires_grad is an argument.
KEEPS_GRADIENT: Final = frozenset({"torch._utils._rebuild_qtensor", TYPED_CALL})


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
    if node.kind == "jagged":
        cache = {name: parts[name] for name in _SEQUENCE_LENGTHS if parts[name] is not None}
        kwargs = {name: parts[name] for name in ("values", "offsets", "lengths")}
        kwargs |= {"_ragged_idx": parts["ragged_idx"], "_metadata_cache": cache, "requires_grad": node.requires_grad}
        return TYPED_CALL, (GlobalRef(JAGGED_CALL), GlobalRef(JAGGED_CLASS), (kwargs,), node.attributes or {})
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
    return from_jagged_call(*args[2]) if name == TYPED_CALL else FROM_CALL[name](*args)


def live(torch: Any, kind: str, parts: Mapping[str, Any], make_quantized: Callable[[Any], Any]) -> Any:
    """A live composite from live parts.

    Args:
        torch: the torch module.
        kind: the composite's kind.
        parts: its parts, all live but the `data` of a quantized one.
        make_quantized: fills an empty quantized tensor with the data's storage.

    Raises:
        Corrupt: the parts contradict each other.
        Unsupported: torch has no such tensors on the device that the parts are on.
    """
    try:
        return _live(torch, kind, parts, make_quantized)
    except NotImplementedError as error:
        raise Unsupported(
            f"torch {torch.__version__} makes no {kind} tensor on this device",
            feature="device",
            hint='Load it on another one: map_location="cpu".',
        ) from error
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise Corrupt(f"a {kind} tensor has parts that contradict each other: {error!s:.200}") from error


def _live(torch: Any, kind: str, parts: Mapping[str, Any], make_quantized: Callable[[Any], Any]) -> Any:
    # On the meta device there are no indices that could be wrong.
    is_meta = any(getattr(part, "is_meta", False) for part in parts.values())
    # A torch without a switch for it checks always.
    checked = {"check_invariants": not is_meta} if hasattr(torch.sparse, "check_sparse_tensor_invariants") else {}
    if kind == "sparse_coo":
        made = torch.sparse_coo_tensor(parts["indices"], parts["values"], parts["size"], **checked)
        return made._coalesced_(True) if parts["is_coalesced"] else made
    if kind in _COMPRESSED:
        return torch.sparse_compressed_tensor(
            parts["compressed_indices"],
            parts["plain_indices"],
            parts["values"],
            parts["size"],
            layout=getattr(torch, kind),
            **checked,
        )
    if kind == "nested":
        return _live_nested(torch, parts)
    if kind == "jagged":
        return _live_jagged(torch, parts, is_meta=is_meta)
    return make_quantized(_empty_quantized(torch, kind, parts))


def _live_nested(torch: Any, parts: Mapping[str, Any]) -> Any:
    """Torch checks nothing here, so every part of the view is held against the buffer first."""
    if not hasattr(torch, "_nested_view_from_buffer"):
        raise _has_none(torch, "nested")
    buffer, sizes, strides, offsets = (parts[n] for n in ("buffer", "sizes", "strides", "storage_offsets"))
    rows = zip(sizes.tolist(), strides.tolist(), offsets.tolist(), strict=True)
    for size, stride, offset in rows:
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if min([offset, *size, *stride]) < 0 or (prod(size) and last >= buffer.numel()):
            raise ValueError(f"part of size {size} at {offset} lies outside a buffer of {buffer.numel()}")
    return torch._nested_view_from_buffer(buffer, sizes, strides, offsets)  # noqa: SLF001 - torch's own reader


def _has_none(torch: Any, kind: str) -> Unsupported:
    return Unsupported(
        f"torch {torch.__version__} has no {kind} tensors of this form",
        feature=kind,
        hint="A newer torch has them; compat.open reads their parts in any.",
    )


def _live_jagged(torch: Any, parts: Mapping[str, Any], *, is_meta: bool) -> Any:
    try:
        from torch.nested._internal.nested_tensor import NestedTensor
    except ImportError:
        raise _has_none(torch, "jagged") from None
    values, offsets, lengths, ragged = (parts[n] for n in ("values", "offsets", "lengths", "ragged_idx"))
    if not is_meta:
        _check_jagged(values, offsets, lengths, ragged)
    cache = {name: parts[name] for name in _SEQUENCE_LENGTHS if parts[name] is not None}
    return NestedTensor(values, offsets, lengths=lengths, _ragged_idx=ragged, _metadata_cache=cache)


def _check_jagged(values: Any, offsets: Any, lengths: Any, ragged: int) -> None:
    """Torch checks nothing of the ranges here either."""
    begins = offsets.tolist()
    sizes = [b - a for a, b in pairwise(begins)] if lengths is None else lengths.tolist()
    dense = 1 <= ragged <= values.dim() and offsets.dim() == 1
    if not dense or len(sizes) != len(begins) - 1 or any(type(n) is not int for n in (*begins, *sizes)):
        raise ValueError(f"values of shape {list(values.shape)} are ragged in dimension {ragged}")
    rows = values.shape[ragged - 1]
    for begin, size in zip(begins, sizes, strict=False):
        if min(begin, size) < 0 or begin + size > rows:
            raise ValueError(f"a part of {size} at {begin} lies outside of {rows}")


def _empty_quantized(torch: Any, kind: str, parts: Mapping[str, Any]) -> Any:
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
    is_float = kind == _PER_CHANNEL[-1]
    return torch._empty_per_channel_affine_quantized(  # noqa: SLF001 - as torch's own reader
        data.shape,
        scales=_numbers(torch, parts["scales"], torch.float32 if is_float else torch.float64),
        zero_points=_numbers(torch, parts["zero_points"], torch.float32 if is_float else torch.int64),
        axis=axis,
        dtype=dtype,
    )


def _numbers(torch: Any, values: Any, dtype: Any) -> Any:
    """What early releases wrote as a list, at the width that torch keeps; by itself it would take float32."""
    return values if isinstance(values, torch.Tensor) else torch.tensor(values, dtype=dtype)


def take_apart(torch: Any, tensor: Any) -> tuple[str, dict[str, Any]] | None:
    """The kind and the live parts of a composite; None for a plain strided tensor.

    The `data` of a quantized tensor is the tensor itself: its storage is what is kept.
    """
    if tensor.is_quantized:
        return _take_quantized(tensor)
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
    if layout == "jagged":
        return layout, _take_jagged(tensor)
    if getattr(tensor, "is_nested", False) and tensor.layout == torch.strided:
        if not hasattr(tensor, "_nested_tensor_strides"):
            raise _has_none(torch, "nested")
        return "nested", {
            "buffer": tensor.values(),
            "sizes": tensor._nested_tensor_size(),  # noqa: SLF001 - as torch's own writer
            "strides": tensor._nested_tensor_strides(),  # noqa: SLF001
            "storage_offsets": tensor._nested_tensor_storage_offsets(),  # noqa: SLF001
        }
    return None


def _take_quantized(tensor: Any) -> tuple[str, dict[str, Any]]:
    scheme = str(tensor.qscheme()).removeprefix("torch.")
    if scheme in _PER_TENSOR:
        return scheme, {"data": tensor, "scale": tensor.q_scale(), "zero_point": tensor.q_zero_point()}
    return scheme, {
        "data": tensor,
        "scales": tensor.q_per_channel_scales(),
        "zero_points": tensor.q_per_channel_zero_points(),
        "axis": tensor.q_per_channel_axis(),
    }


def _take_jagged(tensor: Any) -> dict[str, Any]:
    """By the fields that torch's own writer takes: the public ones make views."""
    fields = vars(tensor)
    parts = {name: fields[f"_{name}"] for name in ("values", "offsets", "lengths", "ragged_idx")}
    return parts | {name: fields["_metadata_cache"].get(name) for name in _SEQUENCE_LENGTHS}
