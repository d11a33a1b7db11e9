"""`safetensors`: a JSON header and the tensors' bytes, single file.

- kept for every reader: names, dtypes, shapes and values of all tensors. Values are dense and logical: strides
  are resolved, conjugation and negation applied; of several names for one view the first has the bytes.
- kept for compat: the tree (nesting, key order, `_metadata`, extras that JSON can say), aliases, strides,
  storage offsets, requires_grad, Parameter, device tags; all in `__metadata__` under `compat.layout`.
- kept as they are: elements of six bits, which torch has no dtype for. They are listed as bytes (uint8), with
  `safetensors_dtype` and `safetensors_shape` as attributes, and written back as the type that they are.
- refused: dtypes without a name here (complex128, complex32, bits, quantized), opaque objects, tensors without data.
- dropped, and said: bytes of a storage that no tensor shows.
- checked: the header's size and JSON, doubled names, that the arrays tile the file without gap or overlap.

Source of the layout: the format description in safetensors' README and `safetensors/src/tensor.rs`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any, BinaryIO, Final

from compat.checkpoint import Checkpoint, TensorRecord, path_text, walk
from compat.data import FileData
from compat.dtypes import BY_SAFETENSORS, DTYPES
from compat.errors import CompatError, Corrupt, Unsupported, brief
from compat.formats._format import Capabilities, Format, WriteOptions, Written
from compat.layout import Array, Found, plan, restore
from compat.records import MAX_DIMS, MAX_INT64
from compat.sources import Source

_LENGTH: Final = 8
_MAX_HEADER: Final = 100_000_000  # the format's own limit
_CARRIED: Final = "compat.layout"
_DTYPES: Final = frozenset(dtype.name for dtype in BY_SAFETENSORS.values())
# Types that torch does not have → bits per element.
_FOREIGN: Final = {"F6_E2M3": 6, "F6_E3M2": 6}


def _detect(source: Source) -> bool:
    size = int.from_bytes(source.head[:_LENGTH], "little")
    return 1 < size <= _MAX_HEADER and source.head[_LENGTH : _LENGTH + 1] == b"{"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Corrupt(f"the header names {brief(name)} twice")
        found[name] = value
    return found


def _header(source: Source) -> tuple[dict[str, Any], int]:
    size = int.from_bytes(source.read(0, _LENGTH), "little")
    if _LENGTH + size > source.size:
        raise Corrupt(
            f"ends inside its header of {size:,} bytes",
            source=source.name,
            offset=source.size,
            hint="The file is cut short; get it again.",
        )
    try:
        header = json.loads(source.read(_LENGTH, size).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"the header is no JSON: {error!s:.120}", source=source.name, offset=_LENGTH) from error
    if not isinstance(header, dict):
        raise Corrupt(f"the header is {type(header).__name__}", source=source.name, expected="a JSON object")
    return header, _LENGTH + size


def _numbers(values: Any, what: str) -> list[int]:
    if not isinstance(values, list) or any(type(value) is not int or not 0 <= value <= MAX_INT64 for value in values):
        raise Corrupt(f"{what} is {brief(values)}", expected="a list of natural numbers")
    return values


def _found(name: str, facts: Any, base: int, source: Source) -> tuple[int, int, Found]:
    if not isinstance(facts, dict) or not {"dtype", "shape", "data_offsets"} <= set(facts):
        raise Corrupt(f"tensor {name!r} is described by {facts!r:.80}", expected="dtype, shape and data_offsets")
    named = facts["dtype"] if isinstance(facts["dtype"], str) else ""
    dtype = BY_SAFETENSORS.get(named)
    if dtype is None and named not in _FOREIGN:
        raise Corrupt(f"tensor {name!r} has the unknown dtype {facts['dtype']!r:.40}")
    shape = _numbers(facts["shape"], f"the shape of {name!r}")
    if len(shape) > MAX_DIMS:
        raise Corrupt(f"tensor {name!r} has {len(shape):,} dimensions", expected=f"at most {MAX_DIMS}")
    offsets = _numbers(facts["data_offsets"], f"data_offsets of {name!r}")
    if len(offsets) != 2 or offsets[0] > offsets[1]:  # noqa: PLR2004 - begin and end
        raise Corrupt(f"data_offsets of {name!r} are {offsets}")
    begin, end = offsets
    data = FileData(source=source, offset=base + begin, nbytes=end - begin)
    if dtype is None:
        return begin, end, _foreign(name, named, shape, data)
    if dtype.packed > 1:
        if not shape or shape[-1] % dtype.packed:
            raise Corrupt(f"tensor {name!r} of {dtype.safetensors} has shape {shape}")
        shape = [*shape[:-1], shape[-1] // dtype.packed]
    if prod(shape) * dtype.itemsize != end - begin:
        raise Corrupt(f"tensor {name!r} has {end - begin:,} bytes", expected=f"{prod(shape) * dtype.itemsize:,}")
    return begin, end, Found(dtype=dtype.name, shape=tuple(shape), data=data)


def _foreign(name: str, dtype: str, shape: list[int], data: FileData) -> Found:
    """A tensor whose elements torch has no dtype for, as bytes that say what they are."""
    bits = prod(shape) * _FOREIGN[dtype]
    if bits % 8 or bits // 8 != data.nbytes:
        raise Corrupt(f"tensor {name!r} has {data.nbytes:,} bytes", expected=f"{bits:,} bits")
    attributes = {"safetensors_dtype": dtype, "safetensors_shape": list(shape)}
    return Found(dtype="uint8", shape=(data.nbytes,), data=data, attributes=attributes)


def _arrays(header: Mapping[str, Any], base: int, source: Source) -> dict[str, Found]:
    """The arrays in the header's order, when they tile the rest of the file."""
    found = {name: _found(name, facts, base, source) for name, facts in header.items() if name != "__metadata__"}
    position = 0
    for name, (begin, end, _) in sorted(found.items(), key=lambda item: item[1][:2]):
        if begin != position:
            raise Corrupt(f"tensor {name!r} begins at {begin:,}", offset=base + begin, expected=f"{position:,}")
        position = end
    if base + position != source.size:
        missing = base + position - source.size
        raise Corrupt(
            f"{missing:,} bytes of tensors are missing" if missing > 0 else f"{-missing:,} bytes follow the tensors",
            offset=source.size,
            hint="The file is cut short; get it again." if missing > 0 else None,
        )
    return {name: array for name, (_, _, array) in found.items()}


