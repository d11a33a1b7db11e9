"""Compare two specs, facet by facet; every difference says where, what was expected and what was seen.

Everything is compared by its bytes, so -0.0 differs from 0.0 and one NaN from another. Not compared: whether
two containers are the same object, the size of a storage on the device "meta", and Python attributes set on
tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from matrix.gathering import differs, resolved, visible
from matrix.nodes import (
    DictNode,
    ListNode,
    Node,
    NoneNode,
    ODictNode,
    SequenceNode,
    SetNode,
    TensorNode,
    TupleNode,
)
from matrix.paths import METADATA, child, show
from matrix.peer import ITEMSIZES

if TYPE_CHECKING:
    from matrix.spec import CheckpointSpec

# What can differ; `ignore` takes any of these.
FACETS: Final = frozenset(
    {
        "structure",  # a key, an item or a whole branch is missing or too many
        "type",  # a list where a tuple was, a bool where an int was
        "value",
        "key-order",
        "metadata",  # anything in or about the `_metadata` of an OrderedDict
        "dtype",
        "shape",
        "stride",
        "storage-offset",
        "bytes",  # the elements a tensor shows, in their logical order
        "storage-bytes",  # all bytes of its storage, those no tensor shows too
        "aliasing",  # which tensors share a storage, and how far apart they start
        "requires-grad",
        "kind",  # tensor, parameter or buffer
        "conj-neg",
        "device",
    }
)

_SHOWN: Final = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference between what was expected and what came back.

    Attributes:
        path: where, as `['model']['weight']`; empty at the root.
        facet: which of FACETS differs.
    """

    path: str
    facet: str
    expected: str
    actual: str

    def __str__(self) -> str:
        where = _cut(self.path) or "the root"
        return f"{where}: {self.facet}: expected {_cut(self.expected)}, seen {_cut(self.actual)}"


def compare(
    expected: CheckpointSpec, actual: CheckpointSpec, *, ignore: Collection[str] = frozenset()
) -> tuple[Difference, ...]:
    """Return every difference between two specs, except those of the facets in `ignore`."""
    unknown = sorted(set(ignore) - FACETS)
    if unknown:
        raise ValueError(f"unknown facets {unknown}, expected some of {sorted(FACETS)}")
    if expected == actual:
        return ()
    comparison = _Comparison(expected, actual, frozenset(ignore))
    found = [*comparison.nodes("", expected.tree, actual.tree), *comparison.aliasing()]
    return tuple(difference for difference in found if difference.facet not in comparison.ignore)


