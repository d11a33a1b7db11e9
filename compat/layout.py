"""How tensors that share storage, have strides or hide in a tree lie in a format of named dense arrays.

Other readers of such a file must find every value they can: each distinct view is written densely, in logical
order, with conjugation and negation applied. What that loses is carried beside it and restored exactly:
which names share a storage, where in it they lie, and the tree that held them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from compat import plainjson
from compat.checkpoint import (
    Path,
    StorageRecord,
    TensorRecord,
    check_bounds,
    contiguous_stride,
    name_paths,
    path_text,
    walk,
)
from compat.data import Buffer, Data, MemoryData, ScatteredData, read
from compat.dtypes import DTYPES
from compat.errors import Corrupt, Unsupported
from compat.formats._format import Written
from compat.strided import element_bytes, element_chunks

VERSION: Final = 1
# A storage may be this much larger than what its tensors show; beyond it, it is not restored.
_MAX_HIDDEN: Final = 4
_FREE: Final = 64 * 1024
# A name that the format keeps for itself.
RESERVED: Final = "__metadata__"


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


@dataclass(slots=True, kw_only=True)
class Layout:
    """What to write: the arrays, and the text that restores everything else (None where nothing is left)."""

    arrays: list[Array] = field(default_factory=list)
    text: str | None = None
    written: Written = field(default_factory=Written)


def flip_signs(elements: Buffer, record: TensorRecord) -> Buffer:
    """Apply a tensor's conjugate and negative bits to its bytes; doing it twice gives them back."""
    dtype = DTYPES[record.dtype]
    if "int" in record.dtype:
        return _negate(elements, dtype.itemsize)
    sign = bytes(dtype.component - 1) + b"\x80"
    keep = bytes(dtype.component)
    if dtype.itemsize == dtype.component:
        unit = sign if record.neg else keep
    else:
        unit = (sign if record.neg else keep) + (sign if record.neg != record.conj else keep)
    size = memoryview(elements).nbytes
    mask = unit * (size // len(unit))
    return (int.from_bytes(elements, "little") ^ int.from_bytes(mask, "little")).to_bytes(size, "little")


def _negate(elements: Buffer, width: int) -> bytes:
    """Two's complement, element by element: the negative bit of whole numbers."""
    data, modulus = bytes(elements), 1 << (8 * width)
    numbers = (int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width))
    return b"".join((-number % modulus).to_bytes(width, "little") for number in numbers)


