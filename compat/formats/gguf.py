"""`gguf`: the files of ggml and llama.cpp.

- kept for every reader: names, shapes (in torch's order, the reverse of GGUF's) and values of tensors of F32, F16,
  BF16, F64 and the signed integers; key/values, with their types, from one GGUF file to another.
- kept as they are: quantised blocks. They are listed as rows of bytes (uint8), with `ggml_type` and `ggml_shape` as
  attributes, and written back as the type that they are; nothing is decoded. The blocks of a big-endian file have
  their scales that way round, and say so in `ggml_byteorder`: they are not written as blocks again.
- kept for compat: the tree, aliases, strides, flags, extras that JSON can say, and what ggml cannot have (tensors of
  more than four dimensions, and of several without elements; as bytes), in the key `compat.layout`.
- shortened: names of more than 63 bytes, or with a zero byte, which ggml cannot have; compat gives the whole name back.
- refused: dtypes that GGUF has no name for (unsigned, bool, complex, float8…) unless the caller allows it, opaque
  objects, tensors without data.
- not written: `general.architecture` and what else a program needs to run a model; only the source's own key/values.
- checked: every count and length against the bytes that are there; that the tensors tile the rest of the file, with
  nothing but alignment between them, as ggml demands, in any order. There are no sums.

Source of the layout: `docs/gguf.md` and `src/gguf.cpp` of ggml, versions 2 and 3, little and big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, Final

from compat.checkpoint import Checkpoint, StorageRecord, TensorRecord, check_bounds, contiguous_stride, path_text, walk
from compat.data import FileData
from compat.errors import CompatError, Corrupt, Unsupported, brief
from compat.formats._format import Capabilities, Format, WriteOptions, Written
from compat.ggmltypes import BY_DTYPE, BY_NAME, MAX_DIMS, MAX_NAME, TYPES, BlockType
from compat.gguffile import MAGIC, STRING, UINT32, UINT64, VERSIONS, GGUFReader, Value, packed, packed_text
from compat.layout import Array, Found, Limits, plan, restore
from compat.sources import Source

_ALIGNMENT_KEY: Final = "general.alignment"
_CARRIED: Final = "compat.layout"
_KINDS: Final = "compat.types"
_DEFAULT_ALIGNMENT: Final = 32
_MAX_ALIGNMENT: Final = 1 << 20  # ggml's own limit
_SMALLEST_PAIR: Final = 13
_SMALLEST_TENSOR: Final = 24
_MAX_RANK: Final = 64
_NAMED: Final = frozenset(BY_DTYPE)
_LIMITS: Final = Limits(dims=MAX_DIMS, name=MAX_NAME, nul=False, flat_empty=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """A tensor as the file describes it; `offset` counts from the end of all descriptions."""

    name: str
    shape: tuple[int, ...]
    block: BlockType
    offset: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) // self.block.elements * self.block.nbytes


def _detect(source: Source) -> bool:
    return source.head.startswith(MAGIC)


def _open(source: Source) -> Checkpoint:
    try:
        values, tensors = _parsed(source)
        carried = values.pop(_CARRIED, None)
        tree: Any = dict(tensors) if carried is None else _restored(tensors, carried)
    except CompatError as error:
        error.source = error.source or source.name
        raise
    facts = {key: found.value for key, found in values.items()}
    return Checkpoint(
        format=FORMAT.name,
        tree=tree,
        source=source.name,
        metadata={**facts, _KINDS: {key: found.kind for key, found in values.items()}} if facts else {},
        notes=_notes(facts),
        carried=[path_text(path) for path, leaf in walk(tree) if carried and not isinstance(leaf, TensorRecord)],
        close=source.close,
    )


def _notes(facts: Mapping[str, Any]) -> list[str]:
    """What llama.cpp's tool for splitting says of a file."""
    part, count = facts.get("split.no"), facts.get("split.count")
    if type(part) is not int or type(count) is not int or count <= 1:
        return []
    return [f"is part {part + 1:,} of {count:,} of a split model; the other tensors lie in the other files"]


