"""What a state holds, in the words of the contents axis: by these, an example shares the expectations of cells.

A drawn example has the feature it was drawn for, and may have more: a module can tie its weights, a conjugated
tensor can be of a dtype that a format cannot name.
"""

from __future__ import annotations

from collections.abc import Iterator

from matrix.nodes import BytesNode, DictNode, Node, StrNode, TensorNode
from matrix.paths import children
from matrix.spec import CheckpointSpec


def dtypes(spec: CheckpointSpec) -> tuple[str, ...]:
    """The features that are dtypes, in the order they are met."""
    return tuple(dict.fromkeys(f"dtype-{tensor.dtype}" for _, tensor in spec.tensors()))


def features(spec: CheckpointSpec) -> tuple[str, ...]:
    """Every feature that decides what should happen to a state, dtypes included."""
    found = list(dtypes(spec))
    tensors = [tensor for _, tensor in spec.tensors()]
    tree = spec.tree
    flat = isinstance(tree, DictNode) and all(isinstance(value, TensorNode) for _, value in tree.items)
    if not flat:
        found.append("nested")
    elif isinstance(tree, DictNode) and not all(isinstance(key, StrNode) for key, _ in tree.items):
        found.append("int-keys")
    if BytesNode(value=b"") in _nodes(tree):
        found.append("empty-bytes")
    if any(not _is_contiguous(tensor) for tensor in tensors):
        found.append("noncontiguous")
    if _is_tied(tensors):
        found.append("shared-storage")
    return tuple(found)


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for _, below in children("", node):
        yield from _nodes(below)


def _is_tied(tensors: list[TensorNode]) -> bool:
    """Whether two tensors show the same elements of one storage."""
    views = [(t.storage, t.dtype, t.shape, t.stride, t.storage_offset) for t in tensors if 0 not in t.shape]
    return len(set(views)) < len(views)


def _is_contiguous(tensor: TensorNode) -> bool:
    if 0 in tensor.shape:
        return True
    expected = 1
    for size, step in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True
