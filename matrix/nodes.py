"""The nodes a spec's tree is made of, and their exact JSON form.

Two nodes are equal exactly when torch-free code may call the values the same: floats are kept as their IEEE
bits (NaN payloads, -0.0), a bool is not an int, a tuple is not a list, dict items keep their order.

The JSON form is what interpreters of other torch versions speak, so it is stable: `{"t": <kind>, ...}`. A new
kind is one class here, its name in `NODES`, and its two functions in `peer.py`.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final

Json = dict[str, Any]

TENSOR_KINDS: Final = ("tensor", "parameter", "buffer")


class UnknownNodeError(ValueError):
    """A JSON node, or a Python value, that no node class describes."""


class Node:
    """What every node has: its kind, and both directions of its JSON form."""

    __slots__ = ()
    kind: ClassVar[str]

    def to_json(self) -> Json:
        """Return the node as JSON-able values."""
        return self._dump()

    @classmethod
    def from_json(cls, data: Json) -> Node:
        """Return the node that `to_json` described."""
        return cls._load(data)

    def _dump(self) -> Json:
        raise NotImplementedError

    @classmethod
    def _load(cls, data: Json) -> Node:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class NoneNode(Node):
    """None."""

    kind: ClassVar[str] = "none"

    def _dump(self) -> Json:
        return {"t": "none"}

    @classmethod
    def _load(cls, data: Json) -> NoneNode:
        del data  # None has no parts
        return cls()


@dataclass(frozen=True, slots=True, kw_only=True)
class BoolNode(Node):
    """A bool, which is not an int here."""

    kind: ClassVar[str] = "bool"
    value: bool

    def _dump(self) -> Json:
        return {"t": "bool", "v": self.value}

    @classmethod
    def _load(cls, data: Json) -> BoolNode:
        return cls(value=data["v"])


@dataclass(frozen=True, slots=True, kw_only=True)
class IntNode(Node):
    """An int of any size: decimal digits in 64 bits, hexadecimal beyond (Python bounds decimal parsing)."""

    kind: ClassVar[str] = "int"
    value: int

    def __repr__(self) -> str:
        return f"IntNode(value={self.text})"

    @property
    def text(self) -> str:
        """The digits."""
        return str(self.value) if -(1 << 63) <= self.value < 1 << 63 else hex(self.value)

    def _dump(self) -> Json:
        return {"t": "int", "v": self.text}

    @classmethod
    def _load(cls, data: Json) -> IntNode:
        return cls(value=int(data["v"], 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatNode(Node):
    """A float as the hexadecimal form of its eight IEEE bytes, most significant first."""

    kind: ClassVar[str] = "float"
    bits: str

    @classmethod
    def of(cls, value: float) -> FloatNode:
        """Return the node of a float."""
        return cls(bits=struct.pack(">d", value).hex())

    @property
    def value(self) -> float:
        """The float itself."""
        number: float = struct.unpack(">d", bytes.fromhex(self.bits))[0]
        return number

    def _dump(self) -> Json:
        return {"t": "float", "v": self.bits}

    @classmethod
    def _load(cls, data: Json) -> FloatNode:
        return cls(bits=data["v"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ComplexNode(Node):
    """A complex number as the bits of its two floats."""

    kind: ClassVar[str] = "complex"
    real: str
    imag: str

    @classmethod
    def of(cls, value: complex) -> ComplexNode:
        """Return the node of a complex number."""
        return cls(real=FloatNode.of(value.real).bits, imag=FloatNode.of(value.imag).bits)

    @property
    def value(self) -> complex:
        """The complex number itself."""
        return complex(FloatNode(bits=self.real).value, FloatNode(bits=self.imag).value)

    def _dump(self) -> Json:
        return {"t": "complex", "v": [self.real, self.imag]}

    @classmethod
    def _load(cls, data: Json) -> ComplexNode:
        return cls(real=data["v"][0], imag=data["v"][1])


@dataclass(frozen=True, slots=True, kw_only=True)
class StrNode(Node):
    """A string, lone surrogates included: those travel as bytes, since JSON would join two of them."""

    kind: ClassVar[str] = "str"
    value: str

    def _dump(self) -> Json:
        try:
            self.value.encode()
        except UnicodeEncodeError:
            return {"t": "str", "x": self.value.encode("utf-8", "surrogatepass").hex()}
        return {"t": "str", "v": self.value}

    @classmethod
    def _load(cls, data: Json) -> StrNode:
        if "x" in data:
            return cls(value=bytes.fromhex(data["x"]).decode("utf-8", "surrogatepass"))
        return cls(value=data["v"])


@dataclass(frozen=True, slots=True, kw_only=True)
class BytesNode(Node):
    """A bytes object."""

    kind: ClassVar[str] = "bytes"
    value: bytes

    def _dump(self) -> Json:
        return {"t": "bytes", "v": base64.b64encode(self.value).decode("ascii")}

    @classmethod
    def _load(cls, data: Json) -> BytesNode:
        return cls(value=base64.b64decode(data["v"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceNode(Node):
    """What list, tuple and set share."""

    items: tuple[Node, ...]

    def _dump(self) -> Json:
        return {"t": self.kind, "v": [item.to_json() for item in self.items]}

    @classmethod
    def _load(cls, data: Json) -> SequenceNode:
        return cls(items=tuple(map(node_from_json, data["v"])))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListNode(SequenceNode):
    """A list."""

    kind: ClassVar[str] = "list"


@dataclass(frozen=True, slots=True, kw_only=True)
class TupleNode(SequenceNode):
    """A plain tuple; torch.Size and named tuples are something else."""

    kind: ClassVar[str] = "tuple"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNode(SequenceNode):
    """A set, its items in the order of their JSON text, so that equal sets are equal nodes."""

    kind: ClassVar[str] = "set"

    def __post_init__(self) -> None:
        ordered = sorted(self.items, key=lambda item: json.dumps(item.to_json(), sort_keys=True))
        object.__setattr__(self, "items", tuple(ordered))


Pairs = tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DictNode(Node):
    """A plain dict; its items keep their order."""

    kind: ClassVar[str] = "dict"
    items: Pairs

    def _dump(self) -> Json:
        return {"t": self.kind, "v": [[key.to_json(), value.to_json()] for key, value in self.items]}

    @classmethod
    def _load(cls, data: Json) -> DictNode:
        return cls(items=_pairs(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class ODictNode(DictNode):
    """An OrderedDict, with the `_metadata` attribute that a state_dict carries (None: it has none)."""

    kind: ClassVar[str] = "odict"
    metadata: Node | None = None

    def _dump(self) -> Json:
        data: Json = {"t": "odict", "v": [[key.to_json(), value.to_json()] for key, value in self.items]}
        if self.metadata is not None:
            data["metadata"] = self.metadata.to_json()
        return data

    @classmethod
    def _load(cls, data: Json) -> ODictNode:
        metadata = data.get("metadata")
        return cls(items=_pairs(data), metadata=None if metadata is None else node_from_json(metadata))


def _pairs(data: Json) -> Pairs:
    return tuple((node_from_json(key), node_from_json(value)) for key, value in data["v"])


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeNode(Node):
    """A torch.Size."""

    kind: ClassVar[str] = "size"
    sizes: tuple[int, ...]

    def _dump(self) -> Json:
        return {"t": "size", "v": list(self.sizes)}

    @classmethod
    def _load(cls, data: Json) -> SizeNode:
        return cls(sizes=tuple(data["v"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class NameNode(Node):
    """What nodes share that are a name and nothing else."""

    name: str

    def _dump(self) -> Json:
        return {"t": self.kind, "v": self.name}

    @classmethod
    def _load(cls, data: Json) -> NameNode:
        return cls(name=data["v"])


@dataclass(frozen=True, slots=True, kw_only=True)
class DTypeNode(NameNode):
    """A torch.dtype, without the `torch.` in front."""

    kind: ClassVar[str] = "dtype"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode(NameNode):
    """A torch.device, as str() shows it."""

    kind: ClassVar[str] = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaqueNode(NameNode):
    """Something met and not understood: its type and a cut repr, so that it is never silently dropped."""

    kind: ClassVar[str] = "opaque"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorNode(Node):
    """A strided tensor: a view of a storage.

    Attributes:
        storage: index into the spec's storages; storage_offset: in elements, like stride.
        tensor_kind: "tensor", "parameter" or "buffer" (torch.nn.Buffer).
        conj, neg: torch's lazy conjugation and negation bits; the bytes are those beneath them.
    """

    kind: ClassVar[str] = "tensor"
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage: int
    storage_offset: int = 0
    requires_grad: bool = False
    tensor_kind: str = "tensor"
    conj: bool = False
    neg: bool = False

    def _dump(self) -> Json:
        return {
            "t": "tensor",
            "dtype": self.dtype,
            "shape": list(self.shape),
            "stride": list(self.stride),
            "storage_offset": self.storage_offset,
            "storage": self.storage,
            "requires_grad": self.requires_grad,
            "kind": self.tensor_kind,
            "conj": self.conj,
            "neg": self.neg,
        }

    @classmethod
    def _load(cls, data: Json) -> TensorNode:
        return cls(
            dtype=data["dtype"],
            shape=tuple(data["shape"]),
            stride=tuple(data["stride"]),
            storage_offset=data["storage_offset"],
            storage=data["storage"],
            requires_grad=data["requires_grad"],
            tensor_kind=data["kind"],
            conj=data["conj"],
            neg=data["neg"],
        )


NODES: Final[Mapping[str, type[Node]]] = MappingProxyType(
    {
        cls.kind: cls
        for cls in (
            NoneNode, BoolNode, IntNode, FloatNode, ComplexNode, StrNode, BytesNode, ListNode, TupleNode,
            SetNode, DictNode, ODictNode, SizeNode, DTypeNode, DeviceNode, OpaqueNode, TensorNode,
        )
    }
)  # fmt: skip


def node_from_json(data: Json) -> Node:
    """Return the node that a JSON form describes."""
    node = NODES.get(data.get("t", ""))
    if node is None:
        raise UnknownNodeError(
            f"a spec node has kind {data.get('t')!r}, expected one of {', '.join(NODES)}; "
            "it was written by another version of compat-matrix: use the same one on both sides"
        )
    return node.from_json(data)
