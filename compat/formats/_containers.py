"""What lies inside a compressed file, a zip archive or a tar archive that is no checkpoint by itself.

Nothing is unpacked beyond the first bytes, and those by the standard library with a bound on what comes out.
"""

from __future__ import annotations

import bz2
import lzma
import re
import shlex
import zlib
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import islice
from typing import Any, Final

from compat.data import FileData
from compat.errors import CompatError, brief
from compat.formats._foreign import foreign_look
from compat.formats._format import Format
from compat.formats._looks import Look, file_name, marked, new_name
from compat.formats._texts import text_look
from compat.sources import BytesSource, Source
from compat.tardir import is_tar, members_of
from compat.zipdir import LOCAL_SIGNATURE, Archive

_PACKED: Final = 64 * 1024
_UNPACKED: Final = 16 * 1024
_MAX_MEMORY: Final = 256 << 20
_LOOKED_AT: Final = 16
_SHOWN: Final = 4


def _zstd() -> Any:
    # Of the standard library, from Python 3.14 on.
    return import_module("compression.zstd").ZstdDecompressor()


_PYTHON_ZLIB: Final = (
    "python -c 'import sys, zlib; sys.stdout.buffer.write(zlib.decompress(sys.stdin.buffer.read()))' <"
)
# (mark, name, the command that unpacks to its standard output, its suffixes, what unpacks the first bytes).
_COMPRESSED: Final[tuple[tuple[bytes, str, str, tuple[str, ...], Callable[[], Any] | None], ...]] = (
    (rb"\x1f\x8b\x08", "gzip", "gunzip -c", (".gz", ".gzip"), lambda: zlib.decompressobj(31)),
    (rb"\x28\xb5\x2f\xfd", "zstd", "zstd -dc", (".zst", ".zstd"), _zstd),
    (rb"BZh[1-9]", "bzip2", "bunzip2 -c", (".bz2",), bz2.BZ2Decompressor),
    (rb"\xfd7zXZ\x00", "xz", "unxz -c", (".xz",), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _MAX_MEMORY)),
    (rb"\x04\x22\x4d\x18", "lz4", "lz4 -dc", (".lz4",), None),
    (rb"\x78[\x01\x5e\x9c\xda]", "zlib", _PYTHON_ZLIB, (".z", ".zlib"), zlib.decompressobj),
)

# (a record's name, what such an archive is, the next step).
_ARCHIVES: Final = (
    (r"model\.weights\.h5", "a Keras model (.keras)", "Keras reads it: keras.models.load_model(…); compat does not."),
    (r"\[Content_Types\]\.xml", "an office document", "Check that this is the file you meant."),
    (r"AndroidManifest\.xml", "an Android package", "Check that this is the file you meant."),
    (r"MAR-INF/MANIFEST\.json", "a TorchServe archive (.mar)", "The checkpoint lies inside: unzip {name}"),
    (r"META-INF/MANIFEST\.MF", "a Java archive", "Check that this is the file you meant."),
    (r"[^/]+\.dist-info/WHEEL", "a Python wheel", "Install it with pip; it is no checkpoint."),
    (r"[^/]+\.mlpackage/.*|Data/com\.apple\.CoreML/.*", "a Core ML package", "coremltools reads it; compat does not."),
    (r"(.*/)?data\.pkl", "damaged or of a torch that is not known", "Report it with its `unzip -l {name}`."),
)


def begins(head: bytes, formats: Sequence[Format]) -> str | None:
    """What bytes that stand inside another file begin like, in a few words; None where that is not known."""
    if head.startswith(LOCAL_SIGNATURE):
        size = int.from_bytes(head[26:28], "little")
        name = head[30 : 30 + size].decode("utf-8", "replace")
        torch_like = re.fullmatch(r"[^/]+/(data\.pkl|version|\.data/.*|constants\.pkl|code/.*)", name)
        return "a zip file as torch.save writes it" if torch_like else "a zip archive"
    source = BytesSource(head, "")
    for candidate in formats:
        if _is(candidate, source):
            return f"a checkpoint ({candidate.name})"
    if is_tar(source):
        return f"a tar archive of {brief(head[:100].split(bytes(1))[0].decode('utf-8', 'replace'))} and perhaps more"
    look = marked(source) or text_look(source) or foreign_look(source)
    return None if look is None else look.seen


