"""Initializers of ONNX models, against the onnx library's own writer."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

import compat
from compat.dtypes import BY_ONNX
from compat.errors import CompatError, Corrupt
from compat.strided import element_bytes

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
REAL = Path(__file__).parents[3] / "shared" / "real"


def model(*initializers: Any) -> Any:
    graph = onnx.helper.make_graph([], "g", [], [], list(initializers))
    return onnx.helper.make_model(graph, producer_name="test")


def raw(name: str, number: int, shape: list[int], data: bytes) -> Any:
    made = onnx.TensorProto()
    made.name, made.data_type, made.raw_data = name, number, data
    made.dims.extend(shape)
    return made


@pytest.mark.parametrize("number", BY_ONNX)
def test_raw_data_of_every_type(number: int) -> None:
    dtype = BY_ONNX[number]
    data = bytes(range(3, 3 + 6 * dtype.itemsize))
    shape = [2, 3 * dtype.packed]
    with compat.open(model(raw("w", number, shape, data)).SerializeToString()) as checkpoint:
        record = checkpoint.tensors["w"]
        assert (record.dtype, record.shape) == (dtype.name, (2, 3))
        assert element_bytes(record) == data


@pytest.mark.parametrize(
    ("number", "values"),
    [
        (1, [1.5, -0.0, float("inf")]),
        (7, [1, -1, 1 << 40]),
        (6, [1, -1]),
        (2, [0, 255]),
        (9, [True, False]),
        (11, [0.1]),
        (13, [1 << 63]),
    ],
)
def test_typed_data(number: int, values: list[Any]) -> None:
    made = onnx.helper.make_tensor("w", number, [len(values)], values)
    assert not made.raw_data
    with compat.open(model(made).SerializeToString()) as checkpoint:
        expected = torch.tensor(values, dtype=getattr(torch, BY_ONNX[number].name))
        assert element_bytes(checkpoint.tensors["w"]) == bytes(expected.view(torch.uint8).tolist())


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    made = model(raw("a", 1, [300], b"\1" * 1200), raw("b", 1, [400], b"\2" * 1600))
    onnx.save_model(made, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0)
    loaded = compat.load(tmp_path / "m.onnx")
    assert loaded["b"].view(torch.uint8).tolist() == [2] * 1600


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "", "link"])
def test_external_data_cannot_lie_outside_the_folder(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret!!")
    (folder / "link").symlink_to(tmp_path / "secret")
    made = raw("a", 1, [2], b"")
    made.ClearField("raw_data")
    made.data_location = onnx.TensorProto.EXTERNAL
    made.external_data.add(key="location", value=location)
    (folder / "m.onnx").write_bytes(model(made).SerializeToString())
    with pytest.raises(Corrupt, match="leads out of its folder"):
        compat.open(folder / "m.onnx")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: raw("a", 1, [3], b"12345678"), "has 8 bytes; expected 12"),
        (lambda: raw("a", 1, [-1], b"1234"), r"has shape \[-1\]"),
    ],
)
def test_an_initializer_that_contradicts_itself_is_refused(made: Any, reason: str) -> None:
    with pytest.raises(Corrupt, match=reason):
        compat.open(model(made()).SerializeToString())


def test_two_initializers_of_one_name_are_refused() -> None:
    with pytest.raises(Corrupt, match="two initializers are named 'a'"):
        compat.open(model(raw("a", 1, [1], b"1234"), raw("a", 1, [1], b"1234")).SerializeToString())


def test_what_torch_has_no_tensor_for_is_listed() -> None:
    made = onnx.helper.make_tensor("text", onnx.TensorProto.STRING, [1], [b"hello"])
    with compat.open(model(made, raw("a", 1, [1], b"1234")).SerializeToString()) as checkpoint:
        assert checkpoint.tree["text"].kwargs == {"name": "text", "dims": (1,), "data_type": 8}
        assert list(checkpoint.tensors) == ["a"]


def test_every_truncation_is_refused_or_right() -> None:
    content = model(raw("a", 1, [2], b"12345678"), raw("b", 7, [1], b"12345678")).SerializeToString()
    for size in range(len(content)):
        with contextlib.suppress(CompatError), compat.open(content[:size]) as checkpoint:
            assert all(element_bytes(record) == b"12345678" for record in checkpoint.tensors.values())


def test_a_real_model_has_the_weights_of_its_checkpoint() -> None:
    if not REAL.is_dir():
        pytest.skip("no ../shared/real here")
    weights = compat.load_state_dict(REAL / "ultraface_slim_320.pth")
    initializers = compat.load(REAL / "ultraface_slim_320.onnx")
    assert all(torch.equal(tensor, initializers[name]) for name, tensor in weights.items())
    assert set(weights) == set(initializers)