class _Comparison:
    """Two specs side by side, and the pairs of tensors met so far."""

    def __init__(self, expected: CheckpointSpec, actual: CheckpointSpec, ignore: frozenset[str]) -> None:
        self.expected = expected
        self.actual = actual
        self.ignore = ignore
        self.pairs: list[tuple[str, TensorNode, TensorNode]] = []
        self._same_storage: dict[tuple[int, int], bool] = {}

    def nodes(self, path: str, expected: Node, actual: Node) -> Iterator[Difference]:
        """Compare two nodes and everything beneath them."""
        if isinstance(expected, TensorNode) and isinstance(actual, TensorNode):
            yield from self._tensors(path, expected, actual)
            return
        if expected.kind != actual.kind:
            yield Difference(
                path=path,
                facet="type",
                expected=f"{expected.kind} ({show(expected)})",
                actual=f"{actual.kind} ({show(actual)})",
            )
        if isinstance(expected, DictNode) and isinstance(actual, DictNode):
            yield from self._dicts(path, expected, actual)
            yield from self._metadata(path, expected, actual)
        elif isinstance(expected, SequenceNode) and isinstance(actual, SequenceNode):
            yield from self._sequences(path, expected, actual)
        elif expected.kind == actual.kind and expected != actual:
            yield Difference(path=path, facet="value", expected=_exact(expected), actual=_exact(actual))

    def _sequences(self, path: str, expected: SequenceNode, actual: SequenceNode) -> Iterator[Difference]:
        if len(expected.items) != len(actual.items):
            yield Difference(
                path=path,
                facet="structure",
                expected=f"{len(expected.items)} items",
                actual=f"{len(actual.items)} items",
            )
        brackets = "[%d]" if isinstance(expected, (ListNode, TupleNode)) else "{%d}"
        for index, (one, other) in enumerate(zip(expected.items, actual.items, strict=False)):
            yield from self.nodes(path + brackets % index, one, other)

    def _dicts(self, path: str, expected: DictNode, actual: DictNode) -> Iterator[Difference]:
        ours, theirs = _by_key(expected), _by_key(actual)
        for key, value in ours.items():
            if key not in theirs:
                facts = {"expected": f"{value.kind} ({show(value)})", "actual": "no such key"}
                yield Difference(path=child(path, key), facet="structure", **facts)
        for key, value in theirs.items():
            if key not in ours:
                facts = {"expected": "no such key", "actual": f"{value.kind} ({show(value)})"}
                yield Difference(path=child(path, key), facet="structure", **facts)
        common = [key for key in ours if key in theirs]
        order = [key for key in theirs if key in ours]
        moved = next((place for place, pair in enumerate(zip(common, order, strict=True)) if pair[0] != pair[1]), None)
        if moved is not None:
            yield Difference(
                path=path,
                facet="key-order",
                expected=f"{show(common[moved])} as key {moved}",
                actual=show(order[moved]),
            )
        for key in common:
            yield from self.nodes(child(path, key), ours[key], theirs[key])

    def _metadata(self, path: str, expected: DictNode, actual: DictNode) -> Iterator[Difference]:
        ours = expected.metadata if isinstance(expected, ODictNode) else None
        theirs = actual.metadata if isinstance(actual, ODictNode) else None
        if ours is None or theirs is None:
            if ours is not theirs:
                shown = ["no _metadata" if node is None else show(node) for node in (ours, theirs)]
                yield Difference(path=path + METADATA, facet="metadata", expected=shown[0], actual=shown[1])
            return
        for difference in self.nodes(path + METADATA, ours, theirs):
            yield Difference(
                path=difference.path,
                facet="metadata",
                expected=f"{difference.expected} ({difference.facet})",
                actual=difference.actual,
            )

    def _tensors(self, path: str, expected: TensorNode, actual: TensorNode) -> Iterator[Difference]:
        self.pairs.append((path, expected, actual))
        layout_differs = False
        for facet, ours, theirs in self._facets(expected, actual):
            if ours != theirs:
                layout_differs = layout_differs or facet in {"dtype", "shape"}
                yield Difference(path=path, facet=facet, expected=str(ours), actual=str(theirs))
        ours_bytes = self.expected.storages[expected.storage].data
        theirs_bytes = self.actual.storages[actual.storage].data
        storages = (expected.storage, actual.storage)
        first_time = storages not in self._same_storage
        if first_time:
            self._same_storage[storages] = ours_bytes == theirs_bytes
        same_storage = self._same_storage[storages]
        if first_time and not same_storage and "storage-bytes" not in self.ignore:
            one, other = differs(ours_bytes, theirs_bytes, "uint8", ()) or ("", "")
            yield Difference(path=path, facet="storage-bytes", expected=one, actual=other)
        if "bytes" in self.ignore or (same_storage and _layout(expected) == _layout(actual)):
            return
        yield from self._visible(path, expected, actual, layout_differs=layout_differs)

    def _facets(self, expected: TensorNode, actual: TensorNode) -> Iterator[tuple[str, object, object]]:
        yield "dtype", expected.dtype, actual.dtype
        yield "shape", list(expected.shape), list(actual.shape)
        yield "stride", list(expected.stride), list(actual.stride)
        yield "storage-offset", expected.storage_offset, actual.storage_offset
        yield "requires-grad", expected.requires_grad, actual.requires_grad
        yield "kind", expected.tensor_kind, actual.tensor_kind
        yield "conj-neg", _bits(expected), _bits(actual)
        yield (
            "device",
            self.expected.storages[expected.storage].device,
            self.actual.storages[actual.storage].device,
        )

    def _visible(
        self, path: str, expected: TensorNode, actual: TensorNode, *, layout_differs: bool
    ) -> Iterator[Difference]:
        sides = []
        for spec, tensor in ((self.expected, expected), (self.actual, actual)):
            storage = spec.storages[tensor.storage]
            data = None if storage.device == "meta" else visible(tensor, storage.data)
            if data is not None and _bits(expected) != _bits(actual):
                # One side has done what the other has only noted: compare the values both stand for.
                data = resolved(tensor, data)
            sides.append(data)
        ours, theirs = sides
        if ours is None or theirs is None:
            if ours is not theirs:
                shown = ["no bytes (meta)" if data is None else f"{len(data)} bytes" for data in sides]
                yield Difference(path=path, facet="bytes", expected=shown[0], actual=shown[1])
            return
        if layout_differs and len(ours) != len(theirs) and not self.ignore & {"dtype", "shape"}:
            return  # the dtype or the shape has been reported, and says more
        found = differs(ours, theirs, expected.dtype, expected.shape)
        if found is not None:
            yield Difference(path=path, facet="bytes", expected=found[0], actual=found[1])

    def aliasing(self) -> Iterator[Difference]:
        """Compare which of the tensors met on both sides share storages, and at what distance."""
        ours: dict[int, tuple[str, int]] = {}
        theirs: dict[int, tuple[str, int]] = {}
        for path, expected, actual in self.pairs:
            one = _shared_with(ours, path, expected)
            other = _shared_with(theirs, path, actual)
            if one != other:
                yield Difference(path=path, facet="aliasing", expected=one, actual=other)


def _shared_with(leaders: dict[int, tuple[str, int]], path: str, tensor: TensorNode) -> str:
    start = tensor.storage_offset * ITEMSIZES[tensor.dtype]
    leader, first = leaders.setdefault(tensor.storage, (path, start))
    if leader == path:
        return "the first of its storage"
    return f"the storage of {leader}, {start - first:+d} bytes from its start"


def _by_key(node: DictNode) -> dict[Node, Node]:
    return dict(node.items)


def _bits(tensor: TensorNode) -> str:
    bits = [name for name, is_set in (("conj", tensor.conj), ("neg", tensor.neg)) if is_set]
    return "+".join(bits) or "neither"


def _layout(tensor: TensorNode) -> tuple[object, ...]:
    return (tensor.dtype, tensor.shape, tensor.stride, tensor.storage_offset, tensor.conj, tensor.neg)


def _exact(node: Node) -> str:
    """Return the value and, since reprs of different values can be equal (NaN), its JSON form."""
    return show(node) if isinstance(node, (NoneNode, SetNode)) else f"{show(node)} {node.to_json()}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 40]}…{text[-30:]}"
