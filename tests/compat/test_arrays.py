"""Numpy arrays, scalars and dtypes inside checkpoints: read without importing, written, converted, refused."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compat
from compat import arrays
from compat.checkpoint import NumpyArray, NumpyDType, Opaque
from compat.errors import CompatError, Corrupt, MissingDependency, UnsafeGlobals, Unsupported
from tests.compat.making import dumped, name, number, text, torch_dumped, zipped
from tests.compat.telling import told

CODES: tuple[str, ...] = (
    "?",
    "i1",
    "u1",
    "i2",
    "u2",
    "i4",
    "u4",
    "i8",
    "u8",
    "f2",
    "f4",
    "f8",
    "c8",
    "c16",
    "S3",
    "U2",
    "V3",
)
if np.dtype("g").itemsize == 16:
    CODES += ("g", "G")


def of(code: str) -> np.ndarray:
    if code.startswith("V"):
        return np.frombuffer(bytearray(range(12)), code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array([0, 1, 250, 3]).astype(code)


VALUES: dict[str, Any] = {f"of {code}": of(code) for code in CODES}
VALUES |= {f"big-endian {code}": of(code).astype(f">{code}") for code in ("i2", "f8", "c8", "U2")}
VALUES |= {
    "in Fortran order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "a view": np.arange(12.0).reshape(3, 4)[:, ::2],
    "transposed text": np.array(["a", "bc"] * 12).astype("S3").reshape(2, 3, 4).transpose(1, 0, 2),
    "transposed": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "without dimensions": np.array(3.5),
    "without elements": np.zeros((0, 3), "i4"),
    "NaNs and zeros": np.array([np.nan, -0.0, np.inf]),
}
SCALARS: dict[str, Any] = {
    f"a {kind.__name__}": kind(1)
    for kind in (np.float64, np.float32, np.float16, np.int64, np.int8, np.uint16, np.bool_, np.complex64, np.str_)
}
SCALARS |= {
    "bytes": np.bytes_(b"a\0b"),
    "text": np.str_("é☃"),
    "a dtype": np.dtype("f4"),
    "a wide dtype": np.dtype(">U7"),
}
RNG = {"the state of a generator": np.random.RandomState(3).get_state()}
ALL = VALUES | SCALARS | RNG


def in_order(value: Any) -> Any:
    """What numpy makes of an array whose bytes were pickled apart from it: one of this machine's byte order."""
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        return value.astype(value.dtype.newbyteorder("="))
    return value


def by_torch(file: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(file), weights_only=False)


def plain(value: Any) -> Any:
    """Told without which of the orders the elements lie in, where it is neither C nor Fortran."""
    if not isinstance(value, np.ndarray) or value.flags.c_contiguous or value.flags.f_contiguous:
        return told(value)
    return told(np.array(value, order="C"))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("key", ALL)
def test_what_numpy_pickled_is_read(key: str, protocol: int) -> None:
    for zipped_ in (True, False):
        file = torch_dumped({"x": ALL[key]}, zipped=zipped_, protocol=protocol)
        loaded = compat.load(file)["x"]
        assert told(loaded) == plain(by_torch(file)["x"])
        assert told(loaded) in (plain(ALL[key]), plain(in_order(ALL[key])))


@pytest.mark.parametrize("format", ["torch-zip", "torch-legacy", "safetensors"])
@pytest.mark.parametrize("key", ALL)
def test_what_compat_saved_comes_back(key: str, format: str) -> None:  # noqa: A002 - the field's word
    value = {"x": ALL[key], "t": torch.ones(2)}
    file = dumped(value, format)
    loaded = compat.load(file)
    assert told(loaded["x"]) == plain(value["x"])
    if format != "safetensors":
        # Of big-endian arrays torch's reader gives copies that cannot be written to.
        again = by_torch(file)["x"]
        frozen = isinstance(again, np.ndarray) and not again.flags.writeable
        assert told(again.copy() if frozen else again) == plain(value["x"])


