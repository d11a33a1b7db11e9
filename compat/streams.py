"""Find every pickle stream in a file, whatever the file is, and trace each without running it.

Two ways are gone at once. The format's own reader is watched, so that every stream it reads is seen, in shards
and folders too. And the bytes are looked at: all records of a zip archive, all members of a tar archive, and
from the first byte of everything else, because that is where `torch.load` would begin to unpickle. A container
that cannot be read is searched for local headers, since what broke may have been broken on purpose.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from compat.checkpoint import Checkpoint
from compat.data import Data, DeflatedData, FileData, read
from compat.errors import CompatError, Corrupt, UnknownFormat
from compat.formats import detect
from compat.pickles.reader import watched
from compat.pickles.shadows import Trace
from compat.pickles.tracing import trace
from compat.sources import BytesSource, FileSource, FolderSource, Source
from compat.tardir import is_tar, members_of
from compat.zipdir import LOCAL_SIGNATURE, Archive

# How many pickles may follow each other, and how deep archives may lie in each other.
_MAX_FOLLOWING: Final = 100_000
_MAX_NESTING: Final = 4
_MAX_INFLATED: Final = 64 << 20
_MAX_RATIO: Final = 32
_MAX_SALVAGED: Final = 100_000
_LOCAL_SIZE: Final = 30
_ARRAY: Final = b"\x93NUMPY"
_ARRAY_HEADER: Final = 512
_PICKLED: Final = re.compile(r"(.*[/.])?(pkl|pickle|pk|p|joblib)$", re.IGNORECASE)
_MADE: Final = re.compile(rb"\x80[\x01-\x05]")
_NAME: Final = re.compile(r"[A-Za-z_<][\w.<>\[\]-]*\Z")


@dataclass(frozen=True, slots=True)
class PickleStream:
    """One stream and what it says.

    Attributes:
        where: the record, member or shard that it stands in; empty for the file itself.
        trace: what it says.
        base: the byte of the file that the trace's offsets count from; None where there is no such byte,
            because the stream is compressed.
    """

    where: str
    trace: Trace
    base: int | None = None


@dataclass(slots=True)
class Search:
    """What was found in one file.

    Attributes:
        streams: the pickle streams.
        notes: what else can run, or could not be looked at.
        checkpoint: the file as its format reads it; None where none could.
        error: why none could.
        missed: what was not looked at, and why; empty where there is nothing.
        budget: how many bytes may still be inflated.
        searched: whether an archive had to be searched for local headers, so that records may have been missed.
    """

    streams: list[PickleStream] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    error: CompatError | None = None
    searched: bool = False
    budget: int = 0
    missed: str = ""
    _known: set[bytes] = field(default_factory=set)

    def add(self, where: str, found: Trace, content: memoryview, start: int, base: int | None) -> None:
        """Keep a stream, unless the very same bytes were traced already, and look at what lies in it."""
        digest = hashlib.sha256(content[start : found.end]).digest()
        if digest in self._known:
            return
        self._known.add(digest)
        self.streams.append(PickleStream(where, found, base))

    @property
    def damage(self) -> str:
        """Why the first stream that breaks does; empty where none does."""
        return next(
            (f"{s.where}: {s.trace.error}" if s.where else s.trace.error for s in self.streams if s.trace.error), ""
        )


def search(source: Source) -> Search:
    """Find and trace every pickle stream of a file or of a checkpoint's folder; never raises for their content."""
    found = Search(budget=_MAX_INFLATED + _MAX_RATIO * source.size)
    with watched() as read_streams:
        try:
            found.checkpoint = detect(source).open(source)
        except CompatError as error:
            found.error = error
    _look(found, source, "", 0)
    # Readers try longer and longer pieces where the length of a stream stands nowhere: the last is the whole.
    for stream in reversed(read_streams):
        traced = trace(stream.data, stream.start)
        if not traced.error or _is_news(traced, found):
            where = stream.source if stream.source != source.name else ""
            found.add(where, traced, stream.data, stream.start, None)
    return found


def _look(found: Search, source: Source, where: str, depth: int) -> None:
    """Look at the bytes of one source."""
    try:
        if isinstance(source, FolderSource):
            for name in source.files():
                _look(found, source.beside(name), name, depth)
        elif source.head.startswith(LOCAL_SIGNATURE):
            _look_into_zip(found, source, where, depth)
        elif is_tar(source):
            for name, member in members_of(source).items():
                content = memoryview(source.read(member.offset, member.nbytes))
                _follow(found, content, _join(where, name), member.offset, depth)
        else:
            _follow(found, _bytes_of(source), where, 0 if depth == 0 else None, depth)
    except CompatError as error:
        found.error = found.error or error


def _bytes_of(source: Source) -> memoryview:
    """All bytes of a source, mapped where it is a file."""
    if source.size == 0:
        return memoryview(b"")
    return memoryview(source.map()) if isinstance(source, FileSource) else memoryview(source.read(0, source.size))


def _join(where: str, name: str) -> str:
    return f"{where}: {name}" if where else name