def _is(candidate: Format, source: Source) -> bool:
    try:
        return candidate.detect(source)
    except CompatError:  # a beginning alone may look damaged
        return False


def packed_look(source: Source, formats: Sequence[Format]) -> Look | None:
    """A compressed file: with what, what is inside, and the command that unpacks it."""
    for mark, kind, command, suffixes, opener in _COMPRESSED:
        if re.match(mark, source.head) is None:
            continue
        inside = b"" if opener is None else _unpacked(source, opener)
        if kind == "zlib" and not inside:  # two bytes prove nothing
            return None
        held = begins(inside, formats) if inside else None
        name, new = file_name(source), new_name(source, *suffixes)
        hint = f"Unpack it first: {command} {name} > {new}"
        if held is not None and held.startswith("a tar archive"):
            hint = f"Unpack it first: {command} {name} | tar -xf -"
        return Look(f"{kind}-compressed{f'; inside begins {held}' if held else ''}", hint)
    return None


def _unpacked(source: Source, opener: Callable[[], Any]) -> bytes:
    """The first bytes of what is compressed; none where they cannot be had."""
    content = bytes(source.read(0, min(_PACKED, source.size)))
    try:
        return bytes(opener().decompress(content, _UNPACKED))
    except (ImportError, OSError, EOFError, ValueError, MemoryError, zlib.error, lzma.LZMAError):
        return b""


def archive_look(source: Source, formats: Sequence[Format]) -> Look | None:
    """A zip archive whose directory is whole, and which is of no known format."""
    archive = source.cache.get("archive")
    if not isinstance(archive, Archive):
        return None
    name = file_name(source)
    for pattern, seen, hint in _ARCHIVES:
        if any(re.fullmatch(pattern, record) for record in archive.entries):
            return Look(f"a zip archive: {seen}", hint.format(name=name))
    records = [record for record in archive.entries if not record.endswith("/") and not record.startswith("__MACOSX/")]
    if not records:
        return Look("a zip archive with nothing in it", "Get the file again.")
    largest = sorted(records, key=lambda record: -archive.entries[record].nbytes)[:_LOOKED_AT]
    for record in largest:
        held = begins(_first_bytes(archive, record), formats)
        if held and ("checkpoint" in held or "torch.save" in held):
            return Look(
                f"a zip archive around {brief(record)}, {held}",
                f"Extract it first: unzip {name} {shlex.quote(record)}",
            )
    listed = ", ".join(brief(record) for record in records[:_SHOWN])
    more = " …" if len(records) > _SHOWN else ""
    return Look(f"a zip archive that holds no checkpoint: {listed}{more}", f"See what is inside: unzip -l {name}")


def _first_bytes(archive: Archive, record: str) -> bytes:
    try:
        data = archive.data(record)
        if isinstance(data, FileData):
            return bytes(archive.source.read(data.offset, min(data.nbytes, _UNPACKED)))
        return b"".join(bytes(piece) for piece in islice(data.chunks(), 1))[:_UNPACKED]
    except CompatError:
        return b""


def tar_look(source: Source, formats: Sequence[Format]) -> Look | None:
    """A tar archive that is not one of torch's."""
    if not is_tar(source):
        return None
    try:
        members = members_of(source)
    except CompatError as error:
        return Look(f"a damaged tar archive: {error.seen}", error.hint or "Get the file again.")
    name = file_name(source)
    if "model_config.yaml" in {member.rpartition("/")[2] for member in members}:
        return Look("a tar archive: a NeMo model", f"The checkpoint lies inside: tar -xf {name}")
    for member, data in islice(members.items(), _LOOKED_AT):
        held = begins(bytes(source.read(data.offset, min(data.nbytes, _UNPACKED))), formats)
        if held and ("checkpoint" in held or "torch.save" in held):
            hint = f"Extract it first: tar -xf {name} {shlex.quote(member)}"
            return Look(f"a tar archive around {brief(member)}, {held}", hint)
    listed = ", ".join(brief(member) for member in list(members)[:_SHOWN])
    return Look(f"a tar archive that holds no checkpoint: {listed}", f"See what is inside: tar -tf {name}")
