"""Put a tree together again from named dense arrays and the words that were carried with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compat import plainjson
from compat.checkpoint import StorageRecord, TensorRecord, check_bounds, contiguous_stride
from compat.data import Data, MemoryData, ScatteredData, read
from compat.dtypes import DTYPES
from compat.errors import Corrupt, Unsupported, brief
from compat.layout._rules import FREE, MAX_HIDDEN, VERSION, flip_signs


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One named dense array as a file has it; `attributes` say what it is where torch has no dtype for it."""

    dtype: str
    shape: tuple[int, ...]
    data: Data
    attributes: dict[str, Any] | None = None


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
                hint="Another tool changed it. Without 'compat.layout' in its metadata, the arrays are read alone.",
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
        attributes = plainjson.decode(facts["attributes"], self.tensor) if "attributes" in facts else array.attributes
        record = TensorRecord(
            dtype=dtype,
            shape=shape,
            stride=tuple(int(n) for n in facts["stride"]) if "stride" in facts else contiguous_stride(shape),
            storage_offset=0 if own else int(facts["offset"]),
            storage=storage,
            requires_grad=bool(facts.get("requires_grad", False)),
            kind=_kind(facts.get("kind", "tensor")),
            conj=bool(facts.get("conj", False)),
            neg=bool(facts.get("neg", False)),
            attributes=attributes,
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
                key=key,
                nbytes=nbytes,
                device=str(facts.get("device", "cpu")),
                data=array.data if own else None,
            )
        return self.storages[key]

    def _assemble(self, key: str, storage: StorageRecord) -> None:
        """Put a shared storage together from the dense copies of its views."""
        if storage.data is not None:
            return
        parts = self.parts.get(key, [])
        visible = sum(data.nbytes for data, _ in parts)
        if storage.nbytes > MAX_HIDDEN * visible + FREE:
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


def _kind(kind: Any) -> str:
    if kind not in ("tensor", "parameter", "buffer"):
        raise Corrupt(f"a tensor is of the unknown kind {brief(kind)}")
    return str(kind)


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
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise Corrupt(f"the carried layout is damaged: {type(error).__name__}: {error!s:.120}") from error


def _alone(name: str, array: Found) -> TensorRecord:
    return TensorRecord(
        dtype=array.dtype,
        shape=array.shape,
        stride=contiguous_stride(array.shape),
        storage_offset=0,
        storage=StorageRecord(key=name, nbytes=array.data.nbytes, data=array.data),
        attributes=array.attributes,
    )
