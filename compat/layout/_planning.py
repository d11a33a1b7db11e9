"""Lay a tree out as named dense arrays, and put what that loses into words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from compat import plainjson
from compat.checkpoint import Path, TensorRecord, contiguous_stride, name_paths, path_text, walk
from compat.data import Buffer
from compat.dtypes import DTYPES
from compat.errors import Unsupported
from compat.formats._format import Written
from compat.layout._rules import FREE, MAX_HIDDEN, RESERVED, VERSION, flip_signs
from compat.records import MAX_DIMS
from compat.strided import element_bytes, element_chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """One named dense array to be written.

    Attributes:
        dtype: the element type as torch names it; shape: its shape, in elements.
        record: the tensor it shows.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    record: TensorRecord

    @property
    def nbytes(self) -> int:
        """The array's size in bytes."""
        return self.record.nbytes

    def chunks(self) -> Iterator[Buffer]:
        """The values in logical order, with conjugation and negation applied."""
        if self.record.conj or self.record.neg:
            yield flip_signs(element_bytes(self.record), self.record)
        else:
            yield from element_chunks(self.record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an array of a format can be.

    Attributes:
        dims: how many dimensions it can have; those with more are laid out as bytes.
        name: how many bytes its name can have; longer ones are cut. None for any number.
        whole_paths: names are whole paths, also in the steps that all of them share.
        nul: whether a name goes on behind a zero byte, where readers written in C see its end.
        suffix: what readers take off a name, so that one with it stands for the one without it.
        reserved: a name that the format keeps for itself.
        flat_empty: those without elements are laid out as bytes, unless they have one dimension.
    """

    dims: int = MAX_DIMS
    name: int | None = None
    whole_paths: bool = False
    nul: bool = True
    suffix: str = ""
    reserved: str = RESERVED
    flat_empty: bool = False


Implied = Callable[[TensorRecord], dict[str, Any] | None]

# How long a mark behind a name is that the format cannot have: a tilde, and digits of a sum of the name.
_MARK: Final = 17


@dataclass(slots=True, kw_only=True)
class Layout:
    """What to write: the arrays, and the text that restores everything else (None where nothing is left)."""

    arrays: list[Array] = field(default_factory=list)
    text: str | None = None
    written: Written = field(default_factory=Written)


class _Planner:
    def __init__(
        self, tree: Any, dtypes: Collection[str], allow_loss: Collection[str], limits: Limits, implied: Implied | None
    ) -> None:
        self.tree = tree
        self.implied = implied
        self.dtypes = dtypes
        self.allow_loss = allow_loss
        self.limits = limits
        self.layout = Layout()
        self.tensors: dict[str, Any] = {}
        self.storages: dict[str, Any] = {}
        self.names: dict[int, str] = {}
        found = [(path, leaf) for path, leaf in walk(tree) if isinstance(leaf, TensorRecord)]
        self.records = dict(zip(array_names([path for path, _ in found], limits), found, strict=True))
        self.shared = self._views_by_storage()

    def _views_by_storage(self) -> dict[int, dict[tuple[Any, ...], str]]:
        """For each storage, the distinct views of it and the first name of each."""
        views: dict[int, dict[tuple[Any, ...], str]] = {}
        for name, (_, record) in self.records.items():
            views.setdefault(id(record.storage), {}).setdefault(_geometry(record), name)
        return views

    def plan(self) -> Layout:
        for name, (path, record) in self.records.items():
            self._check(path, record)
            if id(record) not in self.names:
                self.names[id(record)] = name
                self._place(name, path, record)
        tree = plainjson.encode(self.tree, lambda record, _: self.names[id(record)])
        if self.tensors or self.storages or tree != _plain_tree(self.layout.arrays):
            carried = {"version": VERSION, "tree": tree, "tensors": self.tensors, "storages": self.storages}
            self.layout.text = json.dumps(carried, separators=(",", ":"))
        self._report()
        return self.layout

    def _check(self, path: Path, record: TensorRecord) -> None:
        where = path_text(path)
        if record.storage.data is None:
            raise Unsupported(f"tensor {where!r} has no data (it is on the meta device)", feature="meta", paths=[where])
        if record.dtype not in self.dtypes and "dtype" not in self.allow_loss:
            raise Unsupported(
                f"tensor {where!r} has dtype {record.dtype}, which the format cannot name",
                feature="dtype",
                paths=[where],
                hint='Store it as raw bits that only compat gives back: allow_loss=["dtype"] (--allow-loss dtype).',
            )
        if record.subclass is not None:
            raise Unsupported(
                f"tensor {where!r} is a {record.subclass.name}, a class that the format cannot name",
                feature="opaque",
                paths=[where],
                hint="A torch format keeps it; or save the plain tensor that it is.",
            )
        if record.nbytes > MAX_HIDDEN * record.storage.nbytes + FREE:
            raise Unsupported(
                f"tensor {where!r} is an expanded view: {record.nbytes:,} bytes out of {record.storage.nbytes:,}",
                feature="strides",
                paths=[where],
                hint="Save its base, or tensor.contiguous() if the size is meant.",
            )

    def _place(self, name: str, path: Path, record: TensorRecord) -> None:
        first = self.shared[id(record.storage)][_geometry(record)]
        facts = self._facts(record, path, self.records[first][1])
        if len(self.shared[id(record.storage)]) > 1 or not (
            record.covers_storage and not record.conj and not record.neg
        ):
            facts |= self._geometry_facts(record, path)
        elif record.stride != contiguous_stride(record.shape):
            # Dimensions of size one may have any stride, and keep it.
            facts["stride"] = list(record.stride)
        if first == name:
            self.layout.arrays.append(self._array(name, record, facts))
        elif "of" not in facts:
            facts["of"] = first
        if record.storage.device != "cpu":
            facts["device"] = record.storage.device
        if facts:
            self.tensors[name] = facts

    def _facts(self, record: TensorRecord, path: Path, first: TensorRecord) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if record.requires_grad:
            facts["requires_grad"] = True
        if record.kind != "tensor":
            facts["kind"] = record.kind
        implied = self.implied(first) if self.implied is not None and self._is_plain(first) else None
        if (record.attributes or None) != implied:
            facts["attributes"] = plainjson.encode(record.attributes or None, _no_tensor, path)
        return facts

    def _geometry_facts(self, record: TensorRecord, path: Path) -> dict[str, Any]:
        visible = sum(self.records[name][1].nbytes for name in self.shared[id(record.storage)].values())
        if record.storage.nbytes > MAX_HIDDEN * visible + FREE:
            is_shared = len(self.shared[id(record.storage)]) > 1
            if is_shared and "aliasing" not in self.allow_loss:
                raise Unsupported(
                    f"{path_text(path)} shows a small part of a storage of {record.storage.nbytes:,} bytes that "
                    "others share",
                    feature="aliasing",
                    paths=[path_text(path)],
                    hint='Store the parts apart: allow_loss=["aliasing"] (--allow-loss aliasing).',
                )
            self._lose("aliasing" if is_shared else "strides", path)
            return {name: True for name in ("conj", "neg") if getattr(record, name)}
        key = str(list(self.shared).index(id(record.storage)))
        self.storages[key] = {"nbytes": record.storage.nbytes}
        if visible < record.storage.nbytes:
            self._lose("hidden_bytes", path)
        facts: dict[str, Any] = {
            "storage": key,
            "offset": record.storage_offset,
            "stride": list(record.stride),
        }
        facts |= {name: True for name in ("conj", "neg") if getattr(record, name)}
        return facts

    def _array(self, name: str, record: TensorRecord, facts: dict[str, Any]) -> Array:
        if self._is_plain(record):
            return Array(name=name, dtype=record.dtype, shape=record.shape, record=record)
        facts |= {"dtype": record.dtype, "shape": list(record.shape)}
        self.layout.written.carried.setdefault("dtype", []).append(name)
        return Array(name=name, dtype="uint8", shape=(record.nbytes,), record=record)

    def _is_plain(self, record: TensorRecord) -> bool:
        """Whether the format can have an array of this dtype and shape."""
        named = record.dtype in self.dtypes and (DTYPES[record.dtype].packed == 1 or len(record.shape) > 0)
        flat = self.limits.flat_empty and record.numel == 0 and len(record.shape) > 1
        return named and not flat and len(record.shape) <= self.limits.dims

    def _lose(self, feature: str, path: Path) -> None:
        self.layout.written.lost.setdefault(feature, []).append(path_text(path))

    def _report(self) -> None:
        """Say what only compat gives back, and which names are not the paths they had."""
        written = self.layout.written
        for path, leaf in walk(self.tree):
            # Without a text, whatever is no tensor is said by the arrays themselves.
            if self.layout.text is not None and not isinstance(leaf, TensorRecord):
                written.carried.setdefault("metadata" if "._metadata" in map(str, path) else "extras", []).append(
                    path_text(path)
                )
        for name, (path, record) in self.records.items():
            if path_text(path) != name:
                written.renamed[path_text(path)] = name
            facts = self.tensors.get(name, {})
            for feature, marks in _CARRIED.items():
                if any(mark in facts for mark in marks):
                    written.carried.setdefault(feature, []).append(path_text(path))
            _ = record


_CARRIED: Final = {
    "aliasing": ("of",),
    "strides": ("storage", "stride"),
    "requires_grad": ("requires_grad", "kind"),
    "conj": ("conj", "neg"),
    "device": ("device",),
}


def array_names(paths: list[Path], limits: Limits | None = None) -> list[str]:
    """A name per path, without the steps that all of them share, and within a format's limits."""
    limits = limits or Limits()
    shared = 0
    parents = [] if limits.whole_paths else [path[:-1] for path in paths]
    while parents and all(len(p) > shared and p[shared] == parents[0][shared] for p in parents):
        shared += 1
    short = [tuple(_sayable(step) for step in path[shared:]) for path in paths]
    names = list(name_paths([(limits.reserved,), *short]))[1:]
    known = {limits.reserved, *names}
    return [_fitted(name, limits, known) for name in names]


def _fitted(name: str, limits: Limits, known: set[str]) -> str:
    """A name that readers would cut or mistake for another, marked so that they tell them apart."""
    encoded = name.encode("utf-8")
    longest = len(encoded) + _MARK if limits.name is None else limits.name
    mistaken = limits.suffix and name.endswith(limits.suffix) and name.removesuffix(limits.suffix) in known
    if len(encoded) <= longest and not mistaken and (limits.nul or b"\0" not in encoded):
        return name
    seen = (encoded if limits.nul else encoded.partition(b"\0")[0])[: longest - _MARK].decode("utf-8", "ignore")
    made, total = name, encoded
    while made in known:
        total = hashlib.sha256(total).digest()
        made = seen + f"~{total.hex()}"[:_MARK]
    known.add(made)
    return made


def _sayable(step: Any) -> Any:
    """A step without what UTF-8 cannot say; the tree keeps the true one."""
    return step.encode("utf-8", "replace").decode("utf-8") if isinstance(step, str) else step


def _no_tensor(record: TensorRecord, path: Path) -> Any:
    raise Unsupported(f"{path_text(path)} has a tensor of {record.shape} as an attribute", feature="attributes")


def _geometry(record: TensorRecord) -> tuple[Any, ...]:
    return (record.dtype, record.shape, record.stride, record.storage_offset, record.conj, record.neg)


def _plain_tree(arrays: list[Array]) -> Any:
    """What a file of arrays alone reads back as: one dict of tensors under their names."""
    return {"dict": [[array.name, {"tensor": array.name}] for array in arrays]}


def plan(
    tree: Any,
    *,
    dtypes: Collection[str],
    allow_loss: Collection[str] = (),
    limits: Limits | None = None,
    implied: Implied | None = None,
) -> Layout:
    """Lay a tree out as named dense arrays.

    Args:
        tree: the content of a checkpoint.
        dtypes: the element types that the format can name.
        allow_loss: what may be dropped: `dtype`, `aliasing`.
        limits: what an array of the format can be.
        implied: the attributes that a tensor is read with anyway, because of how its array is marked. None for none.

    Raises:
        Unsupported: the tree holds what neither an array nor the carried text can.
    """
    return _Planner(tree, dtypes, allow_loss, limits or Limits(), implied).plan()
