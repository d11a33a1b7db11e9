"""The spec of a tree of dense arrays, for implementations that have no torch: each array in a storage of its own."""

import base64
import struct
from typing import Any, Callable, Dict, List, Tuple

from matrix.peer import VERSION
from matrix.serving.protocol import Json

# What an implementation says of an array: the dtype's name, the shape, and the elements row by row.
Shown = Tuple[str, Tuple[int, ...], bytes]


def described(tree: Any, show: Callable[[Any], Any]) -> Json:
    """Return the spec of a tree; `show` gives what is said of an array, and None for anything else."""
    storages: List[Json] = []
    return {"version": VERSION, "storages": storages, "tree": _node(tree, show, storages)}


def _node(value: Any, show: Callable[[Any], Any], storages: List[Json]) -> Json:
    shown = show(value)
    if shown is not None:
        return _tensor(shown, storages)
    if isinstance(value, dict):
        pairs = [[_node(key, show, storages), _node(item, show, storages)] for key, item in value.items()]
        return {"t": "dict" if type(value) is dict else "odict", "v": pairs}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {"t": kind, "v": [_node(item, show, storages) for item in value]}
    plain = _PLAIN.get(type(value))
    return {"t": "opaque", "v": type(value).__qualname__} if plain is None else plain(value)


def _tensor(shown: Shown, storages: List[Json]) -> Json:
    dtype, shape, data = shown
    storages.append({"data": base64.b64encode(data).decode("ascii"), "device": "cpu"})
    stride, step = [], 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    facts = {"dtype": dtype, "shape": list(shape), "stride": stride[::-1], "storage_offset": 0}
    flags = {"requires_grad": False, "kind": "tensor", "conj": False, "neg": False}
    return dict({"t": "tensor", "storage": len(storages) - 1}, **facts, **flags)


_PLAIN: Dict[type, Callable[[Any], Json]] = {
    type(None): lambda _: {"t": "none"},
    bool: lambda value: {"t": "bool", "v": value},
    int: lambda value: {"t": "int", "v": str(value)},
    float: lambda value: {"t": "float", "v": struct.pack(">d", value).hex()},
    str: lambda value: {"t": "str", "v": value},
    bytes: lambda value: {"t": "bytes", "v": base64.b64encode(value).decode("ascii")},
}
