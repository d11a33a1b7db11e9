"""`npz`: arrays in a zip archive, as `numpy.savez` writes them.

- kept for every reader: names, shapes and values of all tensors whose dtype numpy has. Values are dense and logical:
  strides are resolved, conjugation and negation applied; of several names for one view the first has the bytes.
- kept for compat: the tree, aliases, strides, flags, extras that JSON can say, numpy's own arrays among them; dtypes
  that numpy lacks (bfloat16, float8, complex32…), as arrays of uint8; tensors of more than 32 dimensions, likewise.
  What they were is said in an array `compat.layout` of uint8, which is JSON: a tool that copies all arrays copies it.
- marked: names with a zero byte, where readers see their end, and `a.npy` beside `a`, which numpy takes for one name.
- read: stored and deflated archives, both byte orders, Fortran order as strides. Arrays of text and bytes, and of
  numbers that torch lacks, come as numpy arrays; bfloat16 of another library is one of these, of type `V2`.
- inert: arrays of dates and structures are listed, with their shape and numpy's own type.
- refused: arrays of Python objects, ever; opaque objects, tensors without data.
- checked: the directory, headers, sizes, and the sums of the records that are read.

Source of the layout: `numpy/lib/_format_impl.py` and `numpy/lib/_npyio_impl.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from compat import arrays
from compat.checkpoint import (
    Checkpoint,
    NumpyArray,
    Opaque,
    StorageRecord,
    TensorRecord,
    check_bounds,
    contiguous_stride,
    path_text,
    walk,
)
from compat.data import Buffer, Data, SlicedData, read
from compat.dtypes import DTYPES
from compat.errors import CompatError, Corrupt, brief
from compat.formats._format import PLAIN_DTYPES, Capabilities, Format, WriteOptions, Written
from compat.layout import Array, Found, Limits, plan, restore
from compat.npy import Header, header_of, read_header
from compat.sources import Source
from compat.torcharchive import MAX_INFLATED, archive_of, stream_of
from compat.zipdir import Archive, ArchiveWriter

_SUFFIX: Final = ".npy"
_CARRIED: Final = "compat.layout"
# How an archive without records begins: with the end of its directory. Numpy writes and reads such files too.
_EMPTY: Final = b"PK\x05\x06"
_NAMED: Final = frozenset(dtype.name for dtype in DTYPES.values() if dtype.numpy)
# Numpy before 2.0 has no more dimensions; a zip archive has names of 65,535 bytes at most.
_LIMITS: Final = Limits(dims=32, name=65_000, nul=False, suffix=_SUFFIX, reserved=_CARRIED)


def _detect(source: Source) -> bool:
    if source.head.startswith(_EMPTY):
        return not Archive(source).entries
    archive = archive_of(source)
    return archive is not None and bool(archive.entries) and all(name.endswith(_SUFFIX) for name in archive.entries)


def _open(source: Source) -> Checkpoint:
    archive = Archive(source) if (known := archive_of(source)) is None else known
    try:
        headers = {name: read_header(archive.data(name), name) for name in archive.entries}
        layout = headers.pop(_CARRIED + _SUFFIX, None)
        tree = _plain(archive, headers) if layout is None else _restored(archive, headers, layout)
    except CompatError as error:
        error.source = error.source or source.name
        raise
    beside = [path_text(path) for path, leaf in walk(tree) if not isinstance(leaf, TensorRecord)]
    return Checkpoint(
        format=FORMAT.name,
        tree=tree,
        source=source.name,
        carried=beside if layout else [],
        close=source.close,
    )


def _plain(archive: Archive, headers: dict[str, Header]) -> dict[str, Any]:
    """What another writer's archive holds: arrays under their names."""
    return {name.removesuffix(_SUFFIX): _value(archive, name, header) for name, header in headers.items()}


def _value(archive: Archive, name: str, header: Header) -> TensorRecord | NumpyArray | Opaque:
    if header.dtype is not None:
        return _record(header.dtype, name, header, _elements(archive, name, header))
    entry = archive.entries[name]
    # A small archive can inflate to anything, and these are read at once.
    if arrays.itemsize(header.descr) is None or entry.nbytes > max(entry.compressed, MAX_INFLATED):
        return Opaque("numpy.ndarray", (), {"dtype": header.descr, "shape": header.shape})
    data = bytes(read(_elements(archive, name, header)))
    return arrays.made(header.descr, header.shape, data, "F" if header.fortran else "C")


def _elements(archive: Archive, name: str, header: Header) -> Data:
    data = archive.data(name)
    return SlicedData(parent=data, offset=header.size, nbytes=data.nbytes - header.size)


def _record(dtype: str, name: str, header: Header, data: Data) -> TensorRecord:
    shape = header.shape
    record = TensorRecord(
        dtype=dtype,
        shape=shape,
        stride=tuple(reversed(contiguous_stride(shape[::-1]))) if header.fortran else contiguous_stride(shape),
        storage_offset=0,
        storage=StorageRecord(key=name, nbytes=data.nbytes, data=data, byteorder=header.byteorder),
    )
    check_bounds(record, path=name)
    return record


def _restored(archive: Archive, headers: dict[str, Header], layout: Header) -> Any:
    """The tree that compat wrote."""
    if layout.dtype != "uint8" or len(layout.shape) != 1:
        raise Corrupt(f"the array {_CARRIED} is of type {layout.descr}", expected="a row of uint8, as compat writes it")
    try:
        text = stream_of(archive, _CARRIED + _SUFFIX)[layout.size :].decode("utf-8")
    except UnicodeDecodeError as error:
        raise Corrupt(f"the array {_CARRIED} is no text: {error.reason}") from error
    found = {name.removesuffix(_SUFFIX): _found(archive, name, header) for name, header in headers.items()}
    return restore(found, text)


def _found(archive: Archive, name: str, header: Header) -> Found:
    data = _elements(archive, name, header)
    has_order = len(header.shape) - header.shape.count(1) > 1 and data.nbytes > 0
    if header.dtype is None or header.byteorder != "little" or (header.fortran and has_order):
        raise Corrupt(
            f"the array {brief(name)} is of type {header.descr}{' in Fortran order' * header.fortran}",
            expected="one that compat wrote",
            hint=f"Another tool changed it. Without the array {_CARRIED}, the arrays are read alone.",
        )
    return Found(dtype=header.dtype, shape=header.shape, data=data)


def _write(checkpoint: Checkpoint, target: BinaryIO, options: WriteOptions) -> Written:
    # Dtypes that numpy lacks are kept as bytes, and the layout says what they are: that is no loss to be allowed.
    layout = plan(checkpoint.tree, dtypes=_NAMED, allow_loss=("dtype", *options.allow_loss), limits=_LIMITS)
    archive = ArchiveWriter(target)
    for array in layout.arrays:
        header = header_of(array.dtype, array.shape)
        archive.add(array.name + _SUFFIX, _pieces(header, array), len(header) + array.nbytes)
    if layout.text is not None:
        encoded = layout.text.encode("utf-8")
        header = header_of("uint8", (len(encoded),))
        archive.add(_CARRIED + _SUFFIX, [header, encoded], len(header) + len(encoded))
    archive.close()
    return layout.written


def _pieces(header: bytes, array: Array) -> Iterator[Buffer]:
    yield header
    yield from array.chunks()


FORMAT = Format(
    name="npz",
    summary="numpy.savez",
    suffixes=(".npz",),
    asked_by=(".npz",),
    detect=_detect,
    open=_open,
    write=_write,
    capabilities=Capabilities(dtypes=PLAIN_DTYPES, extras="json", opaque=False, hidden_bytes=False),
)
