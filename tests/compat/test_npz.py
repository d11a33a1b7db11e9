"""npz archives: numpy is the second witness, in both directions."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import compat
from compat.checkpoint import NumpyArray, Opaque
from compat.errors import CompatError, Corrupt, Unsupported
from compat.npy import header_of

ELEMENTS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "c8", "c16", "b1")


@settings(max_examples=120, deadline=None)
@given(data=st.data(), compressed=st.booleans(), order=st.sampled_from("CF"), endian=st.sampled_from("<>"))
def test_what_numpy_writes_is_read(data: st.DataObject, order: str, endian: str, *, compressed: bool) -> None:
    kind = data.draw(st.sampled_from(ELEMENTS))
    dtype = np.dtype(kind if kind in ("b1", "i1", "u1") else endian + kind)
    array = data.draw(npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
    array = np.asarray(array, order=order)  # type: ignore[call-overload]  # a literal
    target = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(target, **{"a/b": array})
    loaded = compat.load(target.getvalue())["a/b"]
    assert loaded.shape == array.shape
    assert loaded.contiguous().numpy().tobytes() == array.astype(dtype.newbyteorder("<")).tobytes(order="C")
    if order == "F" and array.ndim > 1 and array.size > 1 and not array.flags.c_contiguous:
        assert loaded.stride() == tuple(step // array.itemsize for step in array.strides)


def test_what_is_written_numpy_reads(tmp_path: Path) -> None:
    state = {name: torch.tensor([[1, 0], [3, 4]]).to(getattr(torch, name)) for name in ("float32", "int64", "bool")}
    state |= {"turned": torch.arange(6.0).reshape(2, 3).t(), "low": torch.ones(3, dtype=torch.bfloat16)}
    state["zero-dim"] = torch.tensor(2.5)
    compat.save({"state": state, "epoch": 3}, tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as archive:
        assert {*archive.files} == {*state, "compat.layout"}
        for name, tensor in state.items():
            if name != "low":
                assert archive[name].tobytes() == tensor.contiguous().numpy().tobytes()
                assert archive[name].shape == tuple(tensor.shape)
        assert archive["low"].dtype == np.uint8
    loaded = compat.load(tmp_path / "m.npz")
    assert loaded["epoch"] == 3
    assert loaded["state"]["low"].dtype == torch.bfloat16
    assert loaded["state"]["turned"].stride() == (1, 3)


@pytest.mark.parametrize("name", ["../up", "/abs", "a.npy", "", " ", "ä\n", "a" * 300, "compat.layout"])
def test_odd_names_come_back_and_lead_nowhere(name: str, tmp_path: Path) -> None:
    compat.save({name: torch.ones(1), "b": torch.zeros(1)}, tmp_path / "m.npz")
    assert list(compat.load(tmp_path / "m.npz")) == [name, "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    class Touched:
        def __reduce__(self) -> Any:
            return (exec, ("raise SystemExit('executed')",))

    np.savez(tmp_path / "o.npz", a=np.ones(1), o=np.array([Touched()], dtype=object))
    with pytest.raises(Unsupported, match=r"'o\.npy' holds Python objects"):
        compat.open(tmp_path / "o.npz")
    np.savez(tmp_path / "s.npz", s=np.array([(1, None)], dtype=[("n", "i4"), ("o", "O")]))
    with pytest.raises(Unsupported, match="holds Python objects"):
        compat.open(tmp_path / "s.npz")


def test_text_dates_and_structures_are_listed(tmp_path: Path) -> None:
    arrays = {
        "text": np.array(["a", "bc"]),
        "bytes": np.array([b"a"]),
        "date": np.array(["2026-01-01"], dtype="datetime64[D]"),
        "structure": np.zeros(2, dtype=[("n", "i4"), ("x", "f8")]),
    }
    np.savez(tmp_path / "m.npz", number=np.ones(2), **arrays)  # type: ignore[arg-type]  # arrays by name
    with compat.open(tmp_path / "m.npz") as checkpoint:
        assert list(checkpoint.tensors) == ["number"]
        assert all(isinstance(checkpoint.tree[name], (NumpyArray, Opaque)) for name in arrays)


def archive(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as written:
        for name, content in members.items():
            written.writestr(name, content)
    return target.getvalue()


GOOD = header_of("float32", (2,))


@pytest.mark.parametrize(
    "content",
    [
        GOOD + b"\0" * 7,
        GOOD + b"\0" * 9,
        GOOD[:20],
        GOOD.replace(b"(2,)", b"(-2,)") + b"\0" * 8,
        GOOD.replace(b"(2,)", b"(1<<40,)") + b"\0" * 8,
        GOOD.replace(b"'<f4'", b"open('x')") + b"\0" * 8,
        GOOD.replace(b"'<f4'", b"__import__('os')") + b"\0" * 8,
        GOOD.replace(b"{", b"(" * 60) + b"\0" * 8,
        b"\x93NUMPY\x09\x00" + GOOD[8:] + b"\0" * 8,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + GOOD[10:] + b"\0" * 8,
        b"not an array",
    ],
    ids=map(str, range(11)),
)
def test_a_damaged_array_is_refused(content: bytes) -> None:
    with pytest.raises(Corrupt):
        compat.open(archive({"a.npy": content}))


def test_any_flip_is_refused_or_right() -> None:
    target = io.BytesIO()
    compat.save({"a": torch.arange(9.0), "b": torch.ones(2, dtype=torch.bfloat16), "n": 1}, target, format="npz")
    content = target.getvalue()
    right = {"a": torch.arange(9.0).numpy().tobytes(), "b": b"\x80\x3f" * 2}
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 0x41
        try:
            loaded = compat.load(bytes(damaged))
        except CompatError:
            continue
        assert {k: loaded[k].view(torch.uint8).numpy().tobytes() for k in right} == right, position
