"""The table of formats: complete, in order, and detected by content alone."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest
import torch

import compat
from compat import formats
from compat.dtypes import DTYPES
from compat.errors import UnknownFormat, Unsupported
from compat.formats._format import PLAIN_DTYPES
from compat.sources import open_source
from tests.compat.making import FORMATS, dumped


def test_every_module_of_a_format_is_in_the_table() -> None:
    folder = Path(formats.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert {found.open.__module__.rpartition(".")[2] for found in formats.all_formats()} == modules
    assert [found.name for found in formats.all_formats()] == sorted(formats.names())


def test_no_two_formats_ask_for_one_suffix() -> None:
    asked = [suffix for found in formats.all_formats() for suffix in found.asked_by]
    assert len(asked) == len(set(asked))
    assert all(found.writable for found in formats.all_formats() if found.asked_by)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx", ".html", ""])
@pytest.mark.parametrize("name", FORMATS)
def test_content_decides_whatever_the_suffix(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(dumped({"a": torch.ones(1)}, name))
    with compat.open(path) as checkpoint:
        assert checkpoint.format == name
    detected = [found.name for found in formats.all_formats() if found.detect(open_source(path))]
    assert detected == [name]


@pytest.mark.parametrize(
    ("head", "seen"),
    [
        (b"", "is empty"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"<?xml version='1.0'?><Error>", "XML"),
        (b"  <!doctype HTML>", "HTML"),
        (b"BZh9", "bunzip2"),
        (b"\xfd7zXZ\x00", "unxz"),
        (b"\x28\xb5\x2f\xfd", "zstd -d"),
        (b"\x93NUMPY\x01", "numpy.load"),
        (b'{"weight_map": {}}', "index of shards"),
        (b"Not Found. The page you asked for is gone.", "plain text"),
        (b"\xff\xfe\xfd", "begins with ff fe fd"),
    ],
)
def test_what_is_no_checkpoint_is_named(head: bytes, seen: str) -> None:
    with pytest.raises(UnknownFormat, match=seen):
        compat.open(head)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_a_dtype_is_called_one_thing_in_each_world() -> None:
    for dtype in DTYPES.values():
        live = getattr(torch, dtype.name, None)
        assert live is None or torch.empty(0, dtype=live).element_size() == dtype.itemsize, dtype.name
    assert "float32" in PLAIN_DTYPES
    assert "quint8" not in PLAIN_DTYPES


def test_an_unknown_suffix_lists_the_known_ones() -> None:
    with pytest.raises(Unsupported, match=r"expected one of .*\.pt.*\.safetensors"):
        formats.for_target(PurePath("x.weights"))
    assert formats.for_target(PurePath("X.PT")).name == "torch-zip"
