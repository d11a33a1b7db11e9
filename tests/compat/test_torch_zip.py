"""Zip files of every age and maker."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
import torch

import compat
from compat.errors import CompatError, Corrupt, UnknownFormat, Unsupported
from tests.compat.making import dumped, storage_of, tensor, torch_dumped, zipped

FLOATS = struct.pack("<4f", 1, 2, 3, 4)


def test_the_folder_of_torch_1_4_is_read() -> None:
    """torch 1.4 kept storages under `tensors/`; every later torch fails on its files."""
    assert compat.load(zipped(tensor(), {"tensors/0": FLOATS, "version": b"1\n"})).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("root", ["archive/", "", "a/b/", "моя модель/", "x.tar/"])
def test_any_root_folder_is_read(root: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{root}data.pkl", b"\x80\x02" + tensor() + b".")
        archive.writestr(f"{root}data/0", FLOATS)
        archive.writestr(f"{root}version", "3\n")
    with compat.open(buffer.getvalue()) as checkpoint:
        assert checkpoint.metadata["root"] == root.rstrip("/")
    assert compat.load(buffer.getvalue()).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("dtype", ["float32", "int16", "complex64", "uint16", "uint8", "float64", "bfloat16"])
def test_big_endian_files_are_read_and_converted(dtype: str) -> None:
    state = {"a": torch.tensor([1, 2, 300 % 251], dtype=getattr(torch, dtype))}
    item = state["a"].element_size()
    component = item // 2 if dtype == "complex64" else item
    records: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(torch_dumped(state))) as archive:
        for name in archive.namelist():
            records[name] = archive.read(name)
    root = next(iter(records)).split("/")[0]
    content = records[f"{root}/data/0"]
    parts = [content[at : at + component][::-1] for at in range(0, len(content), component)]
    records |= {f"{root}/data/0": b"".join(parts), f"{root}/byteorder": b"big"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    assert torch.equal(compat.load(buffer.getvalue())["a"], state["a"])
    assert not compat.diff(buffer.getvalue(), dumped(state))
    assert not compat.diff(buffer.getvalue(), dumped(state, "safetensors"))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (zipped(tensor()), "record 'archive/data/0' is missing"),
        (zipped(tensor(), {"data/0": FLOATS[:-1]}), "has 15 bytes; expected 16"),
        (zipped(tensor(), {"data/0": FLOATS, "byteorder": b"middle"}), "byteorder says 'middle'"),
        (zipped(tensor(offset=1), {"data/0": FLOATS}), "needs 20 bytes of a storage of 16"),
        (zipped(tensor(shape=(2, 1 << 62), stride=(0, 0)), {"data/0": FLOATS}), "natural numbers of 64 bits"),
        (zipped(tensor(shape=(1 << 80,)), {"data/0": FLOATS}), "shape"),
        (zipped(tensor(shape=(-1,)), {"data/0": FLOATS}), "shape"),
    ],
)
def test_what_does_not_fit_is_refused(file: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        compat.open(file)


def test_an_expanded_tensor_costs_what_its_storage_costs() -> None:
    file = zipped(tensor(shape=(1 << 40,), stride=(0,)), {"data/0": FLOATS})
    loaded = compat.load(file)
    assert (loaded.numel(), storage_of(loaded).nbytes()) == (1 << 40, 16)
    assert not compat.diff(file, file)


def test_meta_tensors_of_any_size_come_back() -> None:
    state = {"m": torch.empty(1 << 40, device="meta"), "n": torch.empty(2, 3, device="meta").t()}
    for file in (torch_dumped(state), dumped(state), dumped(state, "torch-legacy")):
        loaded = compat.load(file)
        assert [(t.device.type, t.shape, t.stride()) for t in loaded.values()] == [
            ("meta", (1 << 40,), (1,)),
            ("meta", (3, 2), (1, 3)),
        ]


@pytest.mark.parametrize("dtype", ["float32", "complex128", "float8_e4m3fn"])
def test_a_meta_tensor_larger_than_any_memory_is_refused_or_made(dtype: str) -> None:
    file = torch_dumped({"m": torch.empty(1, dtype=getattr(torch, dtype), device="meta")})
    for shape in ((1 << 62,), (1 << 62, 2), (1 << 32, 1 << 31)):
        body = _meta(dtype, shape)
        try:
            assert compat.load(zipped(body)).shape == shape
        except CompatError:
            continue
    assert compat.load(file)["m"].device.type == "meta"


def _meta(dtype: str, shape: tuple[int, ...]) -> bytes:
    from tests.compat.making import name, number

    sizes = b"(" + b"".join(map(number, shape)) + b"t"
    steps = b"(" + b"K\x01" * len(shape) + b"t"
    return (
        name("torch._utils._rebuild_meta_tensor_no_storage") + b"(" + name(f"torch.{dtype}") + sizes + steps + b"\x89tR"
    )


def test_a_zip_archive_of_something_else_is_unknown() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/weights.h5", b"x")
    with pytest.raises(UnknownFormat, match="a zip archive that holds no checkpoint"):
        compat.open(buffer.getvalue())


def test_storages_larger_than_a_piece_are_streamed_right() -> None:
    state = {"a": torch.arange(300_001, dtype=torch.int32)}
    for name in ("torch-zip", "torch-legacy", "safetensors"):
        assert torch.equal(compat.load(dumped(state, name))["a"], state["a"])
    assert torch.equal(torch.load(io.BytesIO(dumped(state)), weights_only=True)["a"], state["a"])


def test_a_deflated_stream_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte that inflates to a gigabyte of opcodes would take minutes."""
    monkeypatch.setattr("compat.torcharchive.MAX_INFLATED", 1 << 20)
    file = zipped(b"N0" * 600_000 + b"N", method=zipfile.ZIP_DEFLATED)
    assert len(file) < 1 << 16
    with pytest.raises(Corrupt, match="inflate"):
        compat.open(file)


