"""Compare two checkpoints by what they hold: tensors by their bytes, everything else by type and value."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from compat.checkpoint import (
    Attribute,
    Checkpoint,
    Composite,
    Opaque,
    StorageRef,
    TensorRecord,
    children,
    path_text,
    walk,
)
from compat.data import Buffer
from compat.dtypes import DTYPES
from compat.errors import Unsupported, brief
from compat.loading import open_checkpoint
from compat.sources import SourceLike
from compat.strided import element_chunks

# In which order facets are looked at; after one of the first three, bytes cannot be compared.
TENSOR_FACETS = ("dtype", "shape", "stride", "storage_offset", "requires_grad", "kind", "conj", "neg", "subclass")
# A tensor may show this many times more bytes than its storage has; beyond it, it is not compared.
MAX_REPEATED: Final = 64
FREE: Final = 1 << 20
MAX_BITS: Final = 4096
# Everything in which checkpoints can differ, by the names that changes have.
FACETS: Final = (
    *TENSOR_FACETS, "device", "bytes", "aliasing", "parameter", "missing", "type", "value", "key order",
)  # fmt: skip

_Below = dict[Any, tuple[Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that differs.

    Attributes:
        path: where; facet: in what; left, right: what each side has (None where it has nothing).
    """

    path: str
    facet: str
    left: str | None
    right: str | None

    def __str__(self) -> str:
        if self.left is None or self.right is None:
            side = "right" if self.left is None else "left"
            return f"{self.path}: only on the {side}: {self.left or self.right}"
        return f"{self.path}: {self.facet} is {self.left} on the left, {self.right} on the right"


@dataclass(slots=True, kw_only=True)
class Difference:
    """How two checkpoints differ. It is true where they do.

    Attributes:
        tensors: changes of tensors; extras: changes of everything else.
        ignored: the facets that were not looked at.
        carried: extras that are equal, but that only compat finds on one side (`left` or `right`).
        equal_tensors: how many tensors are equal in every facet.
    """

    left: str
    right: str
    tensors: list[Change] = field(default_factory=list)
    extras: list[Change] = field(default_factory=list)
    carried: dict[str, str] = field(default_factory=dict)
    equal_tensors: int = 0
    equal_extras: int = 0
    ignored: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tensors or self.extras)

    def facets(self) -> set[str]:
        """In what they differ."""
        return {change.facet for change in (*self.tensors, *self.extras)}


def diff(left: SourceLike | Checkpoint, right: SourceLike | Checkpoint, *, ignore: Collection[str] = ()) -> Difference:
    """Compare two checkpoints of any formats.

    Tensors are compared by dtype, shape, stride, offset, flags, bytes and by who shares storage with whom;
    containers by type and key order; everything else by type and value, floats by their bits.

    Args:
        left: what `open` takes, or an open checkpoint.
        right: the same.
        ignore: facets that may differ, such as `device`, `stride` or `requires_grad`; see `FACETS`.

    Raises:
        Unsupported: there is no such facet to ignore.
        CompatError: one of them cannot be read; see `open`.
    """
    unknown = sorted(set(ignore) - set(FACETS))
    if unknown:
        raise Unsupported(
            f"there is no facet {unknown[0]!r} to ignore", feature="ignore", expected=f"one of {', '.join(FACETS)}"
        )
    with opened(left) as a, opened(right) as b:
        return _Comparer(a, b, frozenset(ignore)).compare()


def opened(src: SourceLike | Checkpoint) -> Checkpoint:
    """A checkpoint that may be closed: one that the caller opened stays open, since the caller closes it."""
    if isinstance(src, Checkpoint):
        return Checkpoint(format=src.format, tree=src.tree, source=src.source, carried=src.carried)
    return open_checkpoint(src)