def _follow(found: Search, content: memoryview, where: str, base: int | None, depth: int) -> None:
    """Trace the pickles that follow each other from the first byte on, or from behind an array's header."""
    position = _behind_header(bytes(content[:_ARRAY_HEADER]))
    for index in range(_MAX_FOLLOWING):
        if position >= len(content):
            return
        traced = trace(content, position)
        if traced.error and not _plausible(traced):
            return
        name = where if index == 0 else _join(where, f"pickle {index + 1}")
        found.add(name, traced, content, position, base)
        for offset, inner in traced.inner:
            _look_inside(found, inner, _join(name, f"bytes at {offset:,}"), depth)
        if traced.error:
            return
        position = traced.end
    found.missed = f"{where or 'the file'} holds more than {_MAX_FOLLOWING:,} pickles; the rest was not looked at"


def _behind_header(begin: bytes) -> int:
    """Where the pickle of an array of objects begins in a file of `numpy.save`; 0 in what is no array.

    Source of the layout: `numpy/lib/format.py`.
    """
    if not begin.startswith(_ARRAY) or b"O" not in begin[10:]:
        return 0
    wide = begin[6] > 1
    return (12 if wide else 10) + int.from_bytes(begin[8 : 12 if wide else 10], "little")


def _plausible(traced: Trace) -> bool:
    """Whether bytes that break as a pickle were one at all: they name something that could be a name."""
    return any(_NAME.match(named.name.module) and _NAME.match(named.name.qualname) for named in traced.names)


def _is_news(traced: Trace, found: Search) -> bool:
    """Whether a stream that breaks names something that no other one does."""
    known = {str(named.name) for stream in found.streams for named in stream.trace.names}
    return _plausible(traced) and not known.issuperset(str(named.name) for named in traced.names)


def _look_inside(found: Search, content: bytes, where: str, depth: int) -> None:
    """Look at bytes that lie in something else."""
    if depth >= _MAX_NESTING:
        found.missed = f"{where} lies too deep in archives and was not looked at"
        return
    _look(found, BytesSource(content, where), where, depth + 1)


def _look_into_zip(found: Search, source: Source, where: str, depth: int) -> None:
    try:
        archive = Archive(source)
        records = [(name, archive.data(name)) for name in archive.entries]
    except CompatError as error:
        # Several archives behind each other, as in the files of `torch.distributed.checkpoint`, have no directory.
        if found.checkpoint is None:
            found.error = found.error or error
            found.searched = True
        _salvage(found, source, where, depth)
        return
    for name, data in records:
        if name.endswith(".py") and "/code/" not in name:
            found.notes.append(f"{_join(where, name)} is Python source; torch.package and TorchServe would run it")
        begin = _begin(data)
        if _PICKLED.match(name) or _MADE.match(begin) or begin in (LOCAL_SIGNATURE, _ARRAY[:4]):
            _look_at_record(found, data, _join(where, name), depth)


def _begin(data: Data) -> bytes:
    """The first bytes of a record."""
    if isinstance(data, FileData):
        return bytes(data.source.read(data.offset, min(4, data.nbytes)))
    try:
        return bytes(next(iter(data.chunks()), b"")[:4])
    except CompatError:
        return b""


def _look_at_record(found: Search, data: Data, where: str, depth: int) -> None:
    """Look at one record of an archive, whatever its sum says: torch does not check it."""
    if isinstance(data, DeflatedData):
        found.budget -= data.nbytes
        if found.budget < 0:
            raise Corrupt(f"its records inflate to more than {_MAX_RATIO} times their size", source=where)
    unchecked = replace(data, crc32=None) if isinstance(data, (FileData, DeflatedData)) else data
    content = memoryview(read(unchecked))
    if bytes(content[:4]) == LOCAL_SIGNATURE:
        _look_inside(found, bytes(content), where, depth)
    else:
        base = data.offset if isinstance(data, FileData) and depth == 0 else None
        _follow(found, content, where, base, depth)


def _salvage(found: Search, source: Source, where: str, depth: int) -> None:
    """Look at whatever has a local header, in an archive whose directory is no help."""
    content = _bytes_of(source)
    for name, body, base in _local_records(found, content):
        if _PICKLED.match(name) or _MADE.match(body[:2]):
            _follow(found, memoryview(body), _join(where, name), base if depth == 0 else None, depth)


def _local_records(found: Search, content: memoryview) -> Iterator[tuple[str, bytes, int | None]]:
    """Name, bytes and place of everything behind a local header."""
    starts = [match.start() for match in re.finditer(re.escape(LOCAL_SIGNATURE), content)][:_MAX_SALVAGED]
    for start, following in zip(starts, [*starts[1:], len(content)], strict=True):
        header = bytes(content[start : start + _LOCAL_SIZE])
        if len(header) < _LOCAL_SIZE:
            return
        name_size, extra_size = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        name = bytes(content[start + _LOCAL_SIZE : start + _LOCAL_SIZE + name_size]).decode("utf-8", "replace")
        begin = start + _LOCAL_SIZE + name_size + extra_size
        if int.from_bytes(header[8:10], "little") == 0:
            yield name, bytes(content[begin:following]), begin
            continue
        try:
            inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[begin:following], max(found.budget, 1))
        except zlib.error:
            continue
        found.budget -= len(inflated)
        yield name, inflated, None


def is_plain(found: Search, source: Source) -> bool:
    """Whether a file of no known format is nothing but pickles, or an archive of them."""
    if not isinstance(found.error, UnknownFormat) or not found.streams or found.damage:
        return False
    if source.head.startswith(LOCAL_SIGNATURE) or is_tar(source):
        return True
    first, last = found.streams[0].trace, found.streams[-1].trace
    return first.protocol > 0 or bool(first.names) or last.end == source.size
