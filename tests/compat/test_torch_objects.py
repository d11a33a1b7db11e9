"""Every kind of object that torch saves, in every container and pickle protocol, against what torch reads back."""

from __future__ import annotations

import contextlib
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import compat
from compat.checkpoint import Opaque
from compat.errors import CompatError, UnsafeGlobals, Unsupported
from tests.compat.making import dumped, storage_of, torch_dumped
from tests.compat.telling import all_bytes, told

# A class of torch's own tests, made of two tensors.
TWO_TENSORS: Any = pytest.importorskip("torch.testing._internal.two_tensor")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),
    pytest.mark.filterwarnings("ignore:.*quantized:DeprecationWarning"),
]


def with_attribute(made: Any) -> Any:
    made.note = ["kept", 1]
    return made


def two_rows(**kwargs: Any) -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2, 2), torch.full((3, 2), 2.0)], **kwargs)


def typed_storage(of: Any) -> Any:
    return of.storage()


def wrapped() -> Any:
    return TWO_TENSORS.TwoTensor(BASE, BASE + 1)


def sharing_offsets() -> list[torch.Tensor]:
    one: Any = two_rows(layout=torch.jagged)
    return [one, torch.nested.nested_tensor_from_jagged(torch.arange(5.0), one.offsets())]


BASE = torch.arange(12.0).reshape(3, 4)
EYE = torch.eye(4)
SCALES, POINTS = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), torch.tensor([0, 1, 2])
FLOAT_SCALES, FLOAT_POINTS = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.0, 1, 2])
COMPLEX = torch.tensor([1 + 2j, 3 - 4j])
OBJECTS: dict[str, Callable[[], Any]] = {
    "sparse COO": EYE.to_sparse,
    "sparse COO, uncoalesced": lambda: torch.sparse_coo_tensor(torch.tensor([[0, 0], [1, 1]]), [1.0, 2.0], (2, 2)),
    "sparse COO, hybrid": lambda: torch.sparse_coo_tensor(torch.tensor([[0, 1]]), torch.ones(2, 3), (4, 3)),
    "sparse COO, empty": lambda: torch.sparse_coo_tensor(torch.empty(2, 0, dtype=torch.long), [], (2, 2)),
    "sparse COO Parameter": lambda: torch.nn.Parameter(EYE.to_sparse()),
    "sparse COO with an attribute": lambda: with_attribute(EYE.to_sparse()),
    "sparse CSR": EYE.to_sparse_csr,
    "sparse CSC": EYE.to_sparse_csc,
    "sparse BSR": lambda: EYE.to_sparse_bsr((2, 2)),
    "sparse BSC": lambda: EYE.to_sparse_bsc((2, 2)),
    "quantized": lambda: torch.quantize_per_tensor(BASE, 0.5, 3, torch.qint8),
    "quantized, of 32 bits": lambda: torch.quantize_per_tensor(BASE, 0.5, 3, torch.qint32),
    "quantized, a view": lambda: torch.quantize_per_tensor(BASE, 0.5, 3, torch.quint8).t()[1:],
    "quantized with an attribute": lambda: with_attribute(torch.quantize_per_tensor(BASE, 0.5, 3, torch.qint8)),
    "quantized per channel": lambda: torch.quantize_per_channel(BASE, SCALES, POINTS, 0, torch.qint8),
    "quantized per channel, floats": lambda: torch.quantize_per_channel(
        BASE, FLOAT_SCALES, FLOAT_POINTS, 0, torch.quint8
    ),
    "quantized in half bytes": lambda: torch.quantize_per_channel(BASE, FLOAT_SCALES, FLOAT_POINTS, 0, torch.quint4x2),
    "conj": COMPLEX.conj,
    "neg": lambda: COMPLEX.conj().imag,
    "conj and not": lambda: [COMPLEX.conj(), COMPLEX],
    "nested": two_rows,
    "jagged": lambda: two_rows(layout=torch.jagged),
    "jagged, with a gradient": lambda: two_rows(layout=torch.jagged, requires_grad=True),
    "jagged, two of one shape": sharing_offsets,
    "Parameter": lambda: torch.nn.Parameter(BASE.clone(), requires_grad=False),
    "Parameter with an attribute": lambda: with_attribute(torch.nn.Parameter(BASE.clone())),
    "tensor with an attribute": lambda: with_attribute(BASE.clone()),
    "Buffer": lambda: torch.nn.Buffer(BASE.clone(), persistent=False),
    "untyped storage": lambda: [storage_of(BASE), BASE],
    "typed storage": lambda: [typed_storage(BASE.clone()), 1],
    "meta": lambda: {"m": torch.empty(2, 3, device="meta"), "p": torch.nn.Parameter(torch.empty(2, device="meta"))},
    "constants": lambda: [torch.Size([1, 2]), torch.float8_e5m2, torch.sparse_csr, torch.device("cpu"), torch.qint8],
    "schemes": lambda: [torch.per_tensor_affine, torch.per_channel_affine_float_qparams, torch.strided],
    "values": lambda: [
        {1, 2},
        frozenset([3]),
        1 + 2j,
        b"\xff\0",
        bytearray(b"ab"),
        1 << 200,
        -(1 << 200),
        2.5,
        None,
        "",
    ],
    "a view of a storage": lambda: {"a": BASE[1:], "b": BASE.t(), "c": BASE[:, 1:3]},
}