class _Comparer:
    def __init__(self, left: Checkpoint, right: Checkpoint, ignore: frozenset[str]) -> None:
        self.left = left
        self.right = right
        self.ignore = ignore
        self.found = Difference(left=left.source, right=right.source, ignored=tuple(sorted(ignore)))
        self.pairs: list[tuple[str, TensorRecord, TensorRecord]] = []
        self.seen: set[tuple[int, int]] = set()

    def compare(self) -> Difference:
        self._node(self.left.tree, self.right.tree, ())
        self._aliasing()
        for side, checkpoint in (("left", self.left), ("right", self.right)):
            for path in checkpoint.carried:
                self.found.carried.setdefault(path, side)
        return self.found

    def _extra(self, path: tuple[Any, ...], facet: str, left: str | None, right: str | None) -> None:
        if facet not in self.ignore:
            self.found.extras.append(Change(path=path_text(path), facet=facet, left=left, right=right))

    def _node(self, left: Any, right: Any, path: tuple[Any, ...]) -> None:
        if isinstance(left, TensorRecord) and isinstance(right, TensorRecord):
            self._tensor(left, right, path)
            return
        if type(left) is not type(right):
            if not any(isinstance(left, kind) and isinstance(right, kind) for kind in (dict, (list, tuple))):
                self._one_sided(left, path, left=True)
                self._one_sided(right, path, left=False)
                return
            self._extra(path, "type", describe(left), describe(right))
        if (id(left), id(right)) in self.seen:
            return
        if isinstance(left, StorageRef):
            self._storage(left, right, path)
            return
        below_left, below_right = _below(left), _below(right)
        if not below_left and not below_right:
            if same_value(left, right):
                self.found.equal_extras += 1
            else:
                self._extra(path, "value", describe(left), describe(right))
            return
        self.seen.add((id(left), id(right)))
        if isinstance(left, Opaque) and left.name != right.name:
            self._extra(path, "type", left.name, right.name)
        if isinstance(left, Composite):
            self._composite(left, right, path)
        if isinstance(left, (set, frozenset)) and _identity(left) != _identity(right):
            self._extra(path, "value", describe(left), describe(right))
        self._children(below_left, below_right, path)

    def _children(self, left: _Below, right: _Below, path: tuple[Any, ...]) -> None:
        for key, (step, value) in left.items():
            if key in right:
                self._node(value, right[key][1], (*path, step))
            else:
                self._one_sided(value, (*path, step), left=True)
        for key, (step, value) in right.items():
            if key not in left:
                self._one_sided(value, (*path, step), left=False)
        common_left = [step for step in left if step in right]
        common_right = [step for step in right if step in left]
        if common_left != common_right:
            index = next(i for i, (a, b) in enumerate(zip(common_left, common_right, strict=True)) if a != b)
            before, after = (
                path_text((side[common[index]][0],)) for side, common in ((left, common_left), (right, common_right))
            )
            self._extra(path, "key order", f"{before!r} at position {index}", f"{after!r} there")

    def _one_sided(self, value: Any, path: tuple[Any, ...], *, left: bool) -> None:
        if "missing" in self.ignore:
            return
        text = describe(value)
        sides: dict[str, str | None] = {"left": text if left else None, "right": None if left else text}
        change = Change(path=path_text(path), facet="missing", left=sides["left"], right=sides["right"])
        holds_tensors = any(isinstance(leaf, TensorRecord) for _, leaf in walk(value))
        (self.found.tensors if holds_tensors else self.found.extras).append(change)

    def _tensor(self, left: TensorRecord, right: TensorRecord, path: tuple[Any, ...]) -> None:
        where = path_text(path)
        self.pairs.append((where, left, right))
        changes = [
            Change(path=where, facet=facet, left=str(a), right=str(b))
            for facet in TENSOR_FACETS
            if (a := getattr(left, facet)) != (b := getattr(right, facet))
        ]
        if left.storage.device != right.storage.device:
            changes.append(Change(path=where, facet="device", left=left.storage.device, right=right.storage.device))
        if left.dtype == right.dtype and left.shape == right.shape and "bytes" not in self.ignore:
            a, b = _without_repeats(left, right, where)
            changes += _byte_changes(where, first_difference(element_chunks(a), element_chunks(b)), left.itemsize)
        changes = [change for change in changes if change.facet not in self.ignore]
        self.found.tensors += changes
        self.found.equal_tensors += not changes
        if left.attributes or right.attributes:
            self._node(left.attributes, right.attributes, (*path, "attributes"))

    def _storage(self, left: StorageRef, right: StorageRef, path: tuple[Any, ...]) -> None:
        """Compare bare storages as the tensors that show all of them."""
        self._tensor(_whole(left), _whole(right), path)

    def _composite(self, left: Composite, right: Composite, path: tuple[Any, ...]) -> None:
        where = path_text(path)
        self.found.tensors += [
            Change(path=where, facet=facet, left=str(a), right=str(b))
            for facet in ("kind", "requires_grad", "parameter")
            if facet not in self.ignore and (a := getattr(left, facet)) != (b := getattr(right, facet))
        ]

    def _aliasing(self) -> None:
        """Compare who shares storage with whom, by the first tensor that shows each storage."""
        first: tuple[dict[int, str], dict[int, str]] = ({}, {})
        if "aliasing" in self.ignore:
            return
        for where, *records in self.pairs:
            partners = [known.setdefault(id(r.storage), where) for known, r in zip(first, records, strict=True)]
            if partners[0] != partners[1]:
                texts = ["its own storage" if p == where else f"the storage of {p}" for p in partners]
                self.found.tensors.append(Change(path=where, facet="aliasing", left=texts[0], right=texts[1]))


