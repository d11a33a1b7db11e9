"""Where a node lies in a tree: readable, stable paths such as `['model']['conv.weight']` and `[0]`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from matrix.nodes import (
    BoolNode,
    BytesNode,
    ComplexNode,
    DictNode,
    FloatNode,
    IntNode,
    Node,
    NoneNode,
    ODictNode,
    SequenceNode,
    SetNode,
    StrNode,
    TensorNode,
    TupleNode,
)

METADATA: Final = "._metadata"

_PLAIN: Final = (BoolNode, BytesNode, ComplexNode, FloatNode, StrNode)


def show(node: Node) -> str:
    """Return how a node reads in a message: the repr of a plain value, the layout of a tensor."""
    if isinstance(node, _PLAIN):
        return repr(node.value)
    if isinstance(node, IntNode):
        return node.text
    if isinstance(node, NoneNode):
        return "None"
    if isinstance(node, TensorNode):
        return f"{node.tensor_kind} of {node.dtype} {list(node.shape)}"
    if isinstance(node, TupleNode):
        return f"({', '.join(map(show, node.items))}{',' if len(node.items) == 1 else ''})"
    if isinstance(node, SequenceNode):
        return f"{node.kind}({', '.join(map(show, node.items))})"
    if isinstance(node, DictNode):
        return f"{node.kind} with {len(node.items)} items"
    data = node.to_json()
    return f"{data['t']} {data['v']}"


def child(path: str, key: Node) -> str:
    """Return the path of the value under a key."""
    return f"{path}[{show(key)}]"


def children(path: str, node: Node) -> Iterator[tuple[str, Node]]:
    """Yield the nodes inside a node with their paths: keys before their values, `_metadata` last."""
    if isinstance(node, SequenceNode):
        brackets = "{%d}" if isinstance(node, SetNode) else "[%d]"
        for index, item in enumerate(node.items):
            yield path + brackets % index, item
    elif isinstance(node, DictNode):
        for key, value in node.items:
            if not isinstance(key, (*_PLAIN, IntNode)):
                yield f"{child(path, key)}.key", key
            yield child(path, key), value
        if isinstance(node, ODictNode) and node.metadata is not None:
            yield path + METADATA, node.metadata
