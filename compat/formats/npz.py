"""`npz`: arrays in a zip archive, as `numpy.savez` writes them.

- kept for every reader: names, shapes and values of all tensors whose dtype numpy has. Values are dense and logical.
- kept for compat: the tree, aliases, strides, flags and extras that JSON can say, in a record `compat.layout` that is
  no array; dtypes that numpy lacks (bfloat16, float8, complex32…), as bytes in an array of uint8.
- read: stored and deflated archives, both byte orders, Fortran order as strides.
- inert: arrays of text, dates and structures are listed, with their shape and numpy's own type.
- refused: arrays of Python objects, ever; opaque objects, tensors without data.
- checked: the directory, headers, sizes, and the sums of the records that are read.

Source of the layout: `numpy/lib/format.py` and `numpy/lib/_npyio_impl.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from compat.checkpoint import Checkpoint, Opaque, StorageRecord, TensorRecord, contiguous_stride, path_text, walk
from compat.data import Buffer, SlicedData
from compat.dtypes import DTYPES
from compat.errors import CompatError, Corrupt
from compat.formats._format import PLAIN_DTYPES, Capabilities, Format, WriteOptions, Written
from compat.layout import Array, Found, plan, restore
from compat.npy import Header, header_of, read_header
from compat.sources import Source
from compat.torcharchive import archive_of, stream_of
from compat.zipdir import Archive, ArchiveWriter

_SUFFIX: Final = ".npy"
_CARRIED: Final = "compat.layout"
_NAMED: Final = frozenset(dtype.name for dtype in DTYPES.values() if dtype.numpy)


def _detect(source: Source) -> bool:
    archive = archive_of(source)
    return (
        archive is not None
        and bool(archive.entries)
        and all(name.endswith(_SUFFIX) or name == _CARRIED for name in archive.entries)
    )


def _open(source: Source) -> Checkpoint:
    archive = Archive(source) if (known := archive_of(source)) is None else known
    try:
        text = bytes(stream_of(archive, _CARRIED)).decode("utf-8") if _CARRIED in archive.entries else None
        headers = {name: read_header(archive.data(name), name) for name in archive.entries if name != _CARRIED}
        tree = _plain(archive, headers) if text is None else restore(_found(archive, headers), text)
    except UnicodeDecodeError as error:
        raise Corrupt(f"the record {_CARRIED} is no text: {error.reason}", source=source.name) from error
    except CompatError as error:
        error.source = error.source or source.name
        raise
    return Checkpoint(
        format=FORMAT.name,
        tree=tree,
        source=source.name,
        carried=[path_text(path) for path, leaf in walk(tree) if text and not isinstance(leaf, TensorRecord)],
        close=source.close,
    )


def _plain(archive: Archive, headers: dict[str, Header]) -> dict[str, Any]:
    """What another writer's archive holds: arrays under their names."""
    return {name.removesuffix(_SUFFIX): _record(archive, name, header) for name, header in headers.items()}


def _record(archive: Archive, name: str, header: Header) -> TensorRecord | Opaque:
    if header.dtype is None:
        return Opaque("numpy.ndarray", (), {"dtype": header.descr, "shape": header.shape})
    nbytes = archive.data(name).nbytes - header.size
    shape = header.shape
    stride = tuple(reversed(contiguous_stride(shape[::-1]))) if header.fortran else contiguous_stride(shape)
    storage = StorageRecord(
        key=name,
        nbytes=nbytes,
        data=SlicedData(parent=archive.data(name), offset=header.size, nbytes=nbytes),
        byteorder=header.byteorder,
    )
    return TensorRecord(dtype=header.dtype, shape=shape, stride=stride, storage_offset=0, storage=storage)


def _found(archive: Archive, headers: dict[str, Header]) -> dict[str, Found]:
    """The arrays of an archive that compat wrote."""
    found: dict[str, Found] = {}
    for name, header in headers.items():
        if header.dtype is None or header.fortran or header.byteorder != "little":
            raise Corrupt(f"the array {name!r} is of {header.descr}", expected="an array that compat wrote")
        nbytes = archive.data(name).nbytes - header.size
        data = SlicedData(parent=archive.data(name), offset=header.size, nbytes=nbytes)
        found[name.removesuffix(_SUFFIX)] = Found(dtype=header.dtype, shape=header.shape, data=data)
    return found


def _write(checkpoint: Checkpoint, target: BinaryIO, options: WriteOptions) -> Written:
    del options  # nothing may be lost, and the archive has no name of its own
    # Dtypes that numpy lacks are kept as bytes; the layout says what they are.
    layout = plan(checkpoint.tree, dtypes=_NAMED, allow_loss=("dtype",))
    archive = ArchiveWriter(target)
    for array in layout.arrays:
        header = header_of(array.dtype, array.shape)
        archive.add(array.name + _SUFFIX, _pieces(header, array), len(header) + array.nbytes)
    text = layout.text
    if text is None and not layout.arrays:
        text = plan([], dtypes=_NAMED).text  # an archive of nothing is no archive of arrays
    if text is not None:
        encoded = text.encode("utf-8")
        archive.add(_CARRIED, [encoded], len(encoded))
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
