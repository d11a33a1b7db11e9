"""`gguf`: the files of ggml and llama.cpp.

- kept for every reader: names, shapes (in torch's order, the reverse of GGUF's) and values of tensors of F32, F16,
  BF16, F64 and the signed integers; key/values, with their types, from one GGUF file to another.
- kept as they are: quantised blocks. They are listed as rows of bytes (uint8), with `ggml_type` and `ggml_shape` as
  attributes, and written back as the type that they are; nothing is decoded.
- kept for compat: the tree, aliases, strides, flags, extras that JSON can say, and tensors of more than four
  dimensions (as bytes), in the key `compat.layout`.
- shortened: names of more than 63 bytes, which ggml cannot have; compat gives the whole name back.
- refused: dtypes that GGUF has no name for (unsigned, bool, complex, float8…) unless the caller allows it, opaque
  objects, tensors without data.
- not written: `general.architecture` and what else a program needs to run a model; only the source's own key/values.
- checked: every count and length against the bytes that are there, sizes and bounds of all tensors. There are no sums.

Source of the layout: `docs/gguf.md` of ggml, versions 2 and 3, little and big-endian.
"""

from __future__ import annotations

import json
import struct
from math import prod
from typing import Any, BinaryIO, Final

from compat.checkpoint import Checkpoint, StorageRecord, TensorRecord, contiguous_stride, path_text, walk
from compat.data import FileData
from compat.errors import CompatError, Corrupt, Unsupported, brief
from compat.formats._format import Capabilities, Format, WriteOptions, Written
from compat.gguffile import (
    BY_DTYPE,
    BY_NAME,
    MAGIC,
    MAX_DIMS,
    MAX_NAME,
    TYPES,
    VERSIONS,
    BlockType,
    GGUFReader,
    Value,
    packed,
    packed_text,
)
from compat.layout import Array, Found, Limits, plan, restore
from compat.sources import Source

_ALIGNMENT_KEY: Final = "general.alignment"
_CARRIED: Final = "compat.layout"
_KINDS: Final = "compat.types"
_DEFAULT_ALIGNMENT: Final = 32
_MAX_ALIGNMENT: Final = 1 << 20
_SMALLEST_PAIR: Final = 13
_SMALLEST_TENSOR: Final = 24
_MAX_RANK: Final = 64
_TEXT: Final = (8,)
_NAMED: Final = frozenset(BY_DTYPE) - {None}


def _detect(source: Source) -> bool:
    return source.head.startswith(MAGIC)


