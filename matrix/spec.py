"""The truth a cell is judged by: a checkpoint as raw bytes, layouts and plain values, without torch.

A `CheckpointSpec` is drawn first; `tensors.build` makes the torch state it describes and `tensors.describe`
makes a spec of any state again, so what went into a file and what came out are compared here, byte by byte.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from matrix.comparing import FACETS, Difference, compare
from matrix.nodes import (
    NODES,
    TENSOR_KINDS,
    BoolNode,
    BytesNode,
    ComplexNode,
    DeviceNode,
    DictNode,
    DTypeNode,
    FloatNode,
    IntNode,
    Json,
    ListNode,
    Node,
    NoneNode,
    ODictNode,
    OpaqueNode,
    Pairs,
    SequenceNode,
    SetNode,
    SizeNode,
    StrNode,
    TensorNode,
    TupleNode,
    UnknownNodeError,
    node_from_json,
)
from matrix.paths import children
from matrix.peer import ITEMSIZES, VERSION

__all__ = [
    "FACETS",
    "ITEMSIZES",
    "NODES",
    "TENSOR_KINDS",
    "BoolNode",
    "BytesNode",
    "CheckpointSpec",
    "ComplexNode",
    "DTypeNode",
    "DeviceNode",
    "DictNode",
    "Difference",
    "FloatNode",
    "IntNode",
    "ListNode",
    "Node",
    "NoneNode",
    "ODictNode",
    "OpaqueNode",
    "SetNode",
    "SizeNode",
    "StorageSpec",
    "StrNode",
    "TensorNode",
    "TupleNode",
    "UnknownNodeError",
    "compare",
    "to_node",
]


# How much a repr shows: Hypothesis and pytest print them, to_json() is for whoever needs every byte.
_SHOWN_BYTES: Final = 256
_SHOWN_CHARACTERS: Final = 20_000


class _Bounded:
    """Shows its bounded repr in Hypothesis' falsifying examples too, which take dataclasses apart."""

    __slots__ = ()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        del cycle  # specs hold no references back to themselves
        printer.text(repr(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSpec(_Bounded):
    """The bytes that tensors are views of.

    Attributes:
        data: every byte, those that no tensor shows too; empty on the device "meta".
        device: as str() shows a torch.device.
    """

    data: bytes
    device: str = "cpu"

    def __repr__(self) -> str:
        cut = f"…, {len(self.data)} bytes" if len(self.data) > _SHOWN_BYTES else ""
        return f"StorageSpec(data={self.data[:_SHOWN_BYTES]!r}{cut}, device={self.device!r})"

    def to_json(self) -> Json:
        """Return the storage as JSON-able values."""
        return {"data": base64.b64encode(self.data).decode("ascii"), "device": self.device}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSpec(_Bounded):
    """A checkpoint: storages, and a tree of nodes whose tensors are views of them."""

    storages: tuple[StorageSpec, ...]
    tree: Node

    def __repr__(self) -> str:
        text = f"CheckpointSpec(storages={self.storages!r}, tree={self.tree!r})"
        return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"

    def to_json(self) -> Json:
        """Return the spec as JSON-able values; `from_json` makes an equal spec of them."""
        return {
            "version": VERSION,
            "storages": [storage.to_json() for storage in self.storages],
            "tree": self.tree.to_json(),
        }

    @classmethod
    def from_json(cls, data: Json) -> CheckpointSpec:
        """Return the spec that `to_json`, or `peer.describe`, described."""
        if data.get("version") != VERSION:
            raise UnknownNodeError(
                f"a spec has version {data.get('version')!r}, expected {VERSION}; "
                "use the same release of compat-matrix on both sides"
            )
        storages = tuple(
            StorageSpec(
                data=item["data"] if isinstance(item["data"], bytes) else base64.b64decode(item["data"]),
                device=item["device"],
            )
            for item in data["storages"]
        )
        return cls(storages=storages, tree=node_from_json(data["tree"]))

    def tensors(self) -> Iterator[tuple[str, TensorNode]]:
        """Yield each tensor with its path, in the order of the tree, those in `_metadata` included."""
        stack: list[tuple[str, Node]] = [("", self.tree)]
        while stack:
            path, node = stack.pop()
            if isinstance(node, TensorNode):
                yield path, node
            else:
                stack.extend(reversed(tuple(children(path, node))))

    @property
    def size_bytes(self) -> int:
        """How many bytes the storages hold together."""
        return sum(len(storage.data) for storage in self.storages)

    def normalized(self) -> CheckpointSpec:
        """Return the same checkpoint with its storages in the order tensors first use them.

        That is how describe() numbers them. A storage that no tensor uses is dropped: no file can hold it.
        """
        order: dict[int, int] = {}
        for _, tensor in self.tensors():
            order.setdefault(tensor.storage, len(order))
        if list(order) == list(range(len(self.storages))):
            return self
        return CheckpointSpec(storages=tuple(self.storages[old] for old in order), tree=_renumbered(self.tree, order))

    def rename_keys(self, rename: Callable[[str], str]) -> CheckpointSpec:
        """Return the spec with the string keys of its top level renamed, and `_metadata` renamed along.

        A key of `_metadata` is a module's path, so it is renamed as the prefix of its parameters is: with a
        dot behind it, which is taken off again. Keys that collide raise ValueError; in `_metadata` a renamed
        key replaces one that was not, as torch's own prefix removal does.
        """
        tree = self.tree
        if not isinstance(tree, DictNode):
            raise TypeError(f"the top level is a {tree.kind}, expected a dict: only its keys can be renamed")
        items = tuple(
            (StrNode(value=rename(key.value)) if isinstance(key, StrNode) else key, value) for key, value in tree.items
        )
        if len({key for key, _ in items}) != len(items):
            raise ValueError("two keys are the same once renamed, expected all distinct; choose another renaming")
        tree = replace(tree, items=items)
        if isinstance(tree, ODictNode) and isinstance(tree.metadata, DictNode):
            tree = replace(tree, metadata=_renamed_metadata(tree.metadata, rename))
        return replace(self, tree=tree)


def _renamed_metadata(metadata: DictNode, rename: Callable[[str], str]) -> DictNode:
    result: dict[Node, Node] = {}
    moved: set[Node] = set()
    for key, value in metadata.items:
        new = key
        if isinstance(key, StrNode):
            new = StrNode(value=rename(f"{key.value}." if key.value else "").removesuffix("."))
        if new == key and new in moved:
            continue
        if new != key:
            moved.add(new)
        result[new] = value
    return replace(metadata, items=tuple(result.items()))


def _renumbered(node: Node, order: Mapping[int, int]) -> Node:
    if isinstance(node, TensorNode):
        return replace(node, storage=order[node.storage])
    if isinstance(node, SequenceNode):
        return replace(node, items=tuple(_renumbered(item, order) for item in node.items))
    if isinstance(node, DictNode):
        items = tuple((_renumbered(key, order), _renumbered(value, order)) for key, value in node.items)
        node = replace(node, items=items)
        if isinstance(node, ODictNode) and node.metadata is not None:
            node = replace(node, metadata=_renumbered(node.metadata, order))
    return node


_PLAIN: Final[Mapping[type, Callable[[Any], Node]]] = MappingProxyType(
    {
        type(None): lambda _: NoneNode(),
        bool: lambda value: BoolNode(value=value),
        int: lambda value: IntNode(value=value),
        float: FloatNode.of,
        complex: ComplexNode.of,
        str: lambda value: StrNode(value=value),
        bytes: lambda value: BytesNode(value=value),
        list: lambda value: ListNode(items=tuple(map(to_node, value))),
        tuple: lambda value: TupleNode(items=tuple(map(to_node, value))),
        set: lambda value: SetNode(items=tuple(map(to_node, value))),
        dict: lambda value: DictNode(items=_node_pairs(value)),
        OrderedDict: lambda value: ODictNode(items=_node_pairs(value)),
    }
)


def _node_pairs(value: Mapping[Any, Any]) -> Pairs:
    return tuple((to_node(key), to_node(item)) for key, item in value.items())


def to_node(value: Any) -> Node:
    """Return the node of a plain Python value; nodes inside it are kept as they are."""
    if isinstance(value, Node):
        return value
    make = _PLAIN.get(type(value))
    if make is None:
        raise UnknownNodeError(
            f"a {type(value).__qualname__} has no node, expected a plain value; pass the node itself"
        )
    return make(value)
