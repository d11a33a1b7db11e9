"""Plain Python values as JSON text and back, exactly: what the formats without a tree carry as metadata.

JSON's own types stand for themselves; everything else is an object with one telling key. A finite float is
written so that it reads back to the same bits; infinities and NaNs (with payload) by their eight bytes.
"""

from __future__ import annotations

import base64
import math
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from compat import arrays
from compat.checkpoint import (
    MAX_DEPTH,
    Composite,
    NumpyArray,
    NumpyDType,
    Path,
    Size,
    TensorRecord,
    TorchValue,
    check_key,
    path_text,
)
from compat.composites import from_parts
from compat.errors import Corrupt, Unsupported, brief
from compat.records import MAX_INT64, TORCH_VALUES

# Python refuses to turn much longer numbers into decimal digits, and back.
_MAX_DECIMAL_BITS: Final = 4096

EncodeTensor = Callable[[TensorRecord, Path], Any]
DecodeTensor = Callable[[Any], Any]


def encode(node: Any, encode_tensor: EncodeTensor, path: Path = (), open_: frozenset[int] = frozenset()) -> Any:
    """A tree as JSON values; `encode_tensor` says what stands for a tensor, under the key `tensor`.

    Raises:
        Unsupported: something in the tree has no exact JSON form.
    """
    if type(node) is int and node.bit_length() > _MAX_DECIMAL_BITS:
        return {"int": hex(node)}
    if node is None or type(node) in (bool, int, str):
        return node
    if type(node) is float:
        return node if math.isfinite(node) else {"float": struct.pack(">d", node).hex()}
    if isinstance(node, TensorRecord):
        return {"tensor": encode_tensor(node, path)}
    if isinstance(node, Composite):
        return _encode_composite(node, encode_tensor, path)
    if id(node) in open_ or len(path) > MAX_DEPTH:
        raise Unsupported(
            f"{path_text(path)} holds itself or nests too deep", feature="containers", paths=[path_text(path)]
        )
    inside = open_ | {id(node)}

    def below(value: Any, step: Any) -> Any:
        return encode(value, encode_tensor, (*path, step), inside)

    if type(node) is list:
        return [below(value, index) for index, value in enumerate(node)]
    if isinstance(node, dict) and type(node) in _DICTS:
        made: dict[str, Any] = {_DICTS[type(node)]: [[below(k, k), below(v, k)] for k, v in dict.items(node)]}
        if type(node) is OrderedDict and vars(node):
            made["attributes"] = {name: below(value, f".{name}") for name, value in vars(node).items()}
        return made
    if type(node) in _SEQUENCES:
        return {_SEQUENCES[type(node)]: [below(value, index) for index, value in enumerate(node)]}
    return _encode_atom(node, path)


def _encode_composite(node: Composite, encode_tensor: EncodeTensor, path: Path) -> Any:
    made: dict[str, Any] = {
        "composite": {"kind": node.kind, "requires_grad": node.requires_grad, "parameter": node.parameter},
        "parts": {n: encode(v, encode_tensor, (*path, n)) for n, v in node.parts.items()},
    }
    if node.attributes:
        made["attributes"] = encode(node.attributes, encode_tensor, path)
    return made


_DICTS: Final[dict[type, str]] = {dict: "dict", OrderedDict: "odict", Counter: "counter"}
_SEQUENCES: Final[dict[type, str]] = {tuple: "tuple", set: "set", frozenset: "frozenset", Size: "size"}


def _encode_atom(node: Any, path: Path) -> Any:
    if isinstance(node, (bytes, bytearray)):
        return {type(node).__name__: base64.b64encode(node).decode("ascii")}
    if type(node) is complex:
        return {"complex": struct.pack(">dd", node.real, node.imag).hex()}
    if isinstance(node, TorchValue):
        return {"torch": [node.kind, node.name]}
    if isinstance(node, NumpyArray):
        facts = [node.dtype, list(node.shape), base64.b64encode(node.data).decode("ascii"), node.order, node.scalar]
        return {"numpy": facts}
    if isinstance(node, NumpyDType):
        return {"numpy_dtype": node.dtype}
    raise Unsupported(
        f"{path_text(path)} is {node!r:.60}",
        feature="opaque",
        paths=[path_text(path)],
        expected="tensors and plain values",
        hint="A torch format keeps it; or take it out of the checkpoint first.",
    )


