"""A bounded reader of a tar archive's directory: which plain files it holds, and where their bytes lie.

Nothing is extracted, so no member can lead anywhere. Links, devices, sparse files and the long names of GNU tar
are members without bytes here; extended headers (pax) are read as far as they name a file or its size.

Source of the layout: POSIX.1-2008, `pax` ("ustar Interchange Format", "pax Extended Header"), and
CPython's `Lib/tarfile.py`, by which torch wrote these archives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from compat.data import FileData
from compat.errors import Corrupt, brief
from compat.sources import Source

BLOCK: Final = 512
_MAGIC: Final = b"ustar"
_MAGIC_AT: Final = 257
_CHECKSUM: Final = slice(148, 156)
# torch's archives have four members with a header each before them.
_MAX_MEMBERS: Final = 64
_MAX_PAX: Final = 64 * 1024
_PLAIN: Final = (b"0", b"\0", b"7")
_OCTAL: Final = 8
_TAKEN: Final = (b"path", b"size")


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    kind: bytes
    size: int


def is_tar(source: Source) -> bool:
    """Whether a source begins with the header of a tar archive."""
    return source.size >= BLOCK and source.head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC


def members_of(source: Source) -> dict[str, FileData]:
    """The plain files of an archive by name, in its order; of a large archive only the first ones.

    Raises:
        Corrupt: a header is damaged, two files share a name, or one reaches behind the archive's end.
    """
    found: dict[str, FileData] = {}
    extended: dict[bytes, bytes] = {}
    position = 0
    for _ in range(_MAX_MEMBERS):
        header = _header(source, position)
        if header is None:
            break
        begin = position + BLOCK
        if header.kind in (b"x", b"g"):
            extended |= _extended(source, begin, header.size)
            position = begin + -(-header.size // BLOCK) * BLOCK
            continue
        name = extended.get(b"path", header.name.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
        size = _decimal(extended[b"size"], source, position) if b"size" in extended else header.size
        extended = {}
        if header.kind in _PLAIN:
            if name in found:
                raise _corrupt(source, f"two members are named {brief(name)}", position)
            if begin + size > source.size:
                raise _cut(source, name, begin + size)
            found[name] = FileData(source=source, offset=begin, nbytes=size)
        position = begin + -(-size // BLOCK) * BLOCK
    return found


def _header(source: Source, position: int) -> _Header | None:
    """The header at an offset; None where the archive ends."""
    if position + BLOCK > source.size:
        return None
    block = bytes(source.read(position, BLOCK))
    if not block.strip(b"\0"):
        return None
    total = sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")
    if _number(block[_CHECKSUM], source, position) != total:
        raise _corrupt(source, "a header's sum is wrong", position)
    name = block[:100].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    return _Header(name, block[156:157], _number(block[124:136], source, position))


def _number(field: bytes, source: Source, position: int) -> int:
    """A field's number: octal digits, or for large ones the bytes themselves behind a mark."""
    if field[0] == 0x80:  # noqa: PLR2004 - the mark
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0", 1)[0].strip()
    if not text.isdigit() or max(text) >= ord("8"):
        raise _corrupt(source, f"a header says the number {brief(field, 20)}", position)
    return int(text, _OCTAL)


def _decimal(text: bytes, source: Source, position: int) -> int:
    if not text.isdigit() or len(text) > 19:  # noqa: PLR2004 - 64 bits
        raise _corrupt(source, f"an extended header says the size {brief(text, 20)}", position)
    return int(text)


def _extended(source: Source, begin: int, size: int) -> dict[bytes, bytes]:
    """What an extended header says: records of `length key=value` and a line feed, each length counting all of it."""
    if size > _MAX_PAX:
        raise _corrupt(source, f"an extended header has {size:,} bytes", begin)
    content = bytes(source.read(begin, size))
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(content):
        length = content[at : at + 8].split(b" ", 1)[0]
        end = at + int(length) if length.isdigit() and int(length) else len(content) + 1
        record = content[at + len(length) + 1 : end]
        key, _, value = record.partition(b"=")
        if end > len(content) or not record.endswith(b"\n") or not key:
            raise _corrupt(source, "an extended header is damaged", begin + at)
        if key.startswith(b"GNU.sparse"):
            raise _corrupt(source, "a member is sparse", begin + at)
        found |= {key: value[:-1]} if key in _TAKEN else {}
        at = end
    return found


def _corrupt(source: Source, seen: str, offset: int) -> Corrupt:
    return Corrupt(f"the tar archive is damaged: {seen}", source=source.name, offset=offset)


def _cut(source: Source, name: str, end: int) -> Corrupt:
    return Corrupt(
        f"ends inside {brief(name)}: {end - source.size:,} bytes are missing",
        source=source.name,
        offset=source.size,
        hint="The file is cut short; get it again.",
    )
