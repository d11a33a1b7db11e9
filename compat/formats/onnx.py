"""`onnx`: the initializers of an ONNX model, read only.

- read: every initializer of the main graph under its name, with raw, typed and external data; all element types
  that torch has.
- external data: only files inside the model's own folder; names that lead out of it, symbolic links included, are
  refused.
- opaque: initializers of types that torch has no plain tensor for (strings, 4-bit and 2-bit integers): listed with
  their shape and type.
- not read: the graph. Nothing of it is run.
- checked: every message's bounds, and that each initializer has as many bytes as its shape says.

Source of the layout: `onnx/onnx.in.proto` (ModelProto, GraphProto, TensorProto) and `docs/ExternalData.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, Final

from compat.checkpoint import Checkpoint, Opaque, StorageRecord, TensorRecord, contiguous_stride
from compat.data import Data, FileData, MemoryData
from compat.dtypes import BY_ONNX, DType
from compat.errors import CompatError, Corrupt, Unsupported
from compat.formats._format import Capabilities, Format
from compat.protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, Reader, signed
from compat.sources import Source

# Fields of the messages, by name.
_MODEL: Final = {"ir_version": 1, "producer_name": 2, "producer_version": 3, "graph": 7, "opset_import": 8}
_MODEL_FIELDS: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_GRAPH_NAME: Final = 2
_GRAPH_INITIALIZER: Final = 5
_DIMS, _DATA_TYPE, _SEGMENT, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 3, 8, 9, 13, 14
# Typed data that lies as it would in memory, and typed data whose elements are varints.
_FIXED_DATA: Final = frozenset({4, 10})
_VARINT_DATA: Final = frozenset({5, 7, 11})
_LOOKED_AT: Final = 64
_SUSPECT: Final = 10_000


def _detect(source: Source) -> bool:
    """Whether the whole source is one message with a model's fields, a version and a graph among them."""
    if source.head[:1] not in (b"\x08", b"\x3a", b"\x12"):
        return False
    seen: set[int] = set()
    try:
        for count, field in enumerate(Reader(source).fields(0, source.size)):
            if field.number not in _MODEL_FIELDS or count > _SUSPECT:
                return False
            seen.add(field.number)
    except Corrupt:
        # A model that was cut inside its graph still begins with its version.
        return _MODEL["ir_version"] in seen and _begins_graph(source)
    return {_MODEL["ir_version"], _MODEL["graph"]} <= seen


def _begins_graph(source: Source) -> bool:
    reader = Reader(source)
    position = 0
    try:
        for _ in range(_LOOKED_AT):
            tag, position = reader.varint(position, source.size)
            if tag == _MODEL["graph"] << 3 | BYTES:
                return True
            if tag & 7 == VARINT:
                _, position = reader.varint(position, source.size)
            elif tag & 7 == BYTES:
                size, position = reader.varint(position, source.size)
                position += size
            else:
                return False
    except CompatError:
        return False
    return False