def _below(node: Any) -> _Below:
    """What lies directly below a node: what a step is told apart by → the step and the value."""
    return {_identity(step): (step, value) for step, value in children(node)}


def _identity(step: Any) -> Any:
    """What tells a key from others: 1 from True and 1.0, 0.0 from -0.0; a NaN and an opaque object are themselves."""
    if isinstance(step, (str, Attribute)):
        return step
    if isinstance(step, float):
        return float, struct.pack(">d", step)
    if isinstance(step, tuple):
        return type(step), tuple(_identity(item) for item in step)
    if isinstance(step, (set, frozenset)):
        return type(step), frozenset(_identity(item) for item in step)
    if isinstance(step, Opaque):
        return Opaque, str(step.name), _identity(step.args), brief(step.state)
    return type(step), step


def _whole(ref: StorageRef) -> TensorRecord:
    itemsize = DTYPES[ref.dtype].itemsize
    numel = ref.storage.nbytes // itemsize
    return TensorRecord(dtype=ref.dtype, shape=(numel,), stride=(1,), storage_offset=0, storage=ref.storage)


def _without_repeats(left: TensorRecord, right: TensorRecord, where: str) -> tuple[TensorRecord, TensorRecord]:
    """Both tensors without the dimensions along which both repeat the same elements.

    Raises:
        Unsupported: what is left still shows far more elements than there are.
    """
    kept = [
        at for at, steps in enumerate(zip(left.stride, right.stride, strict=True)) if any(steps) or not left.shape[at]
    ]
    shape = tuple(left.shape[at] for at in kept)
    made = [replace(record, shape=shape, stride=tuple(record.stride[at] for at in kept)) for record in (left, right)]
    for record in made:
        if record.storage.data is not None and record.nbytes > MAX_REPEATED * record.storage.nbytes + FREE:
            raise Unsupported(
                f"tensor {where!r} shows {record.nbytes:,} bytes out of a storage of {record.storage.nbytes:,}",
                feature="strides",
                paths=[where],
            )
    return made[0], made[1]


def _byte_changes(where: str, at: tuple[int, int, int] | None, itemsize: int) -> list[Change]:
    if at is None:
        return []
    offset, a, b = at
    left = f"0x{a:02x} at byte {offset:,} (element {offset // itemsize:,})"
    return [Change(path=where, facet="bytes", left=left, right=f"0x{b:02x}")]


def same_value(left: Any, right: Any) -> bool:
    """Whether two leaves are the same value: type and bits, so that 0.0 is not -0.0 and a NaN is itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack(">d", left) == struct.pack(">d", right)
    if isinstance(left, complex):
        return struct.pack(">dd", left.real, left.imag) == struct.pack(">dd", right.real, right.imag)
    if isinstance(left, Opaque):
        return str(left.name) == str(right.name)
    if isinstance(left, (set, frozenset)):
        return bool(_identity(left) == _identity(right))
    return bool(left == right)


def describe(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, TensorRecord):
        return f"{value.dtype} tensor of shape {list(value.shape)}"
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        kind = "OrderedDict" if isinstance(value, OrderedDict) else type(value).__name__
        return f"{kind} of {len(value)}"
    if isinstance(value, Opaque):
        return f"object of {value.name}"
    if isinstance(value, int) and value.bit_length() > MAX_BITS:  # Python refuses to print it
        return brief(value)
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"  # noqa: PLR2004 - one line


def first_difference(left: Iterator[Buffer], right: Iterator[Buffer]) -> tuple[int, int, int] | None:
    """The offset of the first byte that differs and the two bytes; a missing byte counts as 0."""
    position = 0
    a, b = memoryview(b""), memoryview(b"")
    while True:
        a = a if a.nbytes else memoryview(next(left, b"")).cast("B")
        b = b if b.nbytes else memoryview(next(right, b"")).cast("B")
        size = min(a.nbytes, b.nbytes)
        if size == 0:
            if a.nbytes == b.nbytes:
                return None
            return position, a[0] if a.nbytes else 0, b[0] if b.nbytes else 0
        if a[:size] != b[:size]:
            index = next(i for i in range(size) if a[i] != b[i])
            return position + index, a[index], b[index]
        a, b = a[size:], b[size:]
        position += size