class _Planner:
    def __init__(self, tree: Any, dtypes: Collection[str], allow_loss: Collection[str]) -> None:
        self.tree = tree
        self.dtypes = dtypes
        self.allow_loss = allow_loss
        self.layout = Layout()
        self.tensors: dict[str, Any] = {}
        self.storages: dict[str, Any] = {}
        self.names: dict[int, str] = {}
        found = [(path, leaf) for path, leaf in walk(tree) if isinstance(leaf, TensorRecord)]
        self.records = dict(zip(self._names([path for path, _ in found]), found, strict=True))
        self.shared = self._views_by_storage()

    def _names(self, paths: list[Path]) -> list[str]:
        """A name per path, without the steps that all of them share."""
        shared = 0
        parents = [path[:-1] for path in paths]
        while parents and all(len(p) > shared and p[shared] == parents[0][shared] for p in parents):
            shared += 1
        short = [tuple(_sayable(step) for step in path[shared:]) for path in paths]
        return [name for name in name_paths([(RESERVED,), *short]) if name != RESERVED]

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
        if record.nbytes > _MAX_HIDDEN * record.storage.nbytes + _FREE:
            raise Unsupported(
                f"tensor {where!r} is an expanded view: {record.nbytes:,} bytes out of {record.storage.nbytes:,}",
                feature="strides",
                paths=[where],
                hint="Save its base, or tensor.contiguous() if the size is meant.",
            )

    def _place(self, name: str, path: Path, record: TensorRecord) -> None:
        facts = self._facts(record, path)
        first = self.shared[id(record.storage)][_geometry(record)]
        if len(self.shared[id(record.storage)]) > 1 or not (record.covers_storage and not record.conj and not record.neg):
            facts |= self._geometry_facts(record, path)
        elif first != name:
            facts["of"] = first
        if first == name:
            self.layout.arrays.append(self._array(name, record, facts))
        elif "of" not in facts:
            facts["of"] = first
        if record.storage.device != "cpu":
            facts["device"] = record.storage.device
        if facts:
            self.tensors[name] = facts

    def _facts(self, record: TensorRecord, path: Path) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if record.requires_grad:
            facts["requires_grad"] = True
        if record.kind != "tensor":
            facts["kind"] = record.kind
        if record.attributes:
            facts["attributes"] = plainjson.encode(record.attributes, _no_tensor, path)
        return facts

    def _geometry_facts(self, record: TensorRecord, path: Path) -> dict[str, Any]:
        visible = sum(
            self.records[name][1].nbytes for name in self.shared[id(record.storage)].values()
        )
        if record.storage.nbytes > _MAX_HIDDEN * visible + _FREE:
            if len(self.shared[id(record.storage)]) > 1 and "aliasing" not in self.allow_loss:
                raise Unsupported(
                    f"{path_text(path)} shows a small part of a storage of {record.storage.nbytes:,} bytes that "
                    "others share",
                    feature="aliasing",
                    paths=[path_text(path)],
                    hint='Store the parts apart: allow_loss=["aliasing"] (--allow-loss aliasing).',
                )
            self._lose("strides", path)
            return {name: True for name in ("conj", "neg") if getattr(record, name)}
        key = str(list(self.shared).index(id(record.storage)))
        self.storages[key] = {"nbytes": record.storage.nbytes}
        if visible < record.storage.nbytes:
            self._lose("hidden_bytes", path)
        facts: dict[str, Any] = {"storage": key, "offset": record.storage_offset, "stride": list(record.stride)}
        facts |= {name: True for name in ("conj", "neg") if getattr(record, name)}
        return facts

    def _array(self, name: str, record: TensorRecord, facts: dict[str, Any]) -> Array:
        if record.dtype in self.dtypes and (DTYPES[record.dtype].packed == 1 or record.shape):
            return Array(name=name, dtype=record.dtype, shape=record.shape, record=record)
        facts |= {"dtype": record.dtype, "shape": list(record.shape)}
        self.layout.written.carried.setdefault("dtype", []).append(name)
        return Array(name=name, dtype="uint8", shape=(record.nbytes,), record=record)

    def _lose(self, feature: str, path: Path) -> None:
        self.layout.written.lost.setdefault(feature, []).append(path_text(path))

    def _report(self) -> None:
        """Say what only compat gives back, and which names are not the paths they had."""
        written = self.layout.written
        for path, leaf in walk(self.tree):
            if not isinstance(leaf, TensorRecord):
                written.carried.setdefault("metadata" if "._metadata" in map(str, path) else "extras", []).append(path_text(path))
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
    "strides": ("storage",),
    "requires_grad": ("requires_grad", "kind"),
    "conj": ("conj", "neg"),
    "device": ("device",),
}


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


