"""`dcp`: folders of `torch.distributed.checkpoint`.

- read: tensors put together from the parts that the ranks wrote, values beside them, nested as they were (dict keys
  as text, as torch itself gives them back). Nothing is unpickled by torch.
- written: through torch's own writer, as one rank: every tensor densely under its dotted name, so that
  `torch.distributed.checkpoint.load` finds it.
- kept for compat: the tree, aliases, strides, flags, extras that JSON can say, in the item `compat.layout`; the
  bits types, as bytes.
- refused: opaque objects, tensors without data; on reading, items that an extension transformed (compression).
- not read: folders of `HuggingFaceStorageWriter`, which are safetensors files: open those.
- checked: every part against the tensor (none beyond, none missing, none twice), every file inside the folder.

Source of the layout: `torch/distributed/checkpoint/` of torch 1.13 to 2.15; see `compat/dcpmetadata.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from compat.checkpoint import Checkpoint, StorageRecord, TensorRecord, contiguous_stride, path_text, walk
from compat.data import Buffer, ScatteredData
from compat.dcpmetadata import METADATA, Chunk, Description, Item, read_metadata
from compat.errors import CompatError, Corrupt, MissingDependency, Unsupported, brief
from compat.formats._format import PLAIN_DTYPES, Capabilities, Format, WriteOptions, Written
from compat.layout import Array, Found, Limits, plan, restore
from compat.loading import import_torch, materialize
from compat.sources import FolderSource, Source, WindowSource
from compat.strided import element_chunks
from compat.torchfile import checked
from compat.torchpickle import read_torch_file

_CARRIED: Final = "compat.layout"
# Torch's writer computes with what it writes, which the types without arithmetic cannot: they are kept as bytes.
_NAMED: Final = frozenset(name for name in PLAIN_DTYPES if not name.startswith("bits"))


@dataclass(frozen=True, slots=True)
class _Elements:
    """The elements of a tensor in logical order, as bytes."""

    record: TensorRecord

    @property
    def nbytes(self) -> int:
        """Their size."""
        return self.record.nbytes

    def chunks(self) -> Iterator[Buffer]:
        """The bytes."""
        return element_chunks(self.record)


def _detect(source: Source) -> bool:
    return isinstance(source, FolderSource) and METADATA in source.files()


def _open(source: Source) -> Checkpoint:
    described = read_metadata(source.beside(METADATA))
    named: list[str] = list(described.globals)
    values: dict[str, Any] = {}
    for name, item in described.items.items():
        values[name] = _value(source, name, item, named)
    text = values.get(_CARRIED)
    tree = _restored(values, text) if isinstance(text, str) else _nested(values, described)
    return checked(
        Checkpoint(
            format=FORMAT.name,
            tree=tree,
            source=source.name,
            globals=tuple(dict.fromkeys(named)),
            metadata=described.facts,
            carried=[path_text(path) for path, leaf in walk(tree) if text and not isinstance(leaf, TensorRecord)],
            close=source.close,
        )
    )


def _value(source: Source, name: str, item: Item, named: list[str]) -> Any:
    parts = [(chunk, _part(source, name, chunk, named)) for chunk in item.chunks]
    if item.shape is None:
        return parts[0][1]
    records = [(chunk, record) for chunk, record in parts if isinstance(record, TensorRecord)]
    for chunk, record in records:
        if record.shape != chunk.sizes or (item.dtype is not None and record.dtype != item.dtype):
            raise Corrupt(
                f"a part of {brief(name)} is {record.dtype} of {list(record.shape)}",
                source=f"{source.name}/{chunk.path}",
                offset=chunk.offset,
                expected=f"{item.dtype} of {list(chunk.sizes)}",
            )
    if len(records) != len(parts):
        raise Corrupt(f"a part of {brief(name)} is no tensor", source=source.name)
    if len(records) == 1:
        record = records[0][1]
        return record if record.requires_grad == item.requires_grad else _with_grad(record, item)
    return _assembled(name, item, records)


def _with_grad(record: TensorRecord, item: Item) -> TensorRecord:
    return replace(record, requires_grad=item.requires_grad)


def _part(source: Source, name: str, chunk: Chunk, named: list[str]) -> Any:
    """One item of a file: a whole file of torch.save itself."""
    file = source.beside(chunk.path)
    if chunk.offset + chunk.length > file.size:
        raise Corrupt(
            f"{brief(name)} is said to lie at {chunk.offset:,} with {chunk.length:,} bytes",
            source=file.name,
            offset=file.size,
            expected=f"{file.size:,} bytes at most",
            hint="The file is cut short; get it again.",
        )
    try:
        tree, globals_ = read_torch_file(WindowSource(file, chunk.offset, chunk.length))
    except CompatError as error:
        error.source = error.source or file.name
        raise
    named.extend(globals_)
    return tree


def _assembled(name: str, item: Item, records: list[tuple[Chunk, TensorRecord]]) -> TensorRecord:
    """One tensor of several parts."""
    shape = item.shape or ()
    if not records:
        if item.dtype is None:
            raise Corrupt(f"{brief(name)} has no parts and no dtype")
        return _dense(name, item.dtype, shape, None, item)
    first = records[0][1]
    stride = contiguous_stride(shape)
    parts = [
        (
            _Elements(record),
            record.itemsize,
            record.shape,
            stride,
            sum(start * step for start, step in zip(chunk.offsets, stride, strict=True)),
        )
        for chunk, record in records
    ]
    nbytes = sum(record.nbytes for _, record in records)
    return _dense(name, first.dtype, shape, ScatteredData(nbytes=nbytes, parts=parts), item)


def _dense(name: str, dtype: str, shape: tuple[int, ...], data: Any, item: Item) -> TensorRecord:
    nbytes = 0 if data is None else data.nbytes
    return TensorRecord(
        dtype=dtype,
        shape=shape,
        stride=contiguous_stride(shape),
        storage_offset=0,
        storage=StorageRecord(key=name, nbytes=nbytes, data=data),
        requires_grad=item.requires_grad,
    )


def _nested(values: dict[str, Any], described: Description) -> Any:
    """The state as it was before torch flattened it: a number in a path is a place in a list, all else a key."""
    root: dict[str, Any] = {}
    for name, value in values.items():
        path = described.paths.get(name) or (name,)
        node: Any = root
        for step, following in zip(path, (*path[1:], None), strict=True):
            leaf = value if following is None else ([] if type(following) is int else {})
            node = _step(node, step, leaf, name)
    return root


def _step(node: Any, step: Any, leaf: Any, name: str) -> Any:
    if isinstance(node, list) and type(step) is int and 0 <= step <= len(node):
        if step == len(node):
            node.append(leaf)
        return node[step]
    if isinstance(node, dict) and isinstance(step, str):
        return node.setdefault(step, leaf)
    raise Corrupt(f"the path of {brief(name)} leads through {type(node).__name__} by {brief(step)}")


def _restored(values: dict[str, Any], text: str) -> Any:
    arrays = {name: value for name, value in values.items() if name != _CARRIED}
    found: dict[str, Found] = {}
    for name, record in arrays.items():
        if not isinstance(record, TensorRecord):
            raise Corrupt(f"{brief(name)} is no tensor", expected="the items that compat wrote")
        found[name] = Found(dtype=record.dtype, shape=record.shape, data=_Elements(record))
    return restore(found, text)


def _write(checkpoint: Checkpoint, folder: Path, options: WriteOptions) -> Written:
    torch = import_torch("writing a folder of torch.distributed.checkpoint")
    limits = Limits(whole_paths=True)
    allowed = {*options.allow_loss, "dtype"}
    layout = plan(checkpoint.tree, dtypes=_NAMED, allow_loss=allowed, limits=limits)
    flat = Checkpoint(format=checkpoint.format, tree={array.name: _record(array) for array in layout.arrays})
    state: dict[str, Any] = materialize(flat)
    if layout.text is not None:
        state[_CARRIED] = layout.text
    try:
        writer = import_module("torch.distributed.checkpoint")
        with warnings.catch_warnings():
            # It warns that it runs as a single process, which is what is asked of it.
            warnings.simplefilter("ignore")
            writer.save(state, checkpoint_id=str(folder), no_dist=True)
    except ImportError as error:
        raise MissingDependency("torch with torch.distributed", needed_for="writing dcp") from error
    except BaseException as error:  # its own CheckpointException is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        raise Unsupported(
            f"torch {torch.__version__} could not write it: {type(error).__name__}: {error!s:.200}", feature="write"
        ) from error
    return layout.written


def _record(array: Array) -> TensorRecord:
    """An array as a tensor of its own."""
    storage = StorageRecord(key=array.name, nbytes=array.nbytes, data=_Dense(array))
    return TensorRecord(
        dtype=array.dtype,
        shape=array.shape,
        stride=contiguous_stride(array.shape),
        storage_offset=0,
        storage=storage,
    )


@dataclass(frozen=True, slots=True)
class _Dense:
    """The bytes of an array that is to be written."""

    array: Array

    @property
    def nbytes(self) -> int:
        """Their size."""
        return self.array.nbytes

    def chunks(self) -> Iterator[Buffer]:
        """The bytes."""
        return self.array.chunks()


FORMAT = Format(
    name="dcp",
    summary="torch.distributed.checkpoint",
    suffixes=("",),
    shape="folder",
    unpickles=True,
    detect=_detect,
    open=_open,
    write_files=_write,
    capabilities=Capabilities(dtypes=PLAIN_DTYPES, extras="json", opaque=False, hidden_bytes=False),
)
