"""GGUF files: the gguf package is the second witness, in both directions and for all its types."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compat
from compat.errors import CompatError, Corrupt, Unsupported
from compat.ggmltypes import REMOVED, TYPES

gguf: Any = pytest.importorskip("gguf", reason="the second witness is not installed")


def bytes_of(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def test_the_table_of_types_is_the_librarys() -> None:
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {
        number: (found.name, found.elements, found.nbytes) for number, found in TYPES.items() if number not in REMOVED
    } == theirs


@pytest.fixture(params=["<", ">"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A file by the library, with a tensor of every type and a value of every kind."""
    path = tmp_path / "m.gguf"
    endian = gguf.GGUFEndian.LITTLE if request.param == "<" else gguf.GGUFEndian.BIG
    writer = gguf.GGUFWriter(path, "test", endianess=endian)
    writer.add_custom_alignment(64)
    for kind, value in (("uint8", 1), ("int8", -1), ("uint16", 2), ("int16", -2), ("uint32", 3), ("int32", -3)):
        getattr(writer, f"add_{kind}")(f"v.{kind}", value)
    writer.add_uint64("v.uint64", 1 << 63)
    writer.add_int64("v.int64", -(1 << 62))
    writer.add_float32("v.float32", 0.5)
    writer.add_float64("v.float64", 0.1)
    writer.add_bool("v.bool", val=True)
    writer.add_string("v.string", "grün")
    writer.add_array("v.numbers", [1, 2, 3])
    writer.add_array("v.words", ["a", "", "ß"])
    expected: dict[str, Any] = {}
    rng = np.random.default_rng(0)
    for kind in ("float16", "float32", "float64", "int8", "int16", "int32", "int64"):
        array = rng.integers(0, 100, (2, 3)).astype(kind)
        expected[kind] = array
        writer.add_tensor(kind, array)
    if request.param == "<":
        for number, block in TYPES.items():
            if block.dtype is None and number not in REMOVED:
                array = rng.integers(0, 255, (2, 2 * block.nbytes)).astype(np.uint8)
                expected[block.name] = array
                writer.add_tensor(block.name, array, raw_dtype=gguf.GGMLQuantizationType(number))
        low = rng.integers(0, 255, (2, 6)).astype(np.uint8)
        expected["bfloat16"] = low
        writer.add_tensor("bfloat16", low, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, expected


def test_what_the_library_writes_is_read(written: tuple[Path, dict[str, Any]]) -> None:
    path, expected = written
    loaded = compat.load(path)
    assert set(loaded) == set(expected)
    for name, array in expected.items():
        assert bytes_of(loaded[name]) == array.tobytes(), name
    assert loaded["float32"].shape == (2, 3)
    with compat.open(path) as checkpoint:
        facts = checkpoint.metadata
        assert facts["general.architecture"] == "test"
        assert facts["v.uint64"] == 1 << 63
        assert (facts["v.float64"], facts["v.bool"], facts["v.string"]) == (0.1, True, "grün")
        assert (facts["v.numbers"], facts["v.words"]) == ([1, 2, 3], ["a", "", "ß"])
        if "Q4_0" in checkpoint.tensors:
            block = checkpoint.tensors["Q4_0"]
            assert block.attributes == {"ggml_type": "Q4_0", "ggml_shape": [2, 64]}
            assert (block.dtype, block.shape) == ("uint8", (2, 36))
            assert checkpoint.tensors["bfloat16"].dtype == "bfloat16"


def test_blocks_and_values_are_copied_as_they_are(written: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, expected = written
    compat.convert(path, tmp_path / "through.pt")
    compat.convert(tmp_path / "through.pt", tmp_path / "back.gguf")
    compat.convert(path, tmp_path / "copy.gguf")
    for name in ("copy.gguf", "back.gguf"):
        reader = gguf.GGUFReader(tmp_path / name)
        held = {tensor.name: tensor for tensor in reader.tensors}
        assert {name: tensor.data.tobytes() for name, tensor in held.items()} == {
            name: array.tobytes() for name, array in expected.items()
        }
        assert all(tensor.tensor_type.name == name for name, tensor in held.items() if name[0].isupper())
        assert "compat.layout" not in reader.fields
    copied = gguf.GGUFReader(tmp_path / "copy.gguf")
    assert copied.fields["v.words"].contents() == ["a", "", "ß"]
    assert copied.fields["v.uint8"].types == [gguf.GGUFValueType.UINT8]
    assert copied.fields["general.architecture"].contents() == "test"


def test_what_is_written_the_library_reads(tmp_path: Path) -> None:
    state = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in ("float32", "float16", "int64")}
    state["low"] = torch.ones(4, dtype=torch.bfloat16)
    state["zero-dim"] = torch.tensor(2.5)
    state["turned"] = torch.arange(6.0).reshape(2, 3).t()
    compat.save({"state_dict": state, "epoch": 3}, tmp_path / "m.gguf")
    held = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert set(held) == set(state)
    for name, tensor in state.items():
        assert held[name].data.tobytes() == bytes_of(tensor), name
    assert list(held["float32"].shape) == [3, 2]
    loaded = compat.load(tmp_path / "m.gguf")
    assert loaded["epoch"] == 3
    assert loaded["state_dict"]["turned"].stride() == (1, 3)


def test_what_it_has_no_name_for(tmp_path: Path) -> None:
    for name in ("bool", "uint8", "complex64", "float8_e5m2"):
        compat.save({"a": torch.tensor([1, 0]).to(getattr(torch, name))}, tmp_path / f"{name}.pt")
        with pytest.raises(Unsupported, match=f"has dtype {name}"):
            compat.convert(tmp_path / f"{name}.pt", tmp_path / "m.gguf")
        compat.convert(tmp_path / f"{name}.pt", tmp_path / f"{name}.gguf", allow_loss=["dtype"])
        assert not compat.diff(tmp_path / f"{name}.pt", tmp_path / f"{name}.gguf")
    long = {"ä" * 40 + end: torch.ones(1) for end in "ab"}
    compat.save(long, tmp_path / "long.gguf")
    assert list(compat.load(tmp_path / "long.gguf")) == list(long)
    names = [tensor.name for tensor in gguf.GGUFReader(tmp_path / "long.gguf").tensors]
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= 63 for name in names)
    compat.save({"deep": torch.arange(32.0).reshape(2, 2, 2, 2, 2)}, tmp_path / "deep.gguf")
    assert compat.load(tmp_path / "deep.gguf")["deep"].shape == (2, 2, 2, 2, 2)
    assert not (tmp_path / "m.gguf").exists()


