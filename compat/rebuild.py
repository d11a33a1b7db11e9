"""What the names in a `torch.save` pickle stream mean: torch's rebuild functions, storages and constants.

Nothing of torch is imported. Source: `torch/_utils.py` (the `_rebuild_*` functions), `torch/_tensor.py`
(`__reduce_ex__`), `torch/nn/parameter.py`, `torch/storage.py`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from compat.checkpoint import (
    MAX_DEPTH,
    Composite,
    GlobalRef,
    Opaque,
    TensorRecord,
    check_key,
)
from compat.composites import FROM_CALL
from compat.dtypes import BY_STORAGE, DTYPES
from compat.errors import Unsupported
from compat.pickles.reader import Meaning, StandIn
from compat.plaincalls import PLAIN_CALLS, SizeName
from compat.records import TORCH_VALUES
from compat.tensorcalls import TENSOR_CALLS, StorageType
from compat.wellknown import neutral_form, without_helper

__all__ = ["MEANINGS", "StorageType", "settle"]


def _storage_types() -> dict[str, StorageType]:
    types = {
        f"{module}.{name}": StorageType(dtype.name)
        for name, dtype in BY_STORAGE.items()
        for module in ("torch", "torch.cuda")
    }
    for name in ("UntypedStorage", "_UntypedStorage"):
        types |= {f"{module}.{name}": StorageType(None) for module in ("torch.storage", "torch", "torch.cuda")}
    return types


# Layouts are made by a call.
_CONSTANTS: Final = {f"torch.{value.name}": value for value in TORCH_VALUES if value.kind != "layout"}

# Names that hold no danger and have a meaning here; everything else becomes an inert StandIn.
MEANINGS: Final[Mapping[str, Any]] = (
    {name: Meaning(name, call) for name, call in {**TENSOR_CALLS, **FROM_CALL, **PLAIN_CALLS}.items()}
    | {"torch.Size": SizeName}
    | _CONSTANTS
    | _storage_types()
)


def settle(tree: Any) -> Any:
    """A copy of an unpickled tree without stand-ins: classes become `GlobalRef`, instances `Opaque`.

    Containers that are held twice stay one object.

    Raises:
        Unsupported: the tree nests too deep.
    """
    return _Settler().settle(tree, 0)


class _Settler:
    def __init__(self) -> None:
        self.done: dict[int, Any] = {}
        self.kept: list[Any] = []

    def settle(self, node: Any, depth: int) -> Any:
        if isinstance(node, (str, int, float, bytes)) or node is None:
            return node
        if id(node) in self.done:
            return self.done[id(node)]
        if depth > MAX_DEPTH:
            raise Unsupported(
                f"containers nest deeper than {MAX_DEPTH} levels", feature="depth", expected="a flatter tree"
            )
        self.kept.append(node)
        settled = self._container(node, depth)
        self.done[id(node)] = settled
        return settled

    def _container(self, node: Any, depth: int) -> Any:
        if isinstance(node, Meaning):
            return GlobalRef(node.name)
        if isinstance(node, type) and issubclass(node, StandIn):
            return GlobalRef(node.global_name)
        if isinstance(node, StorageType):
            return GlobalRef(f"torch.{DTYPES[node.dtype].storage}" if node.dtype else "torch.storage.UntypedStorage")
        if isinstance(node, Opaque):
            return self._opaque(node, depth)
        if isinstance(node, TensorRecord) and node.attributes:
            return replace(node, attributes=self.settle(node.attributes, depth + 1))
        if isinstance(node, Composite):
            parts = {name: self.settle(part, depth + 1) for name, part in node.parts.items()}
            return replace(node, parts=parts, attributes=self.settle(node.attributes, depth + 1))
        if isinstance(node, dict):
            return self._dict(node, depth)
        if isinstance(node, (set, frozenset)):
            return type(node)(check_key(self.settle(member, depth + 1)) for member in node)
        if isinstance(node, list):
            made: list[Any] = []
            self.done[id(node)] = made
            made.extend(self.settle(item, depth + 1) for item in node)
            return made
        if type(node) is tuple:
            return tuple(self.settle(item, depth + 1) for item in node)
        return node

    def _dict(self, node: dict[Any, Any], depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = type(node)()
        self.done[id(node)] = made
        for key, value in dict.items(node):
            made[check_key(self.settle(key, depth + 1))] = self.settle(value, depth + 1)
        if isinstance(node, OrderedDict):
            vars(made).update({name: self.settle(value, depth + 1) for name, value in vars(node).items()})
        return made

    def _opaque(self, node: Opaque, depth: int) -> Any:
        key, node = id(node), without_helper(node)
        known = neutral_form(node)
        if known is not None:
            return self.settle(known, depth)
        made = Opaque(node.name)
        made.made_by = node.made_by
        self.done[key] = made
        for name in ("callee", "args", "kwargs", "state", "items"):
            setattr(made, name, self.settle(getattr(node, name), depth + 1))
        made.pairs = [(self.settle(k, depth + 1), self.settle(v, depth + 1)) for k, v in node.pairs]
        return made
