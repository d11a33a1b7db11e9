"""Where checkpoints come from."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest

import compat
from compat.data import CHUNK, Data, DeflatedData, FileData, MemoryData, SlicedData, read
from compat.errors import Corrupt, Unreadable, Unsupported
from compat.sources import open_source
from tests.compat.making import dumped

CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def test_every_kind_gives_the_same_bytes(file: Path) -> None:
    with file.open("rb") as opened:
        opened.seek(10)
        kinds: list[Any] = [str(file), file, CONTENT, bytearray(CONTENT), memoryview(CONTENT), io.BytesIO(CONTENT)]
        for kind in kinds:
            with open_source(kind) as source:
                assert source.size == len(CONTENT)
                assert source.read(5, 300) == CONTENT[5:305]
                assert b"".join(map(bytes, source.chunks(1, CHUNK + 7))) == CONTENT[1 : CHUNK + 8]
                assert source.head == CONTENT[:4096]
        assert open_source(opened).read(0, 4) == CONTENT[10:14]


def test_what_lies_behind_the_end_is_refused_before_anything_is_allocated(file: Path) -> None:
    for kind in (file, CONTENT):
        with open_source(kind) as source, pytest.raises(Corrupt, match="ends at byte 512,000"):
            source.read(10, 1 << 50)


def test_a_file_that_shrinks_while_it_is_read_is_corrupt(file: Path) -> None:
    with open_source(file) as source:
        os.truncate(file, 100)
        with pytest.raises(Corrupt, match="ends at byte 100"):
            source.read(0, 200)


def test_what_cannot_be_opened_says_why(tmp_path: Path, file: Path) -> None:
    with pytest.raises(Unreadable, match="does not exist"):
        open_source(tmp_path / "nothing")
    with pytest.raises(Unreadable, match="is a directory"):
        open_source(tmp_path).read_into(0, memoryview(bytearray(1)))
    with pytest.raises(Unreadable, match="the path is empty"):
        open_source("")
    with pytest.raises(Unreadable, match="cannot be opened"):
        open_source("a\0b")
    with file.open(encoding="latin-1") as opened, pytest.raises(Unreadable, match=r'open as text.*mode "rb"'):
        open_source(opened)  # type: ignore[arg-type]  # the mistake this is about
    with pytest.raises(TypeError, match="cannot read a checkpoint from int"):
        open_source(3)  # type: ignore[arg-type]


def test_reading_after_the_end_of_the_context_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(dumped({"a": __import__("torch").ones(3)}))
    with compat.open(path) as checkpoint:
        record = checkpoint.tensors["a"]
    with pytest.raises(Unreadable, match="was closed before"):
        read(record.storage.data)  # type: ignore[arg-type]  # it is there


def test_only_files_are_mapped(file: Path) -> None:
    with pytest.raises(Unsupported, match="cannot be mapped"):
        open_source(CONTENT).map()
    with open_source(file) as source, source.map() as mapped:
        mapped[0] = 99
        assert source.read(0, 1) == b"\0"


def test_data_of_every_kind_is_read_whole_and_in_pieces(file: Path) -> None:
    import zlib

    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(CONTENT) + packer.flush()
    whole = MemoryData(CONTENT)
    with open_source(file) as source:
        kinds: list[tuple[Data, bytes]] = [
            (whole, CONTENT),
            (FileData(source=source, offset=3, nbytes=100, crc32=zlib.crc32(CONTENT[3:103])), CONTENT[3:103]),
            (SlicedData(parent=whole, offset=1000, nbytes=5000), CONTENT[1000:6000]),
            (
                DeflatedData(source=open_source(packed), offset=0, compressed=len(packed), nbytes=len(CONTENT)),
                CONTENT,
            ),
        ]
        for data, expected in kinds:
            assert bytes(read(data)) == expected
            assert b"".join(map(bytes, data.chunks())) == expected
            assert data.nbytes == len(expected)


@pytest.mark.parametrize("whole", [True, False])
def test_a_wrong_sum_is_seen_either_way(whole: bool) -> None:
    data = FileData(source=open_source(CONTENT), offset=0, nbytes=10, crc32=1)
    with pytest.raises(Corrupt, match="CRC-32 0x"):
        read(data) if whole else list(data.chunks())


def test_a_link_to_nothing_says_where_it_points(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.symlink_to(".git/annex/objects/Zk/2x/MD5-s10--01/MD5-s10--01")
    with pytest.raises(compat.Unreadable, match=r"symbolic link to '.git/annex.*which does not exist. .*git annex get"):
        compat.open(path)
    with pytest.raises(compat.Unreadable, match=r"does not exist. Check the path"):
        compat.open(tmp_path / "other.pt")