class _Initializer:
    """One TensorProto, as it is being read."""

    def __init__(self, reader: Reader, message: Field) -> None:
        self.reader = reader
        self.shape: list[int] = []
        self.data_type = 0
        self.name = ""
        self.data: list[Field] = []
        self.raw: Field | None = None
        self.external: dict[str, str] = {}
        self.is_external = False
        for field in reader.fields(message.start, message.end):
            self._take(field)

    def _take(self, field: Field) -> None:
        reader = self.reader
        if field.number == _DIMS:
            self.shape += [signed(value) for value in reader.numbers(field)]
        elif field.number == _DATA_TYPE:
            self.data_type = field.value
        elif field.number == _NAME:
            self.name = reader.text(field)
        elif field.number == _RAW:
            self.raw = field
        elif field.number == _EXTERNAL:
            pair = {part.number: reader.text(part) for part in reader.fields(field.start, field.end)}
            self.external[pair.get(1, "")] = pair.get(2, "")
        elif field.number == _LOCATION:
            self.is_external = field.value == 1
        elif field.number in _FIXED_DATA | _VARINT_DATA:
            self.data.append(field)
        elif field.number == _SEGMENT:
            raise Unsupported(f"initializer {self.name!r} is split into segments", feature="segments")

    def value(self) -> TensorRecord | Opaque:
        """The initializer as a record; opaque where torch has no such tensor."""
        dtype = BY_ONNX.get(self.data_type)
        if any(size < 0 for size in self.shape):
            raise Corrupt(f"initializer {self.name!r} has shape {self.shape}", source=self.reader.source.name)
        shape = tuple(self.shape)
        if dtype is not None and dtype.packed > 1 and (not shape or shape[-1] % dtype.packed):
            dtype = None
        if dtype is None:
            return Opaque("onnx.TensorProto", (), {"name": self.name, "dims": shape, "data_type": self.data_type})
        if dtype.packed > 1:
            shape = (*shape[:-1], shape[-1] // dtype.packed)
        data = self._data(dtype)
        nbytes = prod(shape) * dtype.itemsize
        if data.nbytes != nbytes:
            raise Corrupt(
                f"initializer {self.name!r} has {data.nbytes:,} bytes",
                source=self.reader.source.name,
                expected=f"{nbytes:,}",
            )
        return TensorRecord(
            dtype=dtype.name,
            shape=shape,
            stride=contiguous_stride(shape),
            storage_offset=0,
            storage=StorageRecord(key=self.name, nbytes=nbytes, data=data),
        )

    def _data(self, dtype: DType) -> Data:
        source = self.reader.source
        if self.is_external:
            return _external(source, self.name, self.external)
        if self.raw is not None:
            return FileData(source=source, offset=self.raw.start, nbytes=self.raw.end - self.raw.start)
        if len(self.data) == 1 and self.data[0].wire == BYTES and self.data[0].number in _FIXED_DATA:
            return FileData(source=source, offset=self.data[0].start, nbytes=self.data[0].end - self.data[0].start)
        return MemoryData(b"".join(self._elements(dtype)))

    def _elements(self, dtype: DType) -> Iterator[bytes]:
        for field in self.data:
            if field.wire in (FIXED32, FIXED64) or field.number in _FIXED_DATA:
                yield self.reader.content(field)
            else:
                # Each varint holds one element, whatever its width; complex numbers are floats, see above.
                mask = (1 << 8 * dtype.itemsize) - 1
                for value in self.reader.numbers(field):
                    yield (value & mask).to_bytes(dtype.itemsize, "little")


def _external(source: Source, name: str, external: dict[str, str]) -> Data:
    """Where an initializer's bytes lie in a file beside the model.

    Raises:
        Unsupported: the model is no file, so that nothing lies beside it.
        Corrupt: the file's name leads out of the model's folder, or it is shorter than said.
    """
    beside = source.beside(external.get("location", ""))
    try:
        offset = int(external.get("offset", "0"))
        length = int(external.get("length", beside.size - offset))
    except ValueError as error:
        raise Corrupt(f"initializer {name!r} has {external!r:.120}", source=source.name) from error
    if offset < 0 or length < 0 or offset + length > beside.size:
        raise Corrupt(
            f"initializer {name!r} lies at {offset:,} with {length:,} bytes",
            source=beside.name,
            expected=f"{beside.size:,} bytes at most",
        )
    return FileData(source=beside, offset=offset, nbytes=length)


def _open(source: Source) -> Checkpoint:
    reader = Reader(source)
    tree: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    opsets: dict[str, int] = {}
    for field in reader.fields(0, source.size):
        if field.number == _MODEL["graph"]:
            for inner in reader.fields(field.start, field.end):
                if inner.number == _GRAPH_INITIALIZER:
                    made = _Initializer(reader, inner)
                    if made.name in tree:
                        raise Corrupt(f"two initializers are named {made.name!r}", source=source.name)
                    tree[made.name] = made.value()
                elif inner.number == _GRAPH_NAME:
                    facts["graph"] = reader.text(inner)
        elif field.number == _MODEL["opset_import"]:
            parts = {part.number: part for part in reader.fields(field.start, field.end)}
            domain = reader.text(parts[1]) if 1 in parts else ""
            opsets[domain or "ai.onnx"] = parts[2].value if 2 in parts else 0  # noqa: PLR2004 - the version's number
        elif field.number in (_MODEL["producer_name"], _MODEL["producer_version"]):
            facts["producer"] = " ".join(filter(None, (facts.get("producer"), reader.text(field))))
        elif field.number == _MODEL["ir_version"]:
            facts["ir_version"] = field.value
    return Checkpoint(
        format=FORMAT.name,
        tree=tree,
        source=source.name,
        metadata={**facts, "opset": ", ".join(f"{domain} {version}" for domain, version in opsets.items())},
        close=source.close,
    )


FORMAT = Format(
    name="onnx",
    summary="ONNX models: their initializers",
    suffixes=(".onnx",),
    detect=_detect,
    open=_open,
    left_behind="the graph",
    capabilities=Capabilities(
        dtypes=frozenset(dtype.name for dtype in BY_ONNX.values()),
        aliasing=False,
        strides=False,
        containers=False,
        extras="none",
        metadata=False,
        requires_grad=False,
        conj=False,
        opaque=False,
        hidden_bytes=False,
        device=False,
        mmap=True,
    ),
)
