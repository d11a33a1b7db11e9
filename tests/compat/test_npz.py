"""npz archives: numpy is the second witness, in both directions."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import compat
from compat.checkpoint import Opaque
from compat.errors import CompatError, Corrupt, UnsafeGlobals, Unsupported
from compat.npy import header_of
from compat.sources import BytesSource

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
    state |= {"zero-dim": torch.tensor(2.5), "deep": torch.ones((1,) * 40), "empty": torch.zeros(0, 3)}
    compat.save({"state": state, "epoch": 3}, tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as archive:
        assert {*archive.files} == {*state, "compat.layout"}
        for name, tensor in state.items():
            if name not in ("low", "deep"):
                assert archive[name].tobytes() == tensor.contiguous().numpy().tobytes()
                assert archive[name].shape == tuple(tensor.shape)
        assert archive["low"].dtype == archive["deep"].dtype == np.uint8
    loaded = compat.load(tmp_path / "m.npz")
    assert loaded["epoch"] == 3
    assert loaded["state"]["low"].dtype == torch.bfloat16
    assert loaded["state"]["turned"].stride() == (1, 3)
    assert loaded["state"]["deep"].shape == (1,) * 40


NAMES = st.one_of(
    st.sampled_from(
        ["", "a", "a.npy", "a.npy.npy", "a\0b", "a\0", "compat.layout", "compat.layout.npy", ".npy", "../a"]
    ),
    st.text(max_size=5),
)


@settings(max_examples=120, deadline=None)
@given(names=st.lists(NAMES, max_size=6, unique=True))
@example(names=["a", "a.npy"])
@example(names=["a", "a\0b"])
@example(names=["compat.layout", "compat.layout.npy"])
@example(names=["x" * 70_000, "x" * 70_001])
def test_numpy_finds_every_tensor_under_the_name_that_is_said(names: list[str]) -> None:
    state = {name: torch.tensor([number]) for number, name in enumerate(names)}
    target = io.BytesIO()
    written = compat.save(state, target, format="npz")
    with np.load(io.BytesIO(target.getvalue()), allow_pickle=False) as archive:
        held = [name for name in archive.files if name != "compat.layout"]
        # In the file's order, and by the name.
        assert [int(archive[name][0]) for name in held] == list(range(len(names)))
        assert len(set(archive.files)) == len(archive.files)
    assert set(written.renamed.values()) <= set(held)
    loaded = compat.load(target.getvalue())
    assert list(loaded) == names
    assert [int(tensor[0]) for tensor in loaded.values()] == list(range(len(names)))


@pytest.mark.parametrize("name", ["../up", "/abs", "a.npy", "", " ", "ä\n", "a" * 300, "compat.layout", "C:\\x"])
def test_odd_names_come_back_and_lead_nowhere(name: str, tmp_path: Path) -> None:
    compat.save({name: torch.ones(1), "b": torch.zeros(1)}, tmp_path / "m.npz")
    assert list(compat.load(tmp_path / "m.npz")) == [name, "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_copies_keeps_its_tree(save: Any) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    base = torch.arange(6.0)
    compat.save({"a": base[:4], "b": [base[2:], torch.ones(2, dtype=torch.bfloat16)], "n": 1}, first, format="npz")
    with np.load(io.BytesIO(first.getvalue())) as archive:
        save(second, **archive)
    loaded = compat.load(second.getvalue())
    assert loaded["n"] == 1
    assert loaded["b"][1].dtype == torch.bfloat16
    loaded["a"][2] = 9.0
    assert loaded["b"][0][0] == 9.0


def test_an_array_that_another_tool_changed_is_told_from_damage() -> None:
    target = io.BytesIO()
    compat.save({"a": torch.ones(2, 3), "n": 1}, target, format="npz")
    with np.load(io.BytesIO(target.getvalue())) as archive:
        arrays = dict(archive)
    for changed in (np.asfortranarray(arrays["a"]), arrays["a"].astype(">f4"), np.array(["a"])):
        again = io.BytesIO()
        np.savez(again, allow_pickle=False, **{**arrays, "a": changed})
        with pytest.raises(Corrupt, match=r"Without the array compat.layout, the arrays are read alone"):
            compat.load(again.getvalue())
    del arrays["compat.layout"]
    again = io.BytesIO()
    np.savez(again, allow_pickle=False, **{**arrays, "a": np.asfortranarray(arrays["a"])})
    assert compat.load(again.getvalue())["a"].stride() == (1, 2)


def test_an_archive_of_nothing() -> None:
    target = io.BytesIO()
    np.savez(target)
    assert compat.load(target.getvalue()) == {}
    target = io.BytesIO()
    compat.save({}, target, format="npz")
    assert np.load(io.BytesIO(target.getvalue())).files == []


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    class Touched:
        def __reduce__(self) -> Any:
            return (exec, ("raise SystemExit('executed')",))

    np.savez(tmp_path / "o.npz", a=np.ones(1), o=np.array([Touched()], dtype=object))
    with pytest.raises(Unsupported, match=r"'o\.npy' holds Python objects") as caught:
        compat.open(tmp_path / "o.npz")
    assert caught.value.paths == ["o.npy"]
    deep = [("n", "i4"), ("p", [("q", "O", (2,))])]
    np.savez(tmp_path / "s.npz", s=np.zeros(1, dtype=deep))
    with pytest.raises(Unsupported, match="holds Python objects"):
        compat.open(tmp_path / "s.npz")
    # A field may be called so.
    np.savez(tmp_path / "f.npz", s=np.zeros(1, dtype=[("O", "f4"), ("object", "i4")]))
    with compat.open(tmp_path / "f.npz") as checkpoint:
        assert isinstance(checkpoint.tree["s"], Opaque)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", "", "ü\0b"]),
        np.array("zero-dim"),
        np.array([["a", "b", "c"], ["d", "e", "f"]], order="F"),
        np.array(["a", "b"]).astype(">U3"),
        np.array([b"a", b"\xff\x00b"]),
        np.array([1.5, 2.5], dtype=np.longdouble),
        np.array([b"ab"], dtype="V2"),
        np.zeros((0, 2), "U4"),
    ],
    ids=["text", "scalar", "fortran", "big", "bytes", "longdouble", "void", "empty"],
)
def test_arrays_that_torch_lacks_come_as_numpys(array: Any, save: Any, tmp_path: Path) -> None:
    save(tmp_path / "m.npz", weight=np.ones(2), classes=array)
    loaded = compat.load(tmp_path / "m.npz")
    assert isinstance(loaded["weight"], torch.Tensor)
    assert (loaded["classes"].dtype, loaded["classes"].shape) == (array.dtype, array.shape)
    assert loaded["classes"].tobytes() == array.tobytes()
    # Beside tensors, only compat sees it again.
    compat.save(loaded, tmp_path / "again.npz")
    assert compat.load(tmp_path / "again.npz")["classes"].tobytes() == array.tobytes()


def test_bfloat16_of_another_library_keeps_its_bytes(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    np.savez(tmp_path / "m.npz", a=np.array([1, -2], dtype=ml_dtypes.bfloat16))
    loaded = compat.load(tmp_path / "m.npz")["a"]
    assert loaded.dtype == np.load(tmp_path / "m.npz")["a"].dtype == np.dtype("V2")
    assert loaded.view(ml_dtypes.bfloat16).tolist() == [1.0, -2.0]


def test_dates_and_structures_are_listed(tmp_path: Path) -> None:
    arrays = {
        "date": np.array(["2026-01-01"], dtype="datetime64[D]"),
        "structure": np.zeros(2, dtype=[("n", "i4"), ("x", "f8")]),
        "latin": np.zeros(2, dtype=[("ä", "f4")]),
        "beyond": np.zeros(2, dtype=[("字", "f4")]),
        "many": np.zeros(2, dtype=[(f"field{n}", "f4") for n in range(4000)]),
    }
    with warnings.catch_warnings():
        # Numpy says that headers of version 2.0 and 3.0 are news to old readers.
        warnings.simplefilter("ignore", UserWarning)
        save: Any = np.savez  # its keywords are names of arrays, and options of later releases
        save(tmp_path / "m.npz", number=np.ones(2), **arrays)
    with compat.open(tmp_path / "m.npz") as checkpoint:
        assert list(checkpoint.tensors) == ["number"]
        assert all(isinstance(checkpoint.tree[name], Opaque) for name in arrays)
        assert checkpoint.tree["date"].kwargs == {"dtype": "<M8[D]", "shape": (1,)}
    with pytest.raises(UnsafeGlobals, match=r"numpy\.ndarray at date"):
        compat.load(tmp_path / "m.npz")
    assert compat.load(tmp_path / "m.npz", on_unknown="keep")["number"].tolist() == [1, 1]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_opening_reads_the_headers_alone(save: Any) -> None:
    class Counting(BytesSource):
        count = 0

        def _fill(self, offset: int, target: memoryview) -> int:
            self.count += target.nbytes
            return super()._fill(offset, target)

    target = io.BytesIO()
    numbers = np.random.default_rng(0).random(100_000)
    save(target, **{f"a{number}": numbers for number in range(20)})
    source = Counting(target.getvalue(), "counted")
    with compat.open(source) as checkpoint:
        assert len(checkpoint.tensors) == 20
    assert source.count < 256 * 1024


def archive(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as written:
        for name, content in members.items():
            written.writestr(name, content)
    return target.getvalue()


GOOD = header_of("float32", (2,))


def header(text: str, version: int = 1) -> bytes:
    raw = text.encode("latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(raw)) + raw


@pytest.mark.parametrize(
    "descr",
    ["'<f4'", "'=f4'", "'f4'", "'|f4'", "'float32'", "u'<f4'"],
    ids=["little", "native", "bare", "none", "name", "2"],
)
@pytest.mark.parametrize("shape", ["(2,)", "(2L,)", "( 2 , )"])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_headers_of_other_writers(descr: str, shape: str, version: int) -> None:
    text = f"{{'shape': {shape}, 'descr': {descr}, 'fortran_order': False}}\n"
    content = header(text, version) + struct.pack("<2f", 1, 2)
    assert compat.load(archive({"a.npy": content}))["a"].tolist() == [1.0, 2.0]


DAMAGED = {
    "short": (GOOD + b"\0" * 7, "has 7 bytes; expected 8"),
    "long": (GOOD + b"\0" * 9, "has 9 bytes; expected 8"),
    "cut": (GOOD[:20], "has a header of"),
    "magic": (b"not an array", "begins with 6e 6f 74"),
    "nothing": (b"", "begins with"),
    "begun": (GOOD[:7], "has a header of version 1;"),
    "negative": (GOOD.replace(b"(2,)", b"(-2,)") + b"\0" * 8, "a dict of literals"),
    "sum": (GOOD.replace(b"(2,)", b"(1<<40,)") + b"\0" * 8, "a dict of literals"),
    "large": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}"), "expected 399,999,999,996"),
    "beyond": (header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (0, {1 << 62}, 8)}}"), "has the shape"),
    "dimensions": (header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1,' * 65})}}"), "has the shape"),
    "flag": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}") + b"\0" * 4, "has the shape"),
    "call": (GOOD.replace(b"'<f4'", b"open('x')") + b"\0" * 8, "a dict of literals"),
    "import": (GOOD.replace(b"'<f4'", b"__import__('os')") + b"\0" * 8, "a dict of literals"),
    "keys": (header("{'descr': '<f4', 'fortran_order': False}"), "descr, fortran_order and shape"),
    "more": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (0,), 'x': 1}"), "and shape"),
    "number": (header("{'descr': 4, 'fortran_order': False, 'shape': (0,)}"), "descr, fortran_order and shape"),
    "deep": (GOOD.replace(b"{", b"(" * 60) + b"\0" * 8, "a dict of literals"),
    "version": (b"\x93NUMPY\x09\x00" + GOOD[8:] + b"\0" * 8, "version 9.0"),
    "length": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + GOOD[10:] + b"\0" * 8, "a header of 4,294,967,295"),
    "unicode": (header("{'descr': '\xff', 'fortran_order': False, 'shape': (0,)}", 3), "no text"),
    "text": (header("{'descr': '<U4', 'fortran_order': False, 'shape': (9999,)}"), "shape .9999,. has 0 bytes"),
}


@pytest.mark.parametrize(
    ("content", "said"),
    [pytest.param(*made, id=name) for name, made in DAMAGED.items()],
)
def test_a_damaged_array_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(Corrupt, match=said):
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