def _open(source: Source) -> Checkpoint:
    try:
        values, tensors = _parsed(source)
        carried = values.pop(_CARRIED, None)
        if carried is None:
            tree: Any = dict(tensors)
        else:
            tree = restore({name: _found(record) for name, record in tensors.items()}, str(carried.value))
    except CompatError as error:
        error.source = error.source or source.name
        raise
    facts = {key: found.value for key, found in values.items()}
    return Checkpoint(
        format=FORMAT.name,
        tree=tree,
        source=source.name,
        metadata={**facts, _KINDS: {key: found.kind for key, found in values.items()}} if facts else {},
        carried=[path_text(path) for path, leaf in walk(tree) if carried and not isinstance(leaf, TensorRecord)],
        close=source.close,
    )


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
    alignment = values[_ALIGNMENT_KEY].value if _ALIGNMENT_KEY in values else _DEFAULT_ALIGNMENT
    if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT:
        raise reader.corrupt(f"{_ALIGNMENT_KEY} is {brief(alignment)}")
    described = [_description(reader) for _ in range(count)]
    start = -(-reader.position // alignment) * alignment
    tensors: dict[str, TensorRecord] = {}
    for name, shape, block, offset in described:
        if name in tensors:
            raise reader.corrupt(f"two tensors are named {brief(name)}")
        tensors[name] = _record(reader, name, shape, block, start + offset)
    return values, tensors


def _description(reader: GGUFReader) -> tuple[str, tuple[int, ...], BlockType, int]:
    name = reader.text()
    rank = reader.scalar(4)
    if rank > _MAX_RANK:
        raise reader.corrupt(f"tensor {brief(name)} has {rank:,} dimensions")
    # GGUF counts from the fastest dimension, torch from the slowest.
    shape = tuple(reversed([reader.scalar(10) for _ in range(rank)]))
    number = reader.scalar(4)
    if number not in TYPES:
        raise Unsupported(
            f"tensor {brief(name)} is of the ggml type {number}",
            feature="dtype",
            paths=[name],
            source=reader.source.name,
            hint="It is newer than this version of compat.",
        )
    return name, shape, TYPES[number], reader.scalar(10)


def _record(reader: GGUFReader, name: str, shape: tuple[int, ...], block: BlockType, offset: int) -> TensorRecord:
    last = shape[-1] if shape else 1
    if last % block.elements:
        raise reader.corrupt(f"tensor {brief(name)} has rows of {last:,}, which {block.name} cannot have")
    attributes = None
    stored = shape
    if block.dtype is None:
        attributes = {"ggml_type": block.name, "ggml_shape": list(shape)}
        stored = (*shape[:-1], last // block.elements * block.nbytes)
    nbytes = prod(shape) // block.elements * block.nbytes
    if nbytes > reader.source.size or offset + nbytes > reader.source.size:
        raise Corrupt(
            f"tensor {brief(name)} is said to lie at {offset:,} with {nbytes:,} bytes",
            source=reader.source.name,
            offset=reader.source.size,
            expected=f"{reader.source.size:,} bytes at most",
            hint="The file is cut short; get it again." if offset <= reader.source.size else None,
        )
    storage = StorageRecord(
        key=name,
        nbytes=nbytes,
        data=FileData(source=reader.source, offset=offset, nbytes=nbytes),
        byteorder="big" if reader.endian == ">" else "little",
    )
    return TensorRecord(
        dtype=block.dtype or "uint8",
        shape=stored,
        stride=contiguous_stride(stored),
        storage_offset=0,
        storage=storage,
        attributes=attributes,
    )


def _found(record: TensorRecord) -> Found:
    if record.storage.data is None or record.storage.byteorder != "little":
        raise Corrupt("a file with a layout of compat is big-endian", expected="as compat writes it")
    return Found(dtype=record.dtype, shape=record.shape, data=record.storage.data)


def _write(checkpoint: Checkpoint, target: BinaryIO, options: WriteOptions) -> Written:
    dtypes, limits = _NAMED | _blocks(checkpoint), Limits(dims=MAX_DIMS, name=MAX_NAME)
    layout = plan(checkpoint.tree, dtypes=dtypes, allow_loss=options.allow_loss, limits=limits)
    values = _values(checkpoint)
    text = layout.text if not _plain_blocks(layout.text) else None
    if text is not None:
        values[_CARRIED] = Value(value=text, kind=_TEXT)
    head = bytearray(MAGIC + struct.pack("<IQQ", VERSIONS[-1], len(layout.arrays), len(values)))
    for key, found in values.items():
        head += packed_text(key) + packed(found)
    alignment = values[_ALIGNMENT_KEY].value if _ALIGNMENT_KEY in values else _DEFAULT_ALIGNMENT
    offset = 0
    for array in layout.arrays:
        head += _described(array, offset)
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


def _blocks(checkpoint: Checkpoint) -> frozenset[str]:
    """Bytes have a name of their own here when all of them are quantised blocks."""
    rows = [record for record in checkpoint.tensors.values() if record.dtype == "uint8"]
    return frozenset({"uint8"}) if rows and all(_block_of(record) for record in rows) else frozenset()


def _block_of(record: TensorRecord) -> BlockType | None:
    """The quantised type that a tensor of bytes is marked as, when its rows can be that."""
    attributes = record.attributes or {}
    block = BY_NAME.get(str(attributes.get("ggml_type")))
    if block is None or block.dtype is not None or record.dtype != "uint8" or not record.shape:
        return None
    return block if record.shape[-1] % block.nbytes == 0 else None


def _plain_blocks(text: str | None) -> bool:
    """Whether a layout says nothing but what the blocks' types say."""
    if text is None:
        return False
    carried = json.loads(text)
    names = (
        [[name, {"tensor": name}] for name, _ in carried["tree"].get("dict", [])]
        if isinstance(carried["tree"], dict)
        else None
    )
    marks = [set(facts) == {"attributes"} and "ggml_type" in str(facts) for facts in carried["tensors"].values()]
    return names is not None and carried["tree"] == {"dict": names} and not carried["storages"] and all(marks)


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


def _described(array: Array, offset: int) -> bytes:
    block = _block_of(array.record) if array.dtype == "uint8" else BY_DTYPE[array.dtype]
    shape = array.shape
    if array.dtype == "uint8" and block is not None:
        shape = (*shape[:-1], shape[-1] // block.nbytes * block.elements)
    # What GGUF has no type for lies in it as bytes; the layout says what it is.
    number = (block or BY_NAME["I8"]).number
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return packed_text(array.name) + sizes + struct.pack("<IQ", number, offset)


FORMAT = Format(
    name="gguf",
    summary="ggml and llama.cpp",
    suffixes=(".gguf",),
    asked_by=(".gguf",),
    detect=_detect,
    open=_open,
    write=_write,
    capabilities=Capabilities(
        dtypes=frozenset(str(name) for name in _NAMED), extras="json", opaque=False, hidden_bytes=False, mmap=True
    ),
)
