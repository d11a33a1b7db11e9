"""Find the state_dict inside a checkpoint."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from compat.checkpoint import TensorRecord
from compat.errors import Mismatch
from compat.keys import strip_prefix
from compat.loading import MapLocation, local, materialize, open_checkpoint
from compat.sources import SourceLike

# Where training scripts put the weights, most telling name first.
WRAPPER_KEYS: Final = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "params_ema",
    "ema",
    "ema_state_dict",
)


def _is_state(value: Any) -> bool:
    """Whether a value looks like a state_dict: text keys, and a tensor directly among the values."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) for key in value)
        and any(isinstance(item, TensorRecord) or hasattr(item, "untyped_storage") for item in value.values())
    )


def find_state(tree: Any, key: str | None = None, *, source: str = "") -> tuple[Any, str]:
    """The state_dict of a tree, and the key it was found under ("" where the tree is one itself).

    Raises:
        Mismatch: there is none, there are several to choose from, or `key` does not lead to one.
    """
    if key is not None:
        if not isinstance(tree, Mapping) or key not in tree:
            seen = ", ".join(map(repr, list(tree)[:8])) if isinstance(tree, Mapping) else type(tree).__name__
            raise Mismatch(f"has no key {key!r} at its top; there is {seen}", source=source, hint="Name one of these.")
        if not isinstance(tree[key], dict):
            raise Mismatch(
                f"{key!r} leads to {type(tree[key]).__name__}", source=source, expected="a dict of tensors by name"
            )
        return tree[key], key
    if _is_state(tree) or tree == {}:
        return tree, ""
    found = [name for name in WRAPPER_KEYS if isinstance(tree, Mapping) and _is_state(tree.get(name))]
    if not found and isinstance(tree, Mapping):
        found = [str(name) for name, value in tree.items() if isinstance(name, str) and _is_state(value)]
    if len(found) == 1:
        return tree[found[0]], found[0]
    if found:
        raise Mismatch(
            f"holds several states: {', '.join(map(repr, found))}",
            source=source,
            expected="one",
            hint=f"Say which: key={found[0]!r}.",
        )
    raise Mismatch(
        f"holds no state_dict at its top or one level below it, but {type(tree).__name__}",
        source=source,
        expected="a dict of tensors by name",
    )


def load_state_dict(
    src: SourceLike, *, key: str | None = None, prefix: str | None = "auto", map_location: MapLocation = "cpu"
) -> OrderedDict[str, Any]:
    """The weights in a checkpoint of any format, unwrapped, without wrappers' prefixes, with `_metadata`.

    Args:
        src: a path, a file object open for reading bytes, or bytes.
        key: which entry of the checkpoint holds the weights; None finds it, and refuses to guess between two.
        prefix: what to strip from the keys: "auto" for what wrappers put there, None for nothing, or the
            prefix itself with its dot.
        map_location: where the tensors go.

    Raises:
        Mismatch: there is no state_dict, or more than one to choose from.
        KeyCollision: two keys would become one without the prefix.
        CompatError: the file cannot be read; see `open`.
    """
    with open_checkpoint(local(src)) as checkpoint:
        state, _ = find_state(checkpoint.tree, key, source=checkpoint.source)
        stripped = strip_prefix(state, prefix)
        loaded: OrderedDict[str, Any] = materialize(checkpoint, map_location, tree=stripped)
        return loaded
