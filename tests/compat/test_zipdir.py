"""Zip archives as torch writes them, as other tools do, and as nobody should."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest

from compat.data import read
from compat.errors import Corrupt, Unsupported
from compat.sources import open_source
from compat.zipdir import ALIGNMENT, Archive, ArchiveWriter

CONTENT = {"a/one": b"1" * 100, "a/two": bytes(range(256)), "a/empty": b""}


def made(method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.comment = comment
        for name, content in CONTENT.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def records(content: bytes) -> dict[str, bytes]:
    archive = Archive(open_source(content))
    return {name: bytes(read(archive.data(name))) for name in archive.entries}


def patched(content: bytes, signature: bytes, offset: int, value: bytes, nth: int = 0) -> bytes:
    """Change bytes behind the nth header of a kind."""
    at = -1
    for _ in range(nth + 1):
        at = content.index(signature, at + 1)
    return content[: at + offset] + value + content[at + offset + len(value) :]


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("comment", [b"", b"a comment", b"x" * 65535])
def test_what_python_writes_is_read(method: int, comment: bytes) -> None:
    assert records(made(method, comment)) == CONTENT


def test_what_is_written_python_reads_and_every_record_is_aligned() -> None:
    buffer = io.BytesIO()
    writer = ArchiveWriter(buffer)
    for name, content in CONTENT.items():
        writer.add(name, [content[:50], content[50:]], len(content))
    writer.close()
    with zipfile.ZipFile(buffer) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == CONTENT
    found = Archive(open_source(buffer.getvalue()))
    assert [found.data(name).offset % ALIGNMENT for name in CONTENT] == [0, 0, 0]  # type: ignore[attr-defined]  # stored
    assert records(buffer.getvalue()) == CONTENT


def test_a_record_of_another_size_than_announced_is_not_finished() -> None:
    with pytest.raises(Corrupt, match="record 'x' has 3 bytes; expected 4"):
        ArchiveWriter(io.BytesIO()).add("x", [b"abc"], 4)


def test_a_large_archive_gets_zip64_records(monkeypatch: pytest.MonkeyPatch) -> None:
    from compat import zipdir

    monkeypatch.setattr(zipdir, "_MAX32", 64)
    buffer = io.BytesIO()
    writer = ArchiveWriter(buffer)
    for name, content in CONTENT.items():
        writer.add(name, [content], len(content))
    writer.close()
    assert b"PK\x06\x06" in buffer.getvalue()
    assert b"PK\x06\x07" in buffer.getvalue()
    assert records(buffer.getvalue()) == CONTENT


def test_more_records_than_16_bits_count() -> None:
    buffer = io.BytesIO()
    writer = ArchiveWriter(buffer)
    for index in range(65_600):
        writer.add(str(index), [], 0)
    writer.close()
    assert len(Archive(open_source(buffer.getvalue())).entries) == 65_600
    with zipfile.ZipFile(buffer) as archive:
        assert len(archive.namelist()) == 65_600


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (patched(made(), CENTRAL, 16, b"\x01\x02\x03\x04"), "CRC-32"),
        (made().replace(b"1111", b"1112", 1), "CRC-32"),
        (patched(made(), CENTRAL, 20, struct.pack("<I", 99)), "has 99 bytes; expected 100"),
        (patched(made(), CENTRAL, 24, struct.pack("<I", 99)), "has 100 bytes; expected 99"),
        (patched(made(), CENTRAL, 20, struct.pack("<II", 1 << 20, 1 << 20)), "lies outside the file"),
        (patched(made(), CENTRAL, 42, struct.pack("<I", 0xFFFF)), "lies outside the file"),
        (patched(made(), CENTRAL, 42, struct.pack("<I", 0), nth=1), "overlap"),
        (patched(made(), CENTRAL, 42, struct.pack("<I", 4)), "local header disagree"),
        (patched(made(), CENTRAL, 46, b"b"), "local header disagree"),
        (patched(made(), LOCAL, 30, b"b"), "local header disagree"),
        (patched(made(), LOCAL, 8, b"\x08\x00"), "local header disagree"),
        (patched(made(), LOCAL, 28, b"\xff\xff"), "lies outside the file"),
        (patched(made(), CENTRAL, 28, b"\xff\xff"), "cut short"),
        (patched(made(), CENTRAL, 0, b"PKPK"), "directory ends after 0 entries"),
        (patched(made(), END, 10, b"\x09\x00"), "directory ends after 3 entries"),
        (patched(made(), END, 12, b"\xff\xff\xff\x00"), "directory is said to lie"),
        (patched(made(), END, 4, b"\x01\x00"), "several volumes"),
        (patched(made(), CENTRAL, 24, b"\xff\xff\xff\xff"), "zip64 sizes are missing"),
        (made()[:-22], "without its directory"),
        (patched(made(zipfile.ZIP_DEFLATED), CENTRAL, 24, struct.pack("<I", 101)), "inflate|holds"),
        (patched(made(zipfile.ZIP_DEFLATED), CENTRAL, 24, struct.pack("<I", 99)), "holds more than 99 bytes"),
        (patched(made(zipfile.ZIP_DEFLATED), CENTRAL, 24, struct.pack("<I", 1 << 30)), "claims to inflate"),
    ],
)
def test_a_damaged_archive_says_what_is_wrong(content: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        records(content)


@pytest.mark.parametrize(
    ("content", "feature"),
    [
        (patched(made(), CENTRAL, 8, b"\x01\x00"), "encryption"),
        (patched(made(), CENTRAL, 10, b"\x0e\x00"), "compression"),
    ],
)
def test_what_is_valid_but_not_read_is_unsupported(content: bytes, feature: str) -> None:
    with pytest.raises(Unsupported) as caught:
        records(content)
    assert caught.value.feature == feature


def test_two_directory_entries_for_the_same_bytes_are_refused() -> None:
    """The quoted overlap of a zip bomb: many names, one compressed body."""
    content = patched(patched(made(), CENTRAL, 42, bytes(4), nth=1), CENTRAL, 42, bytes(4), nth=2)
    with pytest.raises(Corrupt, match="overlap"):
        Archive(open_source(content))


def test_every_flipped_byte_gives_an_error_or_the_right_bytes() -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        content = made(method)
        for position in range(len(content)):
            for mask in (0x01, 0xFF):
                damaged = bytearray(content)
                damaged[position] ^= mask
                try:
                    found = records(bytes(damaged))
                except (Corrupt, Unsupported):
                    continue
                assert found == CONTENT, position


def test_a_record_without_a_sum_is_read_unchecked() -> None:
    content = patched(made(), CENTRAL, 16, bytes(4))
    assert records(content)["a/one"] == CONTENT["a/one"]
    assert zlib.crc32(CONTENT["a/one"])


def test_a_missing_record_is_named() -> None:
    with pytest.raises(Corrupt, match="record 'a/three' is missing"):
        Archive(open_source(made())).data("a/three")
