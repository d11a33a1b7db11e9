"""A checkpoint spec in the making: storages, tensors over them, and named entries."""

from __future__ import annotations

from math import prod
from typing import Any, Final

from matrix.choices import Choices
from matrix.nodes import DictNode, Node, ODictNode, StrNode, TensorNode
from matrix.spec import ITEMSIZES, CheckpointSpec, StorageSpec, to_node

# What real checkpoints are made of; the simplest first.
COMMON_DTYPES: Final = ("float32", "int64", "float16", "bfloat16", "float64", "int32", "uint8", "bool")

_LEAVES: Final = ("weight", "bias", "running_mean", "num_batches_tracked")


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the row-major stride of a shape, as torch gives it: a size of 0 counts as 1."""
    stride = []
    step = 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return tuple(reversed(stride))


def finite(dtype: str, data: bytes) -> bytes:
    """Return bytes changed as little as makes every element an ordinary value of its dtype.

    A bool is 0 or 1. In a float the highest bit of the exponent is cleared, which leaves neither infinity nor
    NaN; they have contents of their own.
    """
    width = ITEMSIZES[dtype] // 2 if dtype.startswith("complex") else ITEMSIZES[dtype]
    if dtype == "bool":
        mask = b"\x01"
    elif "float" in dtype or dtype.startswith("complex"):
        mask = b"\xff" * (width - 1) + b"\xbf"
    else:
        return data
    masks = int.from_bytes(mask * (len(data) // width), "little")
    return (int.from_bytes(data, "little") & masks).to_bytes(len(data), "little")


class Draft:
    """Collects what one drawn checkpoint holds."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.entries: list[tuple[Node, Node]] = []
        self._storages: list[StorageSpec] = []
        self._names = 0

    def storage(self, data: bytes) -> int:
        """Add a storage and return its index."""
        self._storages.append(StorageSpec(data=data))
        return len(self._storages) - 1

    def elements(self, dtype: str, count: int) -> int:
        """Add a storage of this many ordinary elements and return its index."""
        return self.storage(finite(dtype, self.choices.bytes(count * ITEMSIZES[dtype])))

    def view(
        self, storage: int, dtype: str, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0
    ) -> TensorNode:
        """Return a tensor over a storage."""
        return TensorNode(dtype=dtype, shape=shape, stride=stride, storage=storage, storage_offset=offset)

    def tensor(self, dtype: str, shape: tuple[int, ...]) -> TensorNode:
        """Return a contiguous tensor of ordinary elements, over a storage of its own."""
        return self.view(self.elements(dtype, prod(shape)), dtype, shape, contiguous(shape))

    def shape(self) -> tuple[int, ...]:
        """Choose a shape of one to four dimensions with at least one element."""
        return tuple(self.choices.integer(1, 4) for _ in range(self.choices.integer(1, 4)))

    def plain(self) -> TensorNode:
        """Return a tensor as any checkpoint has: contiguous, of a common dtype, over a storage of its own."""
        return self.tensor(self.choices.pick(COMMON_DTYPES), self.shape())

    def name(self) -> str:
        """Return a new dotted name, as a state_dict has."""
        number, self._names = self._names, self._names + 1
        return f"layer{number}.{self.choices.pick(_LEAVES)}"

    def add(self, value: Any, name: Any = None) -> None:
        """Add an entry, under a new name unless one is given."""
        self.entries.append((to_node(self.name() if name is None else name), to_node(value)))

    def add_plain(self, least: int, most: int) -> None:
        """Add some plain tensors."""
        for _ in range(self.choices.integer(least, most)):
            self.add(self.plain())

    def metadata(self) -> Node:
        """Return the `_metadata` that a state_dict of these entries has."""
        modules = {"": 1}
        for key, _ in self.entries:
            if isinstance(key, StrNode) and "." in key.value:
                modules[key.value.rpartition(".")[0]] = 2 if "running" in key.value else 1
        pairs = ((to_node(module), to_node({"version": version})) for module, version in modules.items())
        return ODictNode(items=tuple(pairs))

    def state_dict(self) -> ODictNode:
        """Return the entries as an OrderedDict with `_metadata`, and start afresh with none."""
        entries, metadata = tuple(self.entries), self.metadata()
        self.entries = []
        return ODictNode(items=entries, metadata=metadata)

    def finish(self, tree: Node | None = None) -> CheckpointSpec:
        """Return the spec: of this tree, or of a plain dict of the entries."""
        root = DictNode(items=tuple(self.entries)) if tree is None else tree
        return CheckpointSpec(storages=tuple(self._storages), tree=root).normalized()
