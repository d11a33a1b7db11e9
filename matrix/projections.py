"""What a file of named dense arrays promises to every reader, derived from a spec alone.

A format such as safetensors has no place for trees, aliases, strides or lazy bits. What any reader of such a
file must find is: one dense array per distinct view, under the dotted path of the first tensor that shows it
(without the steps that all paths share), with conjugation and negation applied. Not promised: key order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from matrix.gathering import resolved, visible
from matrix.nodes import (
    BoolNode,
    ComplexNode,
    DictNode,
    FloatNode,
    IntNode,
    Node,
    NoneNode,
    ODictNode,
    SequenceNode,
    StrNode,
    TensorNode,
)
from matrix.spec import CheckpointSpec, StorageSpec

# The name that safetensors keeps for itself.
_RESERVED: Final = "__metadata__"

# What wrappers put in front of keys.
_WRAPPERS: Final = ("module.", "_orig_mod.")

Steps = tuple[str, ...]


def _key_text(key: Node) -> str:
    if isinstance(key, StrNode):
        return key.value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(key, NoneNode):
        return "None"
    if isinstance(key, (IntNode, BoolNode, FloatNode, ComplexNode)):
        return str(key.value)
    if isinstance(key, SequenceNode):
        raise TypeError(f"a {key.kind} is a key above a tensor; drawn states have none")
    return str(key)


def _tensors(node: Node, steps: Steps) -> Iterator[tuple[Steps, TensorNode]]:
    if isinstance(node, TensorNode):
        yield steps, node
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.items):
            yield from _tensors(item, (*steps, str(index)))
    elif isinstance(node, DictNode):
        for key, value in node.items:
            yield from _tensors(value, (*steps, _key_text(key)) if _holds_tensors(value) else steps)
        if isinstance(node, ODictNode) and node.metadata is not None:
            yield from _tensors(node.metadata, (*steps, "_metadata"))


def _holds_tensors(node: Node) -> bool:
    return any(True for _ in CheckpointSpec(storages=(), tree=node).tensors())


def _names(paths: list[Steps]) -> list[str]:
    shared = 0
    parents = [path[:-1] for path in paths]
    while parents and all(len(p) > shared and p[shared] == parents[0][shared] for p in parents):
        shared += 1
    taken = {_RESERVED}
    names = []
    for path in paths:
        base = name = ".".join(path[shared:])
        count = 1
        while name in taken:
            count += 1
            name = f"{base}#{count}"
        taken.add(name)
        names.append(name)
    return names


def dense(spec: CheckpointSpec) -> CheckpointSpec:
    """The arrays that every reader of a file of named dense arrays must find, as a plain dict of tensors."""
    found = list(_tensors(spec.tree, ()))
    storages: list[StorageSpec] = []
    items: list[tuple[Node, Node]] = []
    shown: set[TensorNode] = set()
    for name, (_, tensor) in zip(_names([path for path, _ in found]), found, strict=True):
        view = replace(tensor, requires_grad=False, tensor_kind="tensor")
        if view in shown:
            continue
        shown.add(view)
        data = bytes(resolved(tensor, visible(tensor, spec.storages[tensor.storage].data)))
        storages.append(StorageSpec(data=data))
        items.append((StrNode(value=name), _array(tensor, len(storages) - 1, len(data))))
    return CheckpointSpec(storages=tuple(storages), tree=DictNode(items=tuple(items)))


def _array(tensor: TensorNode, storage: int, nbytes: int) -> TensorNode:
    dtype, shape = tensor.dtype, tensor.shape
    if dtype == "float4_e2m1fn_x2" and not shape:
        # The format counts single elements in the last dimension; without one it has only bytes to give.
        dtype, shape = "uint8", (nbytes,)
    stride: list[int] = []
    step = 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return TensorNode(dtype=dtype, shape=shape, stride=tuple(reversed(stride)), storage=storage)


def _is_state(node: Node) -> bool:
    return (
        isinstance(node, DictNode)
        and bool(node.items)
        and all(isinstance(key, StrNode) and isinstance(value, TensorNode) for key, value in node.items)
    )


def bare_state(spec: CheckpointSpec) -> CheckpointSpec | None:
    """The one state_dict that a checkpoint is or holds, without wrappers' prefixes; None where there is none."""
    found = [spec.tree] if _is_state(spec.tree) else []
    if not found and isinstance(spec.tree, DictNode):
        found = [value for _, value in spec.tree.items if _is_state(value)]
    if len(found) != 1:
        return None
    state = CheckpointSpec(storages=spec.storages, tree=found[0]).normalized()
    while (prefix := _wrapper(found[0])) is not None:
        state = _without(state, prefix)
        found = [state.tree]
    return state


def _without(state: CheckpointSpec, prefix: str) -> CheckpointSpec:
    return state.rename_keys(lambda key: "" if key == prefix else key.removeprefix(prefix))


def _wrapper(state: Node) -> str | None:
    """The wrapper that all keys begin with."""
    keys = [key.value for key, _ in state.items if isinstance(key, StrNode)] if isinstance(state, DictNode) else []
    return next((wrapper for wrapper in _WRAPPERS if keys and all(key.startswith(wrapper) for key in keys)), None)
