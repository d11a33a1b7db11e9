"""The weights in a checkpoint, whatever else it holds."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from compat.keys import strip_prefix
from compat.loading import MapLocation, local, materialize, open_checkpoint
from compat.sources import SourceLike
from compat.unwrapping import find


def find_state(tree: Any, key: str | None = None, *, source: str = "") -> tuple[Any, str]:
    """The state_dict of a tree, and the key it was found under; see `compat.unwrapping.find`."""
    found = find(tree, key, source=source)
    return found.state, found.key


def load_state_dict(
    src: SourceLike, *, key: str | None = None, prefix: str | None = "auto", map_location: MapLocation = "cpu"
) -> OrderedDict[str, Any]:
    """The weights in a checkpoint of any format, unwrapped, without wrappers' prefixes, with `_metadata`.

    Args:
        src: a path, a file object open for reading bytes, or bytes.
        key: what leads to the weights, such as `model` or `ema.module`; None finds them, and refuses to guess
            between two.
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
