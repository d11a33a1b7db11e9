"""What the names in a `torch.save` pickle stream mean: torch's rebuild functions, storages and constants.

Nothing of torch is imported. Source: `torch/_utils.py` (the `_rebuild_*` functions), `torch/_tensor.py`
(`__reduce_ex__`), `torch/nn/parameter.py`, `torch/storage.py`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from compat.checkpoint import (
    MAX_DEPTH,
    Composite,
    GlobalRef,
    Opaque,
    Size,
    StorageRecord,
    StorageRef,
    TensorRecord,
    TorchValue,
    check_key,
    sealed,
)
from compat.composites import FROM_CALL
from compat.dtypes import BY_STORAGE, DTYPES
from compat.errors import Corrupt, Unsupported, brief
from compat.pickles.reader import Meaning, StandIn
from compat.pickles.vet import DEFAULT_LIMITS
from compat.records import MAX_DIMS, MAX_INT64, TORCH_VALUES


@sealed
@dataclass(frozen=True, slots=True)
class StorageType:
    """A storage class used as a name, such as `torch.FloatStorage`; `dtype` is None for untyped ones."""

    dtype: str | None


def _expect(value: Any, kind: type | tuple[type, ...], what: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise Corrupt(f"{what} is {brief(value)}")
    return value


def _ints(values: Any, what: str) -> tuple[int, ...]:
    numbers = tuple(_expect(values, (tuple, list), what))
    if len(numbers) > MAX_DIMS:
        raise Corrupt(f"{what} has {len(numbers):,} dimensions", expected=f"at most {MAX_DIMS}")
    for number in numbers:
        if abs(_expect(number, int, what)) > MAX_INT64:
            raise Corrupt(f"{what} is {brief(values)}", expected="numbers of 64 bits")
    return numbers


def _dtype_name(dtype: Any) -> str:
    if not isinstance(dtype, TorchValue) or dtype.kind != "dtype":
        raise Corrupt(f"a tensor's dtype is {brief(dtype)}")
    return dtype.name


def _metadata_bits(metadata: Any) -> set[str]:
    if not metadata:
        return set()
    _expect(metadata, dict, "a tensor's metadata")
    return {name for name in ("conj", "neg") if metadata.get(name)}


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, dtype: str, bits: Any
) -> TensorRecord:
    lazy = _metadata_bits(bits)
    return TensorRecord(
        dtype=dtype,
        shape=_ints(size, "a tensor's shape"),
        stride=_ints(stride, "a tensor's stride"),
        storage_offset=_expect(offset, int, "a tensor's storage_offset"),
        storage=storage.storage,
        requires_grad=bool(requires_grad),
        conj="conj" in lazy,
        neg="neg" in lazy,
    )


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> TensorRecord:
    return _rebuild_tensor_v2(storage, offset, size, stride, False, None)


def _rebuild_tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, _hooks: Any, metadata: Any = None
) -> TensorRecord:
    _expect(storage, StorageRef, "a tensor's storage")
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
    _expect(storage, StorageRef, "a tensor's storage")
    return _tensor(storage, offset, size, stride, requires_grad, _dtype_name(dtype), metadata)


def _rebuild_parameter(data: Any, requires_grad: Any, _hooks: Any) -> TensorRecord | Composite:
    if isinstance(data, Composite):
        return replace(data, parameter=True, requires_grad=bool(requires_grad))
    record: TensorRecord = _expect(data, TensorRecord, "a parameter's data")
    return replace(record, kind="parameter", requires_grad=bool(requires_grad))


def _rebuild_parameter_with_state(data: Any, requires_grad: Any, _hooks: Any, state: Any) -> TensorRecord:
    record: TensorRecord = _expect(data, TensorRecord, "a parameter's data")
    return replace(record, kind="parameter", requires_grad=bool(requires_grad), attributes=state)


def _rebuild_from_type(call: Any, kind: Any, args: Any, state: Any) -> Any:
    """A tensor with Python attributes, or one of a subclass, which stays opaque."""
    name = getattr(kind, "global_name", "")
    if isinstance(call, Meaning) and name in _TENSOR_TYPES:
        made = call(*_expect(args, tuple, "a tensor's arguments"))
        return replace(_expect(made, TensorRecord, "a tensor"), attributes=state)
    made = Opaque("torch._tensor._rebuild_from_type_v2", (call, kind, args, state))
    made.made_by = "call"
    return made


def _rebuild_meta_tensor(dtype: Any, size: Any, stride: Any, requires_grad: Any) -> TensorRecord:
    name = _dtype_name(dtype)
    shape, steps = _ints(size, "a tensor's shape"), _ints(stride, "a tensor's stride")
    reach = 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, steps, strict=False))
    storage = StorageRecord(key="meta", nbytes=reach * DTYPES[name].itemsize, device="meta")
    return _tensor(StorageRef(storage, name), 0, shape, steps, requires_grad, name, None)


def _device(kind: Any, index: Any = None) -> TorchValue:
    _expect(kind, str, "a device")
    return TorchValue("device", kind if index is None else f"{kind}:{_expect(index, int, 'a device index')}")


def _size(values: Any = ()) -> Size:
    return Size(_ints(values, "a torch.Size"))


def _layout(name: Any) -> TorchValue:
    layout = TorchValue("layout", _expect(name, str, "a layout").removeprefix("torch."))
    if layout not in TORCH_VALUES:
        raise Corrupt(f"a layout is {brief(name)}", expected="one that torch has")
    return layout


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, by which protocol 2 writes bytes; only the one encoding it uses."""
    if encoding not in ("latin1", "latin-1"):
        raise Corrupt(f"bytes are encoded as {encoding!r}")
    return str(_expect(text, str, "encoded bytes")).encode("latin-1")