def _parsed(source: Source) -> tuple[dict[str, Value], dict[str, TensorRecord]]:
    reader = GGUFReader(source)
    if reader.version not in VERSIONS:
        raise Unsupported(
            f"is GGUF of version {reader.version}",
            feature="version",
            source=source.name,
            expected=f"one of {', '.join(map(str, VERSIONS))}",
        )
    count = reader.count(_SMALLEST_TENSOR)
    values: dict[str, Value] = {}
    for _ in range(reader.count(_SMALLEST_PAIR)):
        key = reader.text()
        if key in values:
            raise reader.corrupt(f"the key {brief(key)} is there twice")
        values[key] = reader.value()
    alignment = _alignment(values)
    described = [_description(reader) for _ in range(count)]
    start = -(-reader.position // alignment) * alignment
    tensors: dict[str, TensorRecord] = {}
    for found in described:
        if found.name in tensors:
            raise reader.corrupt(f"two tensors are named {brief(found.name)}")
        tensors[found.name] = _record(reader, found, start)
    _check_tiles(described, alignment, start)
    return values, tensors


def _alignment(values: Mapping[str, Value]) -> int:
    """What the tensors are aligned to: a power of two."""
    found = values.get(_ALIGNMENT_KEY)
    if found is None:
        return _DEFAULT_ALIGNMENT
    alignment = found.value
    if found.kind != (UINT32,) or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise Corrupt(f"{_ALIGNMENT_KEY} is {brief(alignment)}", expected="a power of two, of type UINT32")
    return int(alignment)


def _description(reader: GGUFReader) -> _Described:
    name = reader.text()
    rank = reader.scalar(UINT32)
    if rank > _MAX_RANK:
        raise reader.corrupt(f"tensor {brief(name)} has {rank:,} dimensions", expected=f"at most {_MAX_RANK}")
    # GGUF counts from the fastest dimension, torch from the slowest.
    shape = tuple(reversed([reader.scalar(UINT64) for _ in range(rank)]))
    number = reader.scalar(UINT32)
    if number not in TYPES:
        raise Unsupported(
            f"tensor {brief(name)} is of the ggml type {number}",
            feature="dtype",
            paths=[name],
            source=reader.source.name,
            expected="a type that ggml has",
            hint="It is newer than this version of compat, or of the time before GGUF.",
        )
    block = TYPES[number]
    last = shape[-1] if shape else 1
    if last % block.elements:
        raise reader.corrupt(f"tensor {brief(name)} has rows of {last:,}, which {block.name} cannot have")
    return _Described(name=name, shape=shape, block=block, offset=reader.scalar(UINT64))


def _record(reader: GGUFReader, found: _Described, start: int) -> TensorRecord:
    source, block, nbytes, offset = reader.source, found.block, found.nbytes, start + found.offset
    byteorder = "big" if reader.endian == ">" else "little"
    if nbytes and offset + nbytes > source.size:
        raise Corrupt(
            f"tensor {brief(found.name)} is said to lie at {offset:,} with {nbytes:,} bytes",
            source=source.name,
            offset=source.size,
            expected=f"{source.size:,} bytes at most",
            hint="The file is cut short; get it again." if offset <= source.size else None,
        )
    shape = found.shape if block.dtype else _rows(found.shape, block)
    record = TensorRecord(
        dtype=block.dtype or "uint8",
        shape=shape,
        stride=contiguous_stride(shape),
        storage_offset=0,
        storage=StorageRecord(
            key=found.name,
            nbytes=nbytes,
            data=FileData(source=source, offset=offset if nbytes else 0, nbytes=nbytes),
            byteorder=byteorder,
        ),
        attributes=None if block.dtype else _marks(found.shape, block, byteorder),
    )
    check_bounds(record, source=source.name, path=found.name)
    return record


def _check_tiles(described: list[_Described], alignment: int, start: int) -> None:
    """Refuse tensors that overlap, or leave a gap: one of their offsets, sizes or types is not what was written."""
    end = 0
    for found in sorted(described, key=lambda found: (found.offset, found.nbytes)):
        if found.offset != end:
            raise Corrupt(
                f"the bytes of tensor {brief(found.name)} begin at {found.offset:,}",
                offset=start + found.offset,
                expected=f"{end:,}, where those before it end",
            )
        end += -(-found.nbytes // alignment) * alignment


def _rows(shape: tuple[int, ...], block: BlockType) -> tuple[int, ...]:
    """The shape of the bytes of quantised blocks."""
    return (*shape[:-1], shape[-1] // block.elements * block.nbytes)


def _marks(shape: tuple[int, ...], block: BlockType, byteorder: str) -> dict[str, Any]:
    """What a tensor of quantised blocks says of itself."""
    marks: dict[str, Any] = {"ggml_type": block.name, "ggml_shape": list(shape)}
    return marks if byteorder == "little" else {**marks, "ggml_byteorder": byteorder}


def _restored(tensors: Mapping[str, TensorRecord], carried: Value) -> Any:
    """The tree that compat wrote."""
    if carried.kind != (STRING,):
        raise Corrupt(f"the key {_CARRIED} is {brief(carried.value)}", expected="text, as compat writes it")
    found: dict[str, Found] = {}
    for name, record in tensors.items():
        if record.storage.data is None or record.storage.byteorder != "little":
            raise Corrupt(
                f"a file with the key {_CARRIED} is big-endian", expected="little-endian, as compat writes it"
            )
        found[name] = Found(
            dtype=record.dtype, shape=record.shape, data=record.storage.data, attributes=record.attributes
        )
    return restore(found, carried.value)


def _write(checkpoint: Checkpoint, target: BinaryIO, options: WriteOptions) -> Written:
    has_blocks = _has_blocks(checkpoint, options)
    layout = plan(
        checkpoint.tree,
        dtypes=_NAMED | {"uint8"} if has_blocks else _NAMED,
        allow_loss=options.allow_loss,
        limits=_LIMITS,
        implied=_implied if has_blocks else None,
    )
    values = _values(checkpoint)
    if layout.text is not None:
        values[_CARRIED] = Value(value=layout.text, kind=(STRING,))
    head = bytearray(MAGIC + struct.pack("<IQQ", VERSIONS[-1], len(layout.arrays), len(values)))
    for key, found in values.items():
        head += packed_text(key) + packed(found.value, found.kind)
    alignment = _alignment(values)
    offset = 0
    for array in layout.arrays:
        head += _info(array, offset)
        offset += -(-array.nbytes // alignment) * alignment
    target.write(bytes(head) + bytes(-len(head) % alignment))
    for array in layout.arrays:
        count = 0
        for piece in array.chunks():
            target.write(piece)
            count += memoryview(piece).nbytes
        if count != array.nbytes:
            raise Corrupt(f"tensor {array.name!r} has {count:,} bytes", expected=f"{array.nbytes:,}")
        target.write(bytes(-count % alignment))
    return layout.written


def _has_blocks(checkpoint: Checkpoint, options: WriteOptions) -> bool:
    """Whether bytes have a name here: where all of them are quantised blocks.

    Raises:
        Unsupported: some are and some are not, and the caller did not allow the loss of their dtype.
    """
    rows = {name: record for name, record in checkpoint.tensors.items() if record.dtype == "uint8"}
    others = [name for name, record in rows.items() if _block_of(record) is None]
    if others and len(others) < len(rows) and "dtype" not in options.allow_loss:
        raise Unsupported(
            f"tensor {others[0]!r} has dtype uint8 and is no row of quantised blocks",
            feature="dtype",
            paths=others[:5],
            hint='Store all bytes as such, which only compat gives back: allow_loss=["dtype"] (--allow-loss dtype).',
        )
    return bool(rows) and not others


def _block_of(record: TensorRecord) -> BlockType | None:
    """The quantised type that a tensor of bytes is marked as, when it can be that."""
    marks = record.attributes or {}
    block, shape = BY_NAME.get(str(marks.get("ggml_type"))), marks.get("ggml_shape")
    if block is None or block.dtype is not None or record.dtype != "uint8" or "ggml_byteorder" in marks:
        return None
    if not isinstance(shape, list) or not shape or any(type(size) is not int for size in shape):
        return None
    return block if shape[-1] % block.elements == 0 and _rows(tuple(shape), block) == record.shape else None


def _implied(record: TensorRecord) -> dict[str, Any] | None:
    """The attributes that a tensor of quantised blocks is read with."""
    block = _block_of(record)
    return (
        None if block is None or record.attributes is None else _marks(record.attributes["ggml_shape"], block, "little")
    )


def _values(checkpoint: Checkpoint) -> dict[str, Value]:
    """The key/values of the source, where it is a GGUF file too."""
    if checkpoint.format != FORMAT.name:
        return {}
    kinds = checkpoint.metadata.get(_KINDS, {})
    return {
        key: Value(value=value, kind=tuple(kinds[key]))
        for key, value in checkpoint.metadata.items()
        if key != _KINDS and key in kinds
    }


def _left_behind(checkpoint: Checkpoint) -> str | None:
    return "the metadata" if checkpoint.metadata else None


def _info(array: Array, offset: int) -> bytes:
    block, shape = BY_DTYPE.get(array.dtype), array.shape
    if block is None:
        # Blocks, unless they were laid out as bytes like all else that GGUF has no type for.
        block = _block_of(array.record) if shape == array.record.shape else None
        shape = tuple(array.record.attributes["ggml_shape"]) if block else shape
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return packed_text(array.name) + sizes + struct.pack("<IQ", (block or BY_NAME["I8"]).number, offset)


FORMAT = Format(
    name="gguf",
    summary="ggml and llama.cpp",
    suffixes=(".gguf",),
    asked_by=(".gguf",),
    left_behind=_left_behind,
    detect=_detect,
    open=_open,
    write=_write,
    capabilities=Capabilities(dtypes=_NAMED, extras="json", opaque=False, hidden_bytes=False, mmap=True),
)
