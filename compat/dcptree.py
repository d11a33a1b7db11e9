"""Nested states from the flat names under which `torch.distributed.checkpoint` keeps them.

Source: `torch/distributed/checkpoint/_nested_dict.py` and `_traverse.py`: a name is the keys of a path as text,
joined by dots; a text in a path is a key of a dict, a number a place in a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from compat.checkpoint import MAX_DEPTH
from compat.errors import Corrupt, Unsupported, brief

# Places in a list that no item has are None, as torch gives them back; many of them are a lie.
_MAX_GAPS: Final = 1000


@dataclass(slots=True)
class _Branch:
    """A container that is being filled; a list may be filled in any order."""

    kind: type
    below: dict[Any, Any] = field(default_factory=dict)


def nest(values: Mapping[str, Any], paths: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The state that was flattened to these values; a value without a path is at the top, under its name.

    Raises:
        Corrupt: paths contradict each other, or are none.
        Unsupported: they are longer than trees may be deep.
    """
    root = _Branch(dict)
    for name, value in values.items():
        path = paths.get(name, (name,))
        if not path or any(type(step) is not int and not isinstance(step, str) for step in path):
            raise Corrupt(f"the path of {brief(name)} is {brief(path)}", expected="texts and whole numbers")
        if len(path) > MAX_DEPTH:
            raise Unsupported(f"containers nest deeper than {MAX_DEPTH} levels", feature="depth")
        node = root
        for step, following in pairwise(path):
            branch = node.below.setdefault(_place(node, step, name), _Branch(list if type(following) is int else dict))
            if not isinstance(branch, _Branch):
                raise Corrupt(f"the path of {brief(name)} leads through {brief(step)}, which is a value of its own")
            node = branch
        if _place(node, path[-1], name) in node.below:
            raise Corrupt(f"the path of {brief(name)} is that of another item too: {brief(path)}")
        node.below[path[-1]] = value
    return {step: _filled(node) for step, node in root.below.items()}


def _place(node: _Branch, step: Any, name: str) -> Any:
    if (node.kind is list) != (type(step) is int) or (node.kind is list and step < 0):
        raise Corrupt(f"the path of {brief(name)} leads through a {node.kind.__name__} by {brief(step)}")
    return step


def _filled(node: Any) -> Any:
    if not isinstance(node, _Branch):
        return node
    if node.kind is dict:
        return {step: _filled(below) for step, below in node.below.items()}
    size = max(node.below) + 1
    if size > 2 * len(node.below) + _MAX_GAPS:
        raise Corrupt(f"a list of {size:,} values has {len(node.below):,} of them")
    return [_filled(node.below.get(place)) for place in range(size)]
