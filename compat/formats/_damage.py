"""What happened to a damaged file as a whole: cut short, begun twice, filled with zeros, rewritten as text.

A format says which of its rules is broken first; what is found here says why, and how much is missing.
"""

from __future__ import annotations

import codecs
from typing import Final

from compat.errors import CompatError, Corrupt, Unsupported
from compat.formats._looks import Look, file_name, new_name
from compat.formats._texts import text_of
from compat.formats._zipcut import find_end, missing_of_zip
from compat.protobuf import BYTES, VARINT, Reader
from compat.sources import BytesSource, FileSource, Source
from compat.zipdir import LOCAL_SIGNATURE

_REPLACED: Final = "\ufffd".encode()
_SAMPLE: Final = 1 << 20
# So often a sign has to be seen before it is no accident.
_ENOUGH: Final = 8
_ONE_BYTE: Final = "\xff"
_CONTROLS: Final = frozenset(map(chr, range(0x80, 0xA0)))
_MAX_LOOKED_AT: Final = 256 << 20
_PIECE: Final = 1 << 20
_FEW: Final = 4096
_BEGINNING: Final = 64
_AGAIN: Final = "Get the file again."
_CUT: Final = "The file is cut short; get it again."
_ZEROS: Final = f"Space was reserved that was never written, or the disk failed. {_AGAIN}"


def explain(error: CompatError, source: Source) -> None:
    """Say in an error what happened to the whole file, where that can be seen in it."""
    if isinstance(error, Unsupported) and error.feature == "encryption":
        error.hint = f"Decrypt it first: unzip {file_name(source)} asks for the password."
    if source.name.endswith(".distcp"):
        error.hint = "By its name it is one part of a torch.distributed.checkpoint folder: open the folder."
        return
    # Of what lies behind a URL, no more is fetched only to explain.
    if not isinstance(error, Corrupt) or not isinstance(source, (FileSource, BytesSource)) or not source.size:
        return
    try:
        look = rewritten(source) or _begun_twice(source) or _zero_tail(source) or _cut(source)
    except CompatError:  # an explanation may stumble over the very damage that it looks for
        return
    if look is not None:
        error.seen = f"{error.seen}; {look.seen}"
        error.hint = look.hint
    elif error.hint is None and error.offset == source.size:
        error.hint = _CUT


def rewritten(source: Source) -> Look | None:
    """Bytes that went through something that took them for text."""
    if text_of(source.head) is not None:
        return None
    sample = bytes(source.read(0, min(_SAMPLE, source.size)))
    breaks = sample.count(b"\n")
    if breaks >= _ENOUGH and sample.count(b"\r\n") == breaks:
        return Look(
            "it was transferred as text: every line feed in it has a carriage return before it",
            "Get it again as binary (FTP's `binary`; in git, `*.pt -text` in .gitattributes).",
        )
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return None
    replaced = sample.count(_REPLACED)
    if replaced >= _ENOUGH:
        more = " bytes" if source.size <= len(sample) else f" of its first {len(sample):,} bytes"
        return Look(f"it was read as text and written again, which replaced {replaced:,}{more} for good", _AGAIN)
    foreign = [c for c in text if c > "\x7f"]
    if len(foreign) >= _ENOUGH and max(foreign) <= _ONE_BYTE and not _CONTROLS.isdisjoint(foreign):
        undo = f"iconv -f UTF-8 -t LATIN1 {file_name(source)} > {new_name(source)}"
        return Look("its bytes were taken for Latin-1 and written as UTF-8", f"That can be undone: {undo}")
    return None


def zeroed(source: Source) -> Look | None:
    """A file that begins with zeros, or has nothing else."""
    if source.head.strip(b"\0"):
        return None
    count = 0
    while count < min(source.size, _MAX_LOOKED_AT):
        piece = bytes(source.read(count, min(_PIECE, source.size - count)))
        zeros = len(piece) - len(piece.lstrip(b"\0"))
        count += zeros
        if zeros < len(piece):
            return Look(f"damaged: its first {count:,} of {source.size:,} bytes are zero", _ZEROS)
    least = "all" if count == source.size else f"at least {count:,} of"
    return Look(f"nothing but zeros: {least} {source.size:,} bytes", _ZEROS)


def missing_head(source: Source) -> Look | None:
    """A zip archive whose directory is there and whose beginning is not, or stands behind something else."""
    end = find_end(source)
    if end is None:
        return None
    if end.shift > 0:
        undo = f"tail -c +{end.shift + 1} {file_name(source)} > {new_name(source)}"
        return Look(f"a zip archive with {end.shift:,} bytes of something else before it", f"Cut them off: {undo}")
    if end.shift < 0:
        return Look(f"the end of a zip archive, of which the first {-end.shift:,} bytes are missing", _AGAIN)
    return Look("a zip archive whose beginning was overwritten", _AGAIN)


def _begun_twice(source: Source) -> Look | None:
    """A file whose first bytes stand in it again, as when a download that was resumed began anew."""
    beginning = source.head[:_BEGINNING]
    if source.size < 2 * _BEGINNING or not isinstance(source, FileSource):
        return None
    with source.map() as content:
        again = content.find(beginning, _BEGINNING, _MAX_LOOKED_AT)
    if again < 0:
        return None
    name, new = file_name(source), new_name(source)
    return Look(
        f"its first bytes stand in it again at byte {again:,}, as when a resumed download began anew",
        f"Get it again, or try each part: head -c {again} {name} > {new}, or tail -c +{again + 1} {name} > {new}",
    )


def _zero_tail(source: Source) -> Look | None:
    """A file that ends in zeros, where its format does not."""
    if not source.head.startswith((LOCAL_SIGNATURE, b"\x08")):
        return None
    count = 0
    while count < min(source.size, _MAX_LOOKED_AT):
        size = min(_PIECE, source.size - count)
        piece = bytes(source.read(source.size - count - size, size))
        zeros = len(piece) - len(piece.rstrip(b"\0"))
        count += zeros
        if zeros < len(piece):
            break
    if count < _FEW:
        return None
    return Look(f"its last {count:,} of {source.size:,} bytes are zero", _ZEROS)


def _cut(source: Source) -> Look | None:
    """A file that ends before it should; and by how much, as far as what is there tells."""
    if source.head.startswith(LOCAL_SIGNATURE):
        return None if find_end(source) is not None else missing_of_zip(source)
    missing = _missing_of_message(source)
    if missing <= 0:
        return None
    return Look(
        f"it ends inside it: at least {missing:,} of {source.size + missing:,} bytes are missing",
        _CUT,
    )


def _missing_of_message(source: Source) -> int:
    """How many bytes a protocol buffer message that fills a file lacks; 0 where it is none or lacks none."""
    if source.head[:1] != b"\x08":
        return 0
    reader, position = Reader(source), 0
    while position < source.size:
        tag, position = reader.varint(position, source.size)
        size, position = reader.varint(position, source.size)
        if tag & 7 == BYTES:
            position += size
        elif tag & 7 != VARINT:
            return 0
    return position - source.size