@pytest.mark.parametrize("key", ALL)
def test_conversion_keeps_it(key: str, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(torch_dumped({"x": ALL[key], "t": torch.ones(2)}, protocol=5))
    compat.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    compat.convert(tmp_path / "b.safetensors", tmp_path / "c", to="torch-legacy")
    compat.convert(tmp_path / "c", tmp_path / "d.pt")
    assert not compat.diff(tmp_path / "a.pt", tmp_path / "d.pt")


def test_a_difference_is_seen() -> None:
    base = np.arange(4.0)
    others = [base.astype("f4"), base.reshape(2, 2), base + 1, base.astype(">f8"), base[:3], np.float64(1), [0.0]]
    for other in others:
        assert compat.diff(dumped({"x": base}), dumped({"x": other})), other
    assert not compat.diff(dumped({"x": base}), dumped({"x": base.copy()}))
    assert compat.diff(dumped({"x": np.float64(0.0)}), dumped({"x": np.float64(-0.0)}))


def test_an_array_held_twice_stays_one() -> None:
    array = np.arange(3)
    for file in (torch_dumped([array, array]), dumped([array, array])):
        loaded = compat.load(file)
        assert loaded[0] is loaded[1]
        loaded[0][0] = 7
        assert array[0] == 0


def test_scalars_may_be_keys_and_arrays_may_not() -> None:
    state = {np.int64(3): "a", (np.float32(1.5), "x"): 2}
    assert compat.load(torch_dumped(state)) == compat.load(dumped(state)) == state
    body = b"}" + array_of(b"\x85".join([b"K\2", b""])) + b"K\1s"
    for on_unknown in ("refuse", "keep"):
        with pytest.raises(Unsupported, match="used as a key"):
            compat.load(zipped(body), on_unknown=on_unknown)


def dtype_of(code: str = "f4", order: str = "<", rest: bytes = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0") -> bytes:
    return name("numpy.dtype") + text(code) + b"\x89\x88\x87R(K\3" + text(order) + rest + b"tb"


def array_of(
    shape: bytes = b"K\2\x85",
    dtype: bytes | None = None,
    data: bytes = b"C\x08" + bytes(8),
    kind: str = "numpy.ndarray",
) -> bytes:
    empty = name("numpy.core.multiarray._reconstruct") + name(kind) + b"K\0\x85C\1b\x87R"
    return empty + b"(K\1" + shape + (dtype_of() if dtype is None else dtype) + b"\x89" + data + b"tb"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (array_of(b"K\3\x85"), "has 8 bytes"),
        (array_of(data=b"C\7" + bytes(7)), "has 7 bytes"),
        (array_of(b"J\xff\xff\xff\xff\x85"), "shape"),
        (array_of(number(1 << 70) + b"\x85"), "shape"),
        (array_of(b"(" + b"K\1" * 65 + b"t"), "shape"),
        (array_of(b"\x88\x85"), "shape"),
        (array_of(b"N"), "shape"),
        (array_of(data=b"K\1"), "made of 1"),
        (array_of(data=b"]"), "made of"),
        (name("numpy.core.multiarray.scalar") + dtype_of() + b"C\3abc\x86R", "has 3 bytes"),
        (name("numpy.core.numeric._frombuffer") + b"(C\4abcd" + dtype_of() + b"K\1\x85" + text("K") + b"tR", "order"),
    ],
)
def test_parts_that_do_not_fit_are_refused(body: bytes, message: str) -> None:
    assert compat.load(zipped(array_of())).tolist() == [0, 0]
    with pytest.raises(Corrupt, match=message):
        compat.open(zipped(body))


@pytest.mark.parametrize(
    "dtype",
    [
        dtype_of("O8", "|"),
        dtype_of("M8"),
        dtype_of("m8"),
        dtype_of("V8", "|", b"N" + text("a") + b"\x85}K\x08K\1K\0"),
        dtype_of("S0", "|"),
        dtype_of("f3"),
        dtype_of("f4", "="),
        dtype_of("f4", "|"),
        dtype_of("i1", "<"),
        dtype_of("f" + "4" * 10_000),
        dtype_of("S999999999", "|"),
        name("numpy.dtype") + text("f4") + b"\x89\x88\x87R",
        name("numpy.dtype") + b")R",
        b"N",
    ],
)
def test_what_is_not_plain_stays_opaque_and_is_listed(dtype: bytes) -> None:
    file = zipped(b"}" + text("odd") + array_of(dtype=dtype) + b"s")
    with pytest.raises(UnsafeGlobals, match=r"numpy\.core\.multiarray\._reconstruct at odd"):
        compat.load(file)
    assert isinstance(compat.load(file, on_unknown="keep")["odd"], Opaque)