def plan(tree: Any, *, dtypes: Collection[str], allow_loss: Collection[str] = ()) -> Layout:
    """Lay a tree out as named dense arrays.

    Args:
        tree: the content of a checkpoint.
        dtypes: the element types that the format can name.
        allow_loss: what may be dropped: `dtype`, `aliasing`.

    Raises:
        Unsupported: the tree holds what neither an array nor the carried text can.
    """
    return _Planner(tree, dtypes, allow_loss).plan()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One named dense array as a file has it."""

    dtype: str
    shape: tuple[int, ...]
    data: Data


class _Restorer:
    def __init__(self, arrays: Mapping[str, Found], carried: dict[str, Any]) -> None:
        self.arrays = arrays
        self.tensors: dict[str, Any] = carried["tensors"]
        self.sizes: dict[str, Any] = carried["storages"]
        self.records: dict[str, TensorRecord] = {}
        self.storages: dict[str, StorageRecord] = {}
        self.parts: dict[str, list[Any]] = {}

    def restore(self, tree: Any) -> Any:
        restored = plainjson.decode(tree, self.tensor)
        unused = [name for name in self.arrays if name not in self.records]
        if unused:
            raise Corrupt(
                f"array {unused[0]!r} is not in the carried layout",
                expected="the arrays that compat wrote",
                hint="Another tool changed the file. Remove 'compat.layout' from its metadata to read the arrays alone.",
            )
        for key, storage in self.storages.items():
            self._assemble(key, storage)
        for name, record in self.records.items():
            check_bounds(record, path=name)
        return restored

    def tensor(self, name: Any) -> TensorRecord:
        if not isinstance(name, str):
            raise Corrupt(f"a tensor is named {name!r:.80}")
        if name not in self.records:
            self.records[name] = self._record(name, self.tensors.get(name, {}))
        return self.records[name]

    def _record(self, name: str, facts: Any) -> TensorRecord:
        array = self.arrays.get(facts.get("of", name))
        if array is None:
            raise Corrupt(f"array {facts.get('of', name)!r} is missing, which the carried layout names")
        source = self.tensors.get(facts.get("of", name), {})
        dtype = source.get("dtype", array.dtype)
        shape = tuple(int(n) for n in source.get("shape", array.shape))
        if dtype not in DTYPES:
            raise Corrupt(f"tensor {name!r} has the unknown dtype {dtype!r:.40}")
        own = "storage" not in facts
        key = "array " + facts.get("of", name) if own else str(facts["storage"])
        storage = self._storage(key, array, facts, own=own)
        record = TensorRecord(
            dtype=dtype,
            shape=shape,
            stride=contiguous_stride(shape) if own else tuple(int(n) for n in facts["stride"]),
            storage_offset=0 if own else int(facts["offset"]),
            storage=storage,
            requires_grad=bool(facts.get("requires_grad", False)),
            kind=str(facts.get("kind", "tensor")),
            conj=bool(facts.get("conj", False)),
            neg=bool(facts.get("neg", False)),
            attributes=plainjson.decode(facts.get("attributes"), self.tensor),
        )
        if record.nbytes != array.data.nbytes:
            raise Corrupt(f"array {name!r} has {array.data.nbytes:,} bytes", expected=f"{record.nbytes:,}")
        if own and (record.conj or record.neg):
            storage.data = MemoryData(flip_signs(read(array.data), record))
        if not own and "of" not in facts:
            self.parts.setdefault(key, []).append((array.data, record))
        return record

    def _storage(self, key: str, array: Found, facts: Any, *, own: bool) -> StorageRecord:
        if key not in self.storages:
            nbytes = array.data.nbytes if own else int(self.sizes[key]["nbytes"])
            self.storages[key] = StorageRecord(
                key=key, nbytes=nbytes, device=str(facts.get("device", "cpu")), data=array.data if own else None
            )
        return self.storages[key]

    def _assemble(self, key: str, storage: StorageRecord) -> None:
        """Put a shared storage together from the dense copies of its views."""
        if storage.data is not None:
            return
        parts = self.parts.get(key, [])
        visible = sum(data.nbytes for data, _ in parts)
        if storage.nbytes > _MAX_HIDDEN * visible + _FREE:
            raise Corrupt(f"a storage of {storage.nbytes:,} bytes is carried for {visible:,} bytes of tensors")
        storage.data = ScatteredData(
            nbytes=storage.nbytes,
            parts=[
                (
                    MemoryData(flip_signs(read(data), record)) if record.conj or record.neg else data,
                    record.itemsize,
                    record.shape,
                    record.stride,
                    record.storage_offset,
                )
                for data, record in parts
            ],
        )


def restore(arrays: Mapping[str, Found], text: str | None) -> Any:
    """The tree that was laid out as these arrays and this text.

    Raises:
        Corrupt: the text is damaged, or does not fit the arrays.
    """
    if text is None:
        return {name: _alone(name, array) for name, array in arrays.items()}
    try:
        carried = json.loads(text)
        if carried["version"] != VERSION:
            raise Unsupported(
                f"the carried layout has version {carried['version']!r:.40}",
                feature="layout",
                expected=str(VERSION),
                hint="It was written by a newer compat: update.",
            )
        return _Restorer(arrays, carried).restore(carried["tree"])
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise Corrupt(f"the carried layout is damaged: {type(error).__name__}: {error!s:.120}") from error


def _alone(name: str, array: Found) -> TensorRecord:
    return TensorRecord(
        dtype=array.dtype,
        shape=array.shape,
        stride=contiguous_stride(array.shape),
        storage_offset=0,
        storage=StorageRecord(key=name, nbytes=array.data.nbytes, data=array.data),
    )