def _bytearray(content: Any = b"", encoding: Any = "latin-1") -> bytearray:
    if isinstance(content, str):
        return bytearray(_encode(content, encoding))
    return bytearray(_expect(content, (bytes, bytearray), "a bytearray's content"))


def _bytes(*content: Any) -> bytes:
    """`bytes()`, by which protocol 2 writes the empty one."""
    if content:
        raise Corrupt(f"bytes are made of {brief(content)}")
    return b""


def _complex(real: Any, imag: Any) -> complex:
    return complex(_expect(real, float, "a complex number"), _expect(imag, float, "a complex number"))


def _hash_cost(value: Any, budget: list[int], depth: int = 0) -> None:
    if isinstance(value, tuple):
        budget[0] -= len(value) + 1
        if budget[0] < 0 or depth > DEFAULT_LIMITS.tuple_depth:
            raise Corrupt("keys are tuples that nest or repeat themselves without end")
        for item in value:
            _hash_cost(item, budget, depth + 1)


def _keys(values: Any) -> list[Any]:
    """Values that are safe to hash: the unpickler's own budget does not see inside lists."""
    listed = list(_expect(values, (list, tuple, set, frozenset), "a set's content"))
    budget = [16 * len(listed) + 4096]
    for value in listed:
        _hash_cost(value, budget)
    return listed


def _pairs(pairs: Any) -> list[tuple[Any, Any]]:
    if isinstance(pairs, dict):
        return list(dict.items(pairs))
    listed = [_expect(pair, (list, tuple), "a dict's item") for pair in _expect(pairs, (list, tuple), "a dict's items")]
    if any(len(pair) != 2 for pair in listed):  # noqa: PLR2004 - a key and a value
        raise Corrupt("a dict's item is no pair")
    return list(zip(_keys([key for key, _ in listed]), [value for _, value in listed], strict=True))


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(_pairs(pairs))


def _counter(pairs: Any = ()) -> Counter[Any]:
    return Counter(dict(_pairs(pairs)))


def _storage_types() -> dict[str, StorageType]:
    types = {
        f"{module}.{name}": StorageType(dtype.name)
        for name, dtype in BY_STORAGE.items()
        for module in ("torch", "torch.cuda")
    }
    for name in ("UntypedStorage", "_UntypedStorage"):
        types |= {f"{module}.{name}": StorageType(None) for module in ("torch.storage", "torch", "torch.cuda")}
    return types