def made(key: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return OBJECTS[key]()


def read_by_torch(file: bytes) -> Any:
    """What torch reads without executing anything; None where it cannot, nothing where it is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return told(torch.load(io.BytesIO(file), weights_only=True))
        except Exception:  # noqa: BLE001 - torch refuses in many ways
            return None


def saved(key: str, protocol: int, *, zipped: bool) -> bytes:
    value = made(key)
    # A storage and a tensor of it cannot stand in one file by torch's own rule.
    value = value[:1] if key in {"untyped storage", "typed storage"} else value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch_dumped(value, zipped=zipped, protocol=protocol)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("key", OBJECTS)
def test_an_object_that_torch_wrote_is_read(key: str, zipped: bool, protocol: int) -> None:
    file = saved(key, protocol, zipped=zipped)
    value = made(key)
    expected = told(value[:1] if key in {"untyped storage", "typed storage"} else value)
    loaded = told(compat.load(file))
    assert loaded == expected
    if comparable(key, zipped=zipped):
        assert read_by_torch(file) in (None, loaded)


def comparable(key: str, *, zipped: bool) -> bool:
    """Whether torch gives back what it was given.

    It makes nested tensors of legacy files before their bytes are there, and so reads what memory holds; an
    untyped storage of a zip file comes back typed.
    """
    return not (key == "nested" and not zipped) and not (key == "untyped storage" and zipped)


def test_an_untyped_storage_has_the_bytes_that_torch_reads() -> None:
    file = saved("untyped storage", 2, zipped=True)
    (by_torch,) = torch.load(io.BytesIO(file), weights_only=True)
    assert isinstance(by_torch, torch.storage.TypedStorage)
    assert all_bytes(by_torch._untyped_storage) == all_bytes(compat.load(file)[0])


def test_torch_reads_most_of_them_itself() -> None:
    """Otherwise the comparison above would compare nothing."""
    read = [key for key in OBJECTS if read_by_torch(saved(key, 2, zipped=True)) is not None]
    assert len(read) > len(OBJECTS) - 6, sorted(set(OBJECTS) - set(read))


@pytest.mark.parametrize("format", ["torch-zip", "torch-legacy"])
@pytest.mark.parametrize("key", OBJECTS)
def test_an_object_that_compat_wrote_is_read_by_both(key: str, format: str) -> None:  # noqa: A002 - the field's word
    value = made(key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = dumped(value, format)
    assert told(compat.load(file)) == told(value)
    if comparable(key, zipped=format == "torch-zip"):
        assert read_by_torch(file) in (None, told(value))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("key", OBJECTS)
def test_conversion_keeps_it(key: str, zipped: bool, tmp_path: Path) -> None:
    source, other, back = (tmp_path / part for part in "abc")
    source.write_bytes(saved(key, 2, zipped=zipped))
    compat.convert(source, other, to="torch-legacy" if zipped else "torch-zip")
    compat.convert(other, back, to="torch-zip" if zipped else "torch-legacy")
    assert not compat.diff(source, back)
    assert told(compat.load(back)) == told(compat.load(source))


@pytest.mark.parametrize("key", [key for key in OBJECTS if key not in {"untyped storage", "typed storage"}])
def test_on_the_meta_device_it_is_what_torch_makes_or_refused_by_type(key: str) -> None:
    file = saved(key, 2, zipped=True)
    expected = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Which of them torch refuses, and by what, differs from release to release.
        with contextlib.suppress(NotImplementedError, RuntimeError, pickle.UnpicklingError):
            expected = torch.load(io.BytesIO(file), weights_only=key != "values", map_location="meta")
        if expected is None and not reads_on_meta(file):
            with pytest.raises(Unsupported, match="on this device"):
                compat.load(file, map_location="meta")
            return
        loaded = compat.load(file, map_location="meta")
    kinds = on_devices(loaded)
    assert {device for _, _, device in kinds} <= {torch.device("meta")}
    if expected is not None:
        assert kinds == on_devices(expected)


def reads_on_meta(file: bytes) -> bool:
    try:
        compat.load(file, map_location="meta")
    except CompatError:
        return False
    return True


def on_devices(loaded: Any) -> list[tuple[type, torch.layout, torch.device]]:
    listed = loaded if isinstance(loaded, list) else [loaded]
    return [(type(v), v.layout, v.device) for v in listed if isinstance(v, torch.Tensor)]


def test_memory_formats_are_read_from_the_protocols_that_can_say_them() -> None:
    for protocol in (4, 5):
        assert compat.load(torch_dumped([torch.channels_last], protocol=protocol)) == [torch.channels_last]
    assert compat.load(dumped([torch.channels_last])) == [torch.channels_last]


# What compat cannot hold


class Sub(torch.Tensor):
    """A class that no other interpreter has."""


def subclassed() -> dict[str, Any]:
    return {"s": BASE.as_subclass(Sub)[1:], "plain": BASE}


@pytest.mark.parametrize("format", ["torch-zip", "torch-legacy"])
def test_a_subclass_is_named_and_its_tensor_is_read(format: str, tmp_path: Path) -> None:  # noqa: A002 - as above
    path = tmp_path / "x.pt"
    path.write_bytes(torch_dumped(subclassed(), zipped=format == "torch-zip"))
    with pytest.raises(UnsafeGlobals, match=r"Sub at s\.subclass"):
        compat.load(path)
    with compat.open(path) as checkpoint:
        assert list(checkpoint.tensors) == ["s", "plain"]
        assert any("s was saved as a " in note and "Sub" in note for note in checkpoint.notes)
    loaded = compat.load(path, on_unknown="keep")
    assert type(loaded["s"]) is torch.Tensor
    assert told(loaded) == told({"s": BASE[1:], "plain": BASE})
    compat.convert(path, tmp_path / "y.pt", to=format)
    assert not compat.diff(path, tmp_path / "y.pt")
    assert type(torch.load(tmp_path / "y.pt", weights_only=False)["s"]) is Sub
    assert compat.diff(path, io.BytesIO(dumped({"s": BASE[1:], "plain": BASE}))).facets() == {"subclass"}
    with pytest.raises(Unsupported, match="Sub, a class that the format cannot name"):
        compat.convert(path, tmp_path / "z.safetensors")


OPAQUE: dict[str, Callable[[], Any]] = {
    "a wrapper subclass": wrapped,
    "a Parameter of a wrapper subclass": lambda: torch.nn.Parameter(wrapped()),
    "an uninitialized Parameter": torch.nn.UninitializedParameter,
    "an uninitialized Buffer": torch.nn.parameter.UninitializedBuffer,
    "a Generator": torch.Generator,
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("key", OPAQUE)
def test_the_rest_stays_opaque_and_is_listed(key: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(torch_dumped({"rest": BASE, "odd": OPAQUE[key]()}, protocol=protocol))
    with pytest.raises(UnsafeGlobals, match=r"at odd"):
        compat.load(path)
    loaded = compat.load(path, on_unknown="keep")
    assert told(loaded["rest"]) == told(BASE)
    assert isinstance(loaded["odd"], Opaque)
    with compat.open(path) as checkpoint:
        inside = [t for n, t in checkpoint.tensors.items() if n != "rest"]
    assert len(inside) == {"a wrapper subclass": 2, "a Parameter of a wrapper subclass": 2, "a Generator": 1}.get(
        key, 0
    )
    compat.convert(path, tmp_path / "y.pt", to="torch-zip")
    assert not compat.diff(path, tmp_path / "y.pt")


def test_what_compat_writes_of_opaque_objects_torch_reads_as_before(tmp_path: Path) -> None:
    torch.save(wrapped(), tmp_path / "x.pt")
    compat.convert(tmp_path / "x.pt", tmp_path / "y.pt")
    back = torch.load(tmp_path / "y.pt", weights_only=False)
    assert type(back) is TWO_TENSORS.TwoTensor
    assert torch.equal(back.b, BASE + 1)


# Damage


def damaged(file: bytes) -> Iterator[bytes]:
    yield from (file[:size] for size in range(0, len(file), max(1, len(file) // 40)))
    for at in range(0, len(file), max(1, len(file) // 150)):
        changed = bytearray(file)
        changed[at] ^= 1 << at % 8
        yield bytes(changed)


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("key", ["jagged", "quantized per channel", "sparse CSR", "sparse COO with an attribute"])
def test_damage_gives_an_error_of_ours_or_a_value(key: str, container: str) -> None:
    file = saved(key, 2, zipped=container == "zip")
    right = told(made(key))
    for changed in damaged(file):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loaded = compat.load(changed, on_unknown="keep")
        except CompatError:
            continue
        # A zip archive has sums: what is read from it whole is right.
        if container == "zip" and isinstance(loaded, torch.Tensor):
            assert told(loaded) == right