def _open(source: Source) -> Checkpoint:
    try:
        header, base = _header(source)
        metadata = header.get("__metadata__", {})
        if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
            raise Corrupt(f"__metadata__ is {metadata!r:.80}", expected="an object of strings")
        tree = restore(_arrays(header, base, source), metadata.get(_CARRIED))
    except CompatError as error:
        error.source = error.source or source.name
        raise
    return Checkpoint(
        format=FORMAT.name,
        tree=tree,
        source=source.name,
        metadata={name: value for name, value in metadata.items() if name != _CARRIED},
        carried=[path_text(path) for path, leaf in walk(tree) if not isinstance(leaf, TensorRecord)],
        close=source.close,
    )


def _description(array: Array, begin: int) -> dict[str, Any]:
    dtype = DTYPES[array.dtype]
    shape = list(array.shape)
    attributes = array.record.attributes or {}
    foreign, said = attributes.get("safetensors_dtype"), attributes.get("safetensors_shape")
    if foreign in _FOREIGN and isinstance(said, list) and prod(said) * _FOREIGN[foreign] == 8 * array.nbytes:
        return {"dtype": foreign, "shape": said, "data_offsets": [begin, begin + array.nbytes]}
    if dtype.packed > 1:
        shape[-1] *= dtype.packed
    return {"dtype": dtype.safetensors, "shape": shape, "data_offsets": [begin, begin + array.nbytes]}


def _write(checkpoint: Checkpoint, target: BinaryIO, options: WriteOptions) -> Written:
    layout = plan(checkpoint.tree, dtypes=_DTYPES, allow_loss=options.allow_loss)
    # Wide elements first keep every array aligned without gaps, which the format forbids.
    ordered = sorted(layout.arrays, key=lambda array: -DTYPES[array.dtype].itemsize)
    begins: dict[str, int] = {}
    position = 0
    for array in ordered:
        begins[array.name] = position
        position += array.nbytes
    metadata = {"format": "pt"}
    if checkpoint.format == FORMAT.name:
        metadata |= dict(checkpoint.metadata)
    if layout.text is not None:
        metadata[_CARRIED] = layout.text
    header: dict[str, Any] = {"__metadata__": metadata}
    header |= {array.name: _description(array, begins[array.name]) for array in layout.arrays}
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unsupported(f"its metadata is no Unicode text: {error.reason}", feature="metadata") from error
    text += b" " * (-len(text) % _LENGTH)
    target.write(len(text).to_bytes(_LENGTH, "little") + text)
    for array in ordered:
        count = 0
        for piece in array.chunks():
            target.write(piece)
            count += memoryview(piece).nbytes
        if count != array.nbytes:
            raise Corrupt(f"tensor {array.name!r} has {count:,} bytes", expected=f"{array.nbytes:,}")
    return layout.written


FORMAT = Format(
    name="safetensors",
    summary="the safetensors library, and compat",
    suffixes=(".safetensors",),
    asked_by=(".safetensors",),
    detect=_detect,
    open=_open,
    write=_write,
    capabilities=Capabilities(dtypes=_DTYPES, extras="json", opaque=False, hidden_bytes=False, mmap=True),
)