_TENSOR_TYPES: Final = frozenset({"torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter"})
_CALLS: Final[Mapping[str, Callable[..., Any]]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter_with_state,
    "torch._utils._rebuild_meta_tensor_no_storage": _rebuild_meta_tensor,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    **FROM_CALL,
    "torch.device": _device,
    "torch.Size": _size,
    "torch.serialization._get_layout": _layout,
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "builtins.set": lambda values=(): set(_keys(values)),
    "builtins.frozenset": lambda values=(): frozenset(_keys(values)),
    "builtins.bytearray": _bytearray,
    "builtins.bytes": _bytes,
    "builtins.complex": _complex,
    "_codecs.encode": _encode,
}
# Layouts are made by a call.
_CONSTANTS: Final = {f"torch.{value.name}": value for value in TORCH_VALUES if value.kind != "layout"}

# Names that hold no danger and have a meaning here; everything else becomes an inert StandIn.
MEANINGS: Final[Mapping[str, Any]] = (
    {name: Meaning(name, call) for name, call in _CALLS.items()} | _CONSTANTS | _storage_types()
)


def settle(tree: Any) -> Any:
    """A copy of an unpickled tree without stand-ins: classes become `GlobalRef`, instances `Opaque`.

    Containers that are held twice stay one object.

    Raises:
        Unsupported: the tree nests too deep.
    """
    return _Settler().settle(tree, 0)


class _Settler:
    def __init__(self) -> None:
        self.done: dict[int, Any] = {}
        self.kept: list[Any] = []

    def settle(self, node: Any, depth: int) -> Any:
        if isinstance(node, (str, int, float, bytes)) or node is None:
            return node
        if id(node) in self.done:
            return self.done[id(node)]
        if depth > MAX_DEPTH:
            raise Unsupported(
                f"containers nest deeper than {MAX_DEPTH} levels", feature="depth", expected="a flatter tree"
            )
        self.kept.append(node)
        settled = self._container(node, depth)
        self.done[id(node)] = settled
        return settled

    def _container(self, node: Any, depth: int) -> Any:
        if isinstance(node, Meaning):
            return GlobalRef(node.name)
        if isinstance(node, type) and issubclass(node, StandIn):
            return GlobalRef(node.global_name)
        if isinstance(node, StorageType):
            return GlobalRef(f"torch.{DTYPES[node.dtype].storage}" if node.dtype else "torch.storage.UntypedStorage")
        if isinstance(node, Opaque):
            return self._opaque(node, depth)
        if isinstance(node, TensorRecord) and node.attributes:
            return replace(node, attributes=self.settle(node.attributes, depth + 1))
        if isinstance(node, Composite):
            return replace(node, parts={name: self.settle(part, depth + 1) for name, part in node.parts.items()})
        if isinstance(node, dict):
            return self._dict(node, depth)
        if isinstance(node, (set, frozenset)):
            return type(node)(self.settle(check_key(member), depth + 1) for member in node)
        if isinstance(node, list):
            made: list[Any] = []
            self.done[id(node)] = made
            made.extend(self.settle(item, depth + 1) for item in node)
            return made
        if type(node) is tuple:
            return tuple(self.settle(item, depth + 1) for item in node)
        return node

    def _dict(self, node: dict[Any, Any], depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = type(node)()
        self.done[id(node)] = made
        for key, value in dict.items(node):
            made[self.settle(check_key(key), depth + 1)] = self.settle(value, depth + 1)
        if isinstance(node, OrderedDict):
            vars(made).update({name: self.settle(value, depth + 1) for name, value in vars(node).items()})
        return made

    def _opaque(self, node: Opaque, depth: int) -> Any:
        made = Opaque(node.name)
        made.made_by = node.made_by
        self.done[id(node)] = made
        for name in ("callee", "args", "kwargs", "state", "items"):
            setattr(made, name, self.settle(getattr(node, name), depth + 1))
        made.pairs = [(self.settle(k, depth + 1), self.settle(v, depth + 1)) for k, v in node.pairs]
        return made