def small() -> bytes:
    target = io.BytesIO()
    compat.save({"a": torch.arange(8.0), "b": torch.ones(3, dtype=torch.bfloat16)}, target, format="gguf")
    return target.getvalue()


def test_any_cut_is_refused() -> None:
    content = small()
    end = content.rindex(b"\x80\x3f") + 2
    for size in range(end):
        with pytest.raises(CompatError):
            compat.open(content[:size])


def test_any_flip_of_the_description_is_refused_or_harmless() -> None:
    content = small()
    for position in range(4, len(content) - 96):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[position] ^= flip
            try:
                compat.load(bytes(damaged))
            except CompatError:
                continue


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"GGUF\x03", b"GGUF\x09"),
        ((2).to_bytes(8, "little"), (1 << 60).to_bytes(8, "little")),
        ((8).to_bytes(8, "little"), (1 << 62).to_bytes(8, "little")),
    ],
    ids=["version", "count", "size"],
)
def test_what_is_claimed_is_held_against_what_is_there(old: bytes, new: bytes) -> None:
    with pytest.raises((Corrupt, Unsupported)):
        compat.open(small().replace(old, new, 1))


def placed(*tensors: tuple[str, list[int], int, int], values: bytes = b"", count: int = 0, data: int = 64) -> bytes:
    """A file of `tensors` (name, sizes in GGUF's order, type, offset) with so many bytes of data."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), count) + values
    for name, sizes, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
    return head + bytes(-len(head) % 32 + data)


@pytest.mark.parametrize("number", sorted(REMOVED))
def test_types_that_ggml_dropped_are_read(number: int) -> None:
    with compat.open(placed(("a", [64, 2], number, 0), data=96)) as checkpoint:
        assert checkpoint.tensors["a"].shape == (2, 36)
        assert checkpoint.tensors["a"].attributes == {"ggml_type": TYPES[number].name, "ggml_shape": [2, 64]}


@pytest.mark.parametrize("number", [4, 5, 99])
def test_types_that_ggml_never_had_in_gguf_are_refused(number: int) -> None:
    with pytest.raises(Unsupported, match=f"ggml type {number}; expected a type that ggml has"):
        compat.open(placed(("a", [32], number, 0)))


def test_tensors_tile_the_file_in_any_order() -> None:
    with compat.open(placed(("b", [4], 0, 32), ("a", [8], 0, 0), ("nothing", [0], 0, 0))) as checkpoint:
        assert {name: record.nbytes for name, record in checkpoint.tensors.items()} == {"b": 16, "a": 32, "nothing": 0}
    for second in (0, 16, 31, 48, 64):
        with pytest.raises(Corrupt, match=r"begin at .*expected 32"):
            compat.open(placed(("a", [8], 0, 0), ("b", [4], 0, second), data=96))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (struct.pack("<IB", 7, 2), "a boolean is 2; expected 0 or 1"),
        (struct.pack("<I", 13), "unknown type 13"),
        (struct.pack("<IIQ", 9, 13, 0), "the elements of an array have the unknown type 13"),
        (struct.pack("<II", 9, 9) * 12 + struct.pack("<Q", 1), "things are said to follow"),
        (b"".join(struct.pack("<IQ", 9, 1) for _ in range(12)).join([struct.pack("<I", 9), b""]), "nest too deep"),
        (struct.pack("<IIQ", 9, 10, 1 << 60), "things are said to follow"),
    ],
    ids=["boolean", "type", "element", "arrays", "depth", "numbers"],
)
def test_damaged_values_are_refused(value: bytes, said: str) -> None:
    key = struct.pack("<Q", 1) + b"k"
    with pytest.raises(Corrupt, match=said):
        compat.open(placed(values=key + value, count=1))


@pytest.mark.parametrize("alignment", [0, 24, 1 << 21])
def test_alignments_are_powers_of_two(alignment: int) -> None:
    key = b"general.alignment"
    value = struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, alignment)
    with pytest.raises(Corrupt, match="expected a power of two"):
        compat.open(placed(values=value, count=1))


def test_arrays_of_arrays_are_copied(tmp_path: Path) -> None:
    nested = struct.pack("<IIQ", 9, 9, 2) + struct.pack("<IQ2H", 2, 2, 5, 6) + struct.pack("<IQB", 7, 1, 1)
    path = tmp_path / "m.gguf"
    path.write_bytes(placed(values=struct.pack("<Q", 1) + b"k" + nested, count=1))
    compat.convert(path, tmp_path / "copy.gguf")
    for name in ("m.gguf", "copy.gguf"):
        with compat.open(tmp_path / name) as checkpoint:
            assert checkpoint.metadata["k"] == [[5, 6], [True]]
    assert nested in (tmp_path / "copy.gguf").read_bytes()


def test_a_part_of_a_split_model_says_so() -> None:
    def number(key: str, value: int) -> bytes:
        return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<IH", 2, value)

    with compat.open(placed(values=number("split.no", 1) + number("split.count", 3), count=2)) as checkpoint:
        assert checkpoint.notes == ["is part 2 of 3 of a split model; the other tensors lie in the other files"]