def test_bytes_before_the_first_entry_are_read_where_torch_reads_them() -> None:
    """Torch 2.13 asks only whether a file begins with the four bytes of an entry."""
    content = torch_dumped({"a": torch.arange(3)})
    for before, is_read in ((b"PK\x03\x04 and more", True), (b"#!/bin/sh\n", False)):
        buffer = io.BytesIO()
        buffer.write(before)
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "a") as new:
            for record in old.namelist():
                new.writestr(record, old.read(record))
        file = buffer.getvalue()
        assert file.startswith(before)
        if is_read:
            assert torch.load(io.BytesIO(file), weights_only=True)["a"].tolist() == [0, 1, 2]
            assert compat.load(file)["a"].tolist() == [0, 1, 2]
        else:
            with pytest.raises(Exception, match=r"."):
                torch.load(io.BytesIO(file), weights_only=True)
            with pytest.raises(UnknownFormat):
                compat.open(file)


def big_endian(state: dict[str, torch.Tensor], width: int) -> bytes:
    """What a big-endian machine would have written: elements of `width` bytes the other way round."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_dumped(state))) as old, zipfile.ZipFile(buffer, "w") as new:
        for record in old.namelist():
            content = old.read(record)
            if "/data/" in record and "/.data/" not in record:
                content = b"".join(content[at : at + width][::-1] for at in range(0, len(content), width))
            if not record.endswith("/byteorder"):
                new.writestr(record, content)
        new.writestr(f"{old.namelist()[0].partition('/')[0]}/byteorder", b"big")
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "complex32", "complex64", "complex128"])
def test_big_endian_elements_that_torch_does_not_swap_are_read(dtype: str) -> None:
    content = torch.arange(48, dtype=torch.uint8)
    state = {"a": content.view(getattr(torch, dtype))}
    component = state["a"].element_size() // (2 if dtype.startswith("complex") else 1)
    loaded = compat.load(big_endian(state, component))
    assert (loaded["a"].dtype, loaded["a"].view(torch.uint8).tolist()) == (state["a"].dtype, content.tolist())


def test_big_endian_bytes_of_two_widths_are_refused() -> None:
    """The bytes of one of the two would come back in the wrong order, and nothing says of which."""
    content = torch.arange(16, dtype=torch.uint8)
    state = {"a": content.view(torch.uint16), "b": content.view(torch.uint32)}
    assert compat.load(torch_dumped(state))["b"].view(torch.uint8).tolist() == content.tolist()
    with pytest.raises(Unsupported, match="b shares big-endian bytes with a tensor of another width"):
        compat.open(big_endian(state, 2))
    same = {"a": content.view(torch.uint16), "b": content.view(torch.uint16)[2:]}
    assert compat.load(big_endian(same, 2))["b"].view(torch.uint8).tolist() == content.tolist()[4:]


def test_deflated_records_are_read_and_summed() -> None:
    state = {"a": torch.zeros(1000), "b": torch.arange(5)}
    buffer = io.BytesIO()
    original = io.BytesIO(torch_dumped(state))
    with zipfile.ZipFile(original) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.namelist():
            new.writestr(record, old.read(record))
    file = buffer.getvalue()
    loaded = compat.load(file)
    by_torch = torch.load(io.BytesIO(file), weights_only=True)
    assert all(torch.equal(loaded[key], by_torch[key]) for key in state)
    for at in range(0, len(file), 7):
        damaged = bytearray(file)
        damaged[at] ^= 4
        try:
            loaded = compat.load(bytes(damaged))
        except CompatError:
            continue
        assert all(torch.equal(loaded[key], state[key]) for key in state)