STRUCTURE = np.zeros(2, [("a", "i4"), ("b", "f8", (2,))])
ODD: dict[str, Any] = {
    "an object array": np.array([1, "a", None], dtype=object),
    "a structure": STRUCTURE,
    "a record": np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "a field of a structure": STRUCTURE[0],
    "dates": np.array(["2020-01-01"], dtype="M8[D]"),
    "a time span": np.timedelta64(3, "s"),
    "a masked array": np.ma.array([1, 2], mask=[False, True]),
    "a dtype of a structure": STRUCTURE.dtype,
    "a generator": np.random.default_rng(0),
}


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("key", ODD)
def test_the_others_stay_opaque_too(key: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(torch_dumped({"rest": np.arange(2), "odd": ODD[key]}, protocol=protocol))
    with pytest.raises(UnsafeGlobals, match=r"numpy.* at odd"):
        compat.load(path)
    loaded = compat.load(path, on_unknown="keep")
    assert loaded["rest"].tolist() == [0, 1]
    compat.convert(path, tmp_path / "y.pt")
    assert not compat.diff(path, tmp_path / "y.pt")
    with pytest.raises(Unsupported):
        compat.convert(path, tmp_path / "y.safetensors")


@pytest.mark.parametrize("key", [key for key in ODD if key != "a generator"])
def test_they_are_not_saved(key: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"odd is a numpy\."):
        compat.save({"odd": ODD[key]}, tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


def test_a_class_of_numpy_is_no_array() -> None:
    file = zipped(array_of(kind="somebody.ndarray"))
    with pytest.raises(UnsafeGlobals, match=r"somebody\.ndarray"):
        compat.load(file)
    assert isinstance(compat.load(file, on_unknown="keep"), Opaque)


def test_without_numpy_the_file_is_still_open_to_all_but_a_load(monkeypatch: pytest.MonkeyPatch) -> None:
    file = zipped(array_of())
    monkeypatch.setitem(sys.modules, "numpy", None)
    with compat.open(file) as checkpoint:
        assert isinstance(checkpoint.tree, NumpyArray)
        assert repr(checkpoint.tree) == "<numpy array <f4 (2,)>"
    assert not compat.diff(file, file)
    with pytest.raises(MissingDependency, match="numpy"):
        compat.load(file)


def test_the_whole_width_of_what_is_claimed_can_be_made() -> None:
    """The table of element types holds nothing that numpy refuses, and everything plain that it has."""
    for kind, widths in arrays._WIDTHS.items():
        for width in widths:
            code = f"{kind}{width}"
            if code in {"f16", "c32"} and np.dtype("g").itemsize != 16:
                continue
            dtype = np.dtype(code).str
            assert arrays.itemsize(dtype) == width
            assert arrays.live(NumpyDType(dtype), "x") == np.dtype(code)
    plain = {np.dtype(code).str for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"}
    assert all(arrays.itemsize(dtype) for dtype in plain)


def test_text_beyond_unicode_is_refused_as_a_scalar() -> None:
    dtype = dtype_of("U1", "<", b"NNNK\4K\4K\0")
    body = name("numpy.core.multiarray.scalar") + dtype + b"C\4\xff\xff\xff\xff\x86R"
    with pytest.raises(Corrupt, match="no numpy value"):
        compat.load(zipped(body))


@pytest.mark.parametrize("content", [b"\x8e", b"\x96", b"T"])
def test_an_array_whose_bytes_are_used_again_and_again_is_refused(content: bytes) -> None:
    """Each of them would have its own copy: a small file would fill any memory."""
    size = 100_000
    data = content + size.to_bytes(4 if content == b"T" else 8, "little") + b"x" * size
    made = name("numpy.core.multiarray._reconstruct") + name("numpy.ndarray") + b"K\0\x85C\1b\x87R"
    state = b"(K\1" + number(size // 4) + b"\x85h\1\x89h\0tb"
    body = data + b"q\0" + dtype_of() + b"q\1](" + (made + state) * 1000 + b"e"
    with pytest.raises(Corrupt, match="over and over"):
        compat.open(zipped(body))


def test_a_tensor_of_a_device_that_is_made_again_and_again_is_refused() -> None:
    size = 100_000
    array = array_of(number(size // 4) + b"\x85", data=b"\x8e" + size.to_bytes(8, "little") + b"x" * size) + b"q\0"
    call = name("torch._utils._rebuild_xla_tensor") + b"(h\0" + name("torch.float32") + text("xla:0") + b"\x89tR"
    with pytest.raises(Corrupt, match="over and over"):
        compat.open(zipped(array + b"](" + call * 1000 + b"e"))


def test_damage_gives_an_error_of_ours_or_a_value() -> None:
    file = torch_dumped({"x": np.arange(4.0), "s": np.float32(1), "u": np.array(["ab"])}, zipped=False)
    for at in range(len(file)):
        for bit in (0, 5):
            broken = bytearray(file)
            broken[at] ^= 1 << bit
            try:
                compat.load(bytes(broken), on_unknown="keep")
            except CompatError:
                continue
