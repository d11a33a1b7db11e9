"""`dcp`: folders of `torch.distributed.checkpoint`.

- read: tensors put together from the parts that the ranks wrote, values beside them, nested as they were (dict keys
  as text, as torch itself gives them back). Nothing is unpickled by torch.
- written: through torch's own writer, as one rank: every tensor densely under its dotted name, so that
  `torch.distributed.checkpoint.load` finds it.
- kept for compat: the tree, aliases, strides, flags, extras that JSON can say, in the item `compat.layout`; the
  bits types, as bytes.
- refused: opaque objects, tensors without data; on reading, items that an extension transformed (compression).
- not read: folders of `HuggingFaceStorageWriter`, which are safetensors files: open those.
- checked: every part against the tensor (none beyond, none missing, none twice), every file inside the folder; where
  ranks wrote without coordination (`use_collectives=False`), that what several of them hold is the same.

Source of the layout: `torch/distributed/checkpoint/` of torch 1.13 to 2.15; see `compat/dcpmetadata.py`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from compat.checkpoint import Checkpoint, StorageRecord, TensorRecord, contiguous_stride, path_text, walk
from compat.data import Buffer
from compat.dcpmetadata import Chunk, Item, is_description, read_description
from compat.dcpparts import AssembledData, values_of
from compat.dcptree import nest
from compat.dtypes import DTYPES
from compat.errors import CompatError, Corrupt, MissingDependency, Unsupported, brief
from compat.fingerprints import digest
from compat.formats._format import PLAIN_DTYPES, Capabilities, Format, WriteOptions, Written
from compat.layout import Array, Found, Limits, plan, restore
from compat.loading import import_torch, materialize
from compat.sources import FolderSource, Source, WindowSource
from compat.torchfile import checked
from compat.torchpickle import read_torch_file

_CARRIED: Final = "compat.layout"
# Torch's writer computes with what it writes, which the types without arithmetic cannot: they are kept as bytes.
_NAMED: Final = frozenset(name for name in PLAIN_DTYPES if not name.startswith("bits"))


def _detect(source: Source) -> bool:
    return isinstance(source, FolderSource) and any(is_description(name) for name in source.files())


def _open(source: Source) -> Checkpoint:
    names = source.files() if isinstance(source, FolderSource) else ()
    described = read_description(source, names)
    named: list[str] = list(described.globals)
    values: dict[str, Any] = {}
    for name, item in described.items.items():
        values[name] = _value(source, name, item, named)
        _check_copies(source, name, item, named)
    text = values.get(_CARRIED)
    tree = _restored(values, text) if isinstance(text, str) else nest(values, described.paths)
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
    if item.shape is None:
        return _part(source, name, item.chunks[0], named)
    parts = [(chunk.offsets, _tensor(source, name, item, chunk, named)) for chunk in item.chunks]
    if len(parts) == 1:
        return replace(parts[0][1], requires_grad=item.requires_grad)
    dtype = parts[0][1].dtype if parts else item.dtype
    if dtype is None:
        raise Corrupt(f"{brief(name)} has no parts and no dtype", source=source.name, expected="either")
    data = AssembledData(shape=item.shape, itemsize=DTYPES[dtype].itemsize, parts=parts)
    return TensorRecord(
        dtype=dtype,
        shape=item.shape,
        stride=contiguous_stride(item.shape),
        storage_offset=0,
        storage=StorageRecord(key=name, nbytes=data.nbytes, data=data),
        requires_grad=item.requires_grad,
    )


def _tensor(source: Source, name: str, item: Item, chunk: Chunk, named: list[str]) -> TensorRecord:
    """A part of a tensor, which is what the description says of it."""
    record = _part(source, name, chunk, named)
    if not isinstance(record, TensorRecord):
        raise Corrupt(
            f"a part of {brief(name)} is {brief(record)}",
            source=f"{source.name}/{chunk.path}",
            offset=chunk.offset,
            expected="a tensor",
        )
    if record.shape != chunk.sizes or (item.dtype is not None and record.dtype != item.dtype):
        raise Corrupt(
            f"a part of {brief(name)} is {record.dtype} of {list(record.shape)}",
            source=f"{source.name}/{chunk.path}",
            offset=chunk.offset,
            expected=f"{item.dtype} of {list(chunk.sizes)}",
        )
    return record


def _check_copies(source: Source, name: str, item: Item, named: list[str]) -> None:
    """Refuse a state that ranks wrote without coordination and that is not the same in all of them."""
    for first, copy in item.copies:
        if item.shape is None:
            same = repr(_part(source, name, first, named)) == repr(_part(source, name, copy, named))
        else:
            same = digest(_tensor(source, name, item, first, named)) == digest(_tensor(source, name, item, copy, named))
        if not same:
            raise Unsupported(
                f"{brief(name)} has other values in {copy.path} than in {first.path}",
                feature="ranks",
                source=source.name,
                expected="parts of one state",
                hint="Each rank wrote a state of its own: put the files of one into a folder, and open that; or save "
                "with use_collectives=True.",
            )


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


def _restored(values: dict[str, Any], text: str) -> Any:
    arrays = {name: value for name, value in values.items() if name != _CARRIED}
    found: dict[str, Found] = {}
    for name, record in arrays.items():
        if not isinstance(record, TensorRecord):
            raise Corrupt(f"{brief(name)} is no tensor", expected="the items that compat wrote")
        found[name] = Found(dtype=record.dtype, shape=record.shape, data=values_of(record))
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
            _save(writer, state, folder)
    except ImportError as error:
        raise MissingDependency("torch with torch.distributed", needed_for="writing dcp") from error
    except BaseException as error:  # its own CheckpointException is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        raise Unsupported(
            f"torch {torch.__version__} could not write it: {type(error).__name__}: {error!s:.200}", feature="write"
        ) from error
    return layout.written


def _save(writer: Any, state: dict[str, Any], folder: Path) -> None:
    """Save as one process, whatever job it is part of: which call takes that option differs by release."""
    target = writer.FileSystemWriter(str(folder))
    if hasattr(writer, "save") and "no_dist" in inspect.signature(writer.save).parameters:
        writer.save(state, storage_writer=target, no_dist=True)
    else:
        writer.save_state_dict(state, target, no_dist=True)


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
