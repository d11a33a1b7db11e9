"""A checkpoint of `compat` as a spec, without torch: records become nodes, and bytes are read.

The twin of `writer.plain` and `peer.describe`, which do the same to live objects: what a spec has no node for is
spelled as the dict that `plain` makes of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from compat.checkpoint import (
    Checkpoint,
    Composite,
    GlobalRef,
    NumpyArray,
    NumpyDType,
    Opaque,
    Size,
    StorageRecord,
    StorageRef,
    TensorRecord,
    TorchValue,
)
from compat.data import read
from compat.dtypes import DTYPES
from matrix.nodes import (
    BytesNode,
    DeviceNode,
    DictNode,
    DTypeNode,
    ListNode,
    Node,
    ODictNode,
    OpaqueNode,
    SetNode,
    SizeNode,
    TensorNode,
    TupleNode,
)
from matrix.spec import CheckpointSpec, StorageSpec, to_node

# As in writer/plain.py, which cannot be imported where there is no torch.
MARK: Final = "(kind)"
_CODES: Final[Mapping[str, Literal["d", "f", "q"]]] = {"float64": "d", "float32": "f", "int64": "q"}
_OWN_ATTRIBUTES: Final = ("_is_buffer", "_is_param", "persistent")


def describe(checkpoint: Checkpoint, tree: Any = None) -> CheckpointSpec:
    """The spec of an open checkpoint, or of a part of its tree; every storage is read once."""
    describer = _Describer()
    node = describer.node(checkpoint.tree if tree is None else tree)
    return CheckpointSpec(storages=tuple(describer.storages), tree=node).normalized()


def _marked(kind: str, **parts: Any) -> dict[str, Any]:
    return {MARK: kind, **parts}


class _Describer:
    """Describes one tree; storages are numbered in the order in which they are met."""

    def __init__(self) -> None:
        self.storages: list[StorageSpec] = []
        self.index: dict[int, int] = {}

    def node(self, value: Any) -> Node:
        handler = _NODES.get(type(value))
        return to_node(value) if handler is None else handler(self, value)

    def mapping(self, value: dict[Any, Any]) -> Node:
        items = tuple((self.node(key), self.node(item)) for key, item in value.items())
        if type(value) is not OrderedDict:
            return DictNode(items=items)
        metadata = vars(value).get("_metadata")
        return ODictNode(items=items, metadata=None if metadata is None else self.node(metadata))

    def sequence(self, value: Any) -> Node:
        items = tuple(map(self.node, value))
        if isinstance(value, list):
            return ListNode(items=items)
        return TupleNode(items=items) if isinstance(value, tuple) else SetNode(items=items)

    def torch_value(self, value: TorchValue) -> Node:
        if value.kind == "device":
            return DeviceNode(name=value.name)
        if value.kind == "dtype":
            return DTypeNode(name=value.name)
        return self.node(_marked(value.kind, name=value.name))

    def tensor(self, value: TensorRecord) -> Node:
        made = TensorNode(
            dtype=value.dtype,
            shape=value.shape,
            stride=value.stride,
            storage=self.storage(value.storage),
            storage_offset=value.storage_offset,
            requires_grad=value.requires_grad,
            tensor_kind=self._kind(value),
            conj=value.conj,
            neg=value.neg,
        )
        attributes = {n: v for n, v in (value.attributes or {}).items() if n not in _OWN_ATTRIBUTES}
        return self.node(_marked("attributed", tensor=made, attributes=attributes)) if attributes else made

    def _kind(self, value: TensorRecord) -> str:
        is_buffer = isinstance(value.attributes, dict) and value.attributes.get("_is_buffer") is True
        return "buffer" if is_buffer and value.kind == "tensor" else value.kind

    def storage(self, record: StorageRecord) -> int:
        index = self.index.get(id(record))
        if index is None:
            index = self.index[id(record)] = len(self.storages)
            data = b"" if record.data is None else bytes(read(record.data))
            self.storages.append(StorageSpec(data=data, device=record.device))
        return index

    def storage_ref(self, value: StorageRef) -> Node:
        length = value.storage.nbytes // DTYPES[value.dtype].itemsize
        values = TensorRecord(dtype=value.dtype, shape=(length,), stride=(1,), storage_offset=0, storage=value.storage)
        return self.node(_marked("storage", typed=value.storage.dtype is not None, values=values))

    def composite(self, value: Composite) -> Node:
        made = _COMPOSITES.get(value.kind, _quantized)(value.kind, value.parts)
        attributes = {n: v for n, v in (value.attributes or {}).items() if n not in _OWN_ATTRIBUTES}
        return self.node(_marked("attributed", tensor=made, attributes=attributes) if attributes else made)


def _coo(kind: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    made = _marked(kind, size=tuple(parts["size"]), values=parts["values"], indices=parts["indices"])
    return {**made, "coalesced": bool(parts["is_coalesced"]) or not parts["indices"].shape[-1]}


def _compressed(kind: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    outer, inner = parts["compressed_indices"], parts["plain_indices"]
    return _marked(kind, size=tuple(parts["size"]), values=parts["values"], outer=outer, inner=inner)


def _nested(kind: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    offsets = _numbers(parts["storage_offsets"])
    return _marked(kind, offsets=list(offsets), **{n: parts[n] for n in ("buffer", "sizes", "strides")})


def _jagged(kind: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    tensors = {f"_{name}": parts[name] for name in ("values", "offsets", "lengths")}
    return _marked(kind, ragged=parts["ragged_idx"], **tensors)


def _numbers(value: Any) -> Any:
    """A tensor of one dimension as a list, which is what some releases write instead."""
    if not isinstance(value, TensorRecord):
        return value
    raw = memoryview(b"" if value.storage.data is None else bytes(read(value.storage.data)))
    numbers = raw.cast(_CODES[value.dtype]).tolist()
    return [numbers[value.storage_offset + place * value.stride[0]] for place in range(value.shape[0])]


def _quantized(kind: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    data: TensorRecord = parts["data"]
    raw = b"" if data.storage.data is None else bytes(read(data.storage.data))
    made = _marked(kind, dtype=data.dtype, offset=data.storage_offset, shape=data.shape, stride=data.stride)
    return {**made, "bytes": raw, **{name: _numbers(value) for name, value in parts.items() if name != "data"}}


_COMPOSITES: Final[Mapping[str, Callable[[str, Mapping[str, Any]], dict[str, Any]]]] = {
    "sparse_coo": _coo,
    **{f"sparse_{name}": _compressed for name in ("csr", "csc", "bsr", "bsc")},
    "nested": _nested,
    "jagged": _jagged,
}


def _array(describer: _Describer, value: NumpyArray) -> Node:
    if value.scalar:
        return describer.node(_marked("numpy scalar", dtype=value.dtype, bytes=value.data))
    data = BytesNode(value=bytes(value.data))
    return describer.node(_marked("numpy array", bytes=data, dtype=value.dtype, shape=value.shape, order=value.order))


_NODES: Final[Mapping[type, Callable[[_Describer, Any], Node]]] = {
    dict: _Describer.mapping,
    OrderedDict: _Describer.mapping,
    list: _Describer.sequence,
    tuple: _Describer.sequence,
    set: _Describer.sequence,
    frozenset: lambda describer, value: describer.node(_marked("frozenset", members=set(value))),
    Size: lambda _, value: SizeNode(sizes=tuple(value)),
    TorchValue: _Describer.torch_value,
    TensorRecord: _Describer.tensor,
    Composite: _Describer.composite,
    StorageRef: _Describer.storage_ref,
    NumpyArray: _array,
    NumpyDType: lambda describer, value: describer.node(_marked("numpy dtype", dtype=value.dtype)),
    Opaque: lambda _, value: OpaqueNode(name=str(value.name)),
    GlobalRef: lambda _, value: OpaqueNode(name=str(value.name)),
}
