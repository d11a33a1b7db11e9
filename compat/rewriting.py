"""Write a checkpoint again with other keys, or only a part of it; what is changed is the neutral model.

Each function gives what `convert` takes as its `change`. No tensor is loaded, and torch is not needed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable
from typing import Any

from compat.checkpoint import Checkpoint
from compat.errors import Mismatch, Unsupported
from compat.keys import Rule, rename_by, strip_prefix
from compat.unwrapping import Found, find

Change = Callable[[Checkpoint], Checkpoint]


def strip(prefix: str = "auto", keys: Collection[str] = ()) -> Change:
    """A change that takes a prefix off the keys of the weights, and leaves everything beside them.

    Args:
        prefix: the prefix with its dot, or "auto" for the wrappers that all keys begin with.
        keys: what leads to the weights, in files that hold several; see `load_state_dict`.

    Raises:
        Mismatch: there is nothing to strip, or it is not clear where.
        KeyCollision: two keys would become one.
    """

    def change(found: Found, source: str) -> Any:
        made = strip_prefix(found.state, prefix)
        if list(made) == list(found.state):
            what = "the prefix of a wrapper" if prefix == "auto" else repr(prefix)
            some = next(iter(found.state), "")
            raise Mismatch(
                f"no key begins with {what}; the first is {some!r}",
                source=source,
                hint="Nothing was written." + (" Name one: --prefix model." if prefix == "auto" else ""),
            )
        return made

    return _within(change, keys)


def rename(rules: Iterable[Rule], keys: Collection[str] = ()) -> Change:
    """A change that renames the keys of the weights by (pattern, replacement) pairs of regular expressions.

    Raises:
        Mismatch: a rule renames nothing, or it is not clear where the weights are.
        KeyCollision: two keys would become one.
    """
    pairs = list(rules)

    def change(found: Found, source: str) -> Any:
        made, idle = rename_by(found.state, pairs)
        if idle:
            raise Mismatch(
                f"the rule {idle[0]!r} renames none of its keys; the first is {next(iter(found.state), '')!r}",
                source=source,
                hint="Nothing was written. Rules are regular expressions, searched for in each key.",
            )
        return made

    return _within(change, keys)


def extract(key: str | None = None) -> Change:
    """A change that leaves the weights alone, also those of a whole pickled module.

    Raises:
        Mismatch: there are none, or several to choose from.
    """

    def apply(checkpoint: Checkpoint) -> Checkpoint:
        found = find(checkpoint.tree, key, source=checkpoint.source)
        return _with(checkpoint, found.state, found.notes)

    return apply


def _within(change: Callable[[Found, str], Any], keys: Collection[str]) -> Change:
    """A change of the weights where they are in the tree."""

    def apply(checkpoint: Checkpoint) -> Checkpoint:
        tree = checkpoint.tree
        for key in keys or (None,):
            found = find(tree, key, source=checkpoint.source)
            if found.recovered:
                raise Unsupported(
                    f"{found.key or 'it'} is a whole pickled module, whose keys are its code's",
                    feature="opaque",
                    source=checkpoint.source,
                    hint="Write its weights alone first, with `compat extract`.",
                )
            tree = _replaced(tree, found.path, change(found, checkpoint.source))
        return _with(checkpoint, tree, [])

    return apply


def _with(checkpoint: Checkpoint, tree: Any, notes: list[str]) -> Checkpoint:
    return Checkpoint(
        format=checkpoint.format,
        tree=tree,
        source=checkpoint.source,
        metadata=checkpoint.metadata,
        notes=[*checkpoint.notes, *notes],
    )


def _replaced(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of a tree with another value at one place; what is beside the path is the same objects."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(node, tuple):
        return (*node[:step], _replaced(node[step], rest, value), *node[step + 1 :])
    made = copy.copy(node)
    made[step] = _replaced(node[step], rest, value)
    return made