def decode(node: Any, decode_tensor: DecodeTensor, depth: int = 0) -> Any:
    """The tree that `encode` wrote.

    Raises:
        Corrupt: the JSON is none of its forms.
    """
    if depth > 2 * MAX_DEPTH:
        raise Corrupt("the carried values nest too deep")
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    if isinstance(node, list):
        return [decode(value, decode_tensor, depth + 1) for value in node]
    kind = next(iter(node), None)
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    try:
        if kind == "tensor":
            return decode_tensor(node["tensor"])
        if decoder is None:
            raise Corrupt(f"a carried value is of the unknown kind {kind!r}")
        return decoder(node, lambda value: decode(value, decode_tensor, depth + 1))
    except (TypeError, ValueError, AttributeError, LookupError, struct.error) as error:
        raise Corrupt(f"a carried value is damaged: {error!s:.120}") from error


def _decode_odict(node: Any, below: Callable[[Any], Any]) -> Any:
    made = OrderedDict((check_key(below(key)), below(value)) for key, value in node["odict"])
    vars(made).update({str(name): below(value) for name, value in node.get("attributes", {}).items()})
    return made


def _decode_complex(text: str) -> complex:
    return complex(*struct.unpack(">dd", bytes.fromhex(text)))


def _decode_composite(node: Any, below: Callable[[Any], Any]) -> Composite:
    facts, parts = node["composite"], {str(name): below(value) for name, value in node["parts"].items()}
    kind = facts["kind"]
    # The parts are checked as those of a pickle stream are: by making the composite from them.
    made = from_parts(str(kind), parts)
    return replace(
        made,
        requires_grad=bool(facts["requires_grad"]),
        parameter=bool(facts["parameter"]),
        attributes=below(node.get("attributes")),
    )


def _decode_size(numbers: Any) -> Size:
    if any(type(n) is not int or abs(n) > MAX_INT64 for n in numbers):
        raise ValueError(f"a torch.Size of {brief(numbers)}")
    return Size(numbers)


def _decode_numpy(dtype: Any, shape: Any, data: Any, order: Any, scalar: Any) -> NumpyArray:
    return arrays.made(dtype, shape, base64.b64decode(data, validate=True), order, scalar=bool(scalar))


def _decode_numpy_dtype(dtype: Any) -> NumpyDType:
    if not isinstance(dtype, str) or arrays.itemsize(dtype) is None:
        raise ValueError(f"there is no numpy dtype {brief(dtype)}")
    return NumpyDType(dtype)


def _decode_torch(kind: Any, name: Any) -> TorchValue:
    value = TorchValue(kind, name)
    if value not in TORCH_VALUES and not (kind == "device" and isinstance(name, str)):
        raise ValueError(f"there is no {brief(kind)} {brief(name)}")
    return value


_DECODERS: Final[dict[str, Callable[[Any, Callable[[Any], Any]], Any]]] = {
    "int": lambda node, _: int(node["int"], 16),
    "float": lambda node, _: struct.unpack(">d", bytes.fromhex(node["float"]))[0],
    "dict": lambda node, below: {check_key(below(key)): below(value) for key, value in node["dict"]},
    "odict": _decode_odict,
    "counter": lambda node, below: Counter({check_key(below(key)): below(value) for key, value in node["counter"]}),
    "tuple": lambda node, below: tuple(below(value) for value in node["tuple"]),
    "set": lambda node, below: {check_key(below(value)) for value in node["set"]},
    "frozenset": lambda node, below: frozenset(check_key(below(value)) for value in node["frozenset"]),
    "size": lambda node, _: _decode_size(node["size"]),
    "bytes": lambda node, _: base64.b64decode(node["bytes"], validate=True),
    "bytearray": lambda node, _: bytearray(base64.b64decode(node["bytearray"], validate=True)),
    "complex": lambda node, _: _decode_complex(node["complex"]),
    "composite": _decode_composite,
    "numpy": lambda node, _: _decode_numpy(*node["numpy"]),
    "numpy_dtype": lambda node, _: _decode_numpy_dtype(node["numpy_dtype"]),
    "torch": lambda node, _: _decode_torch(*node["torch"]),
}
