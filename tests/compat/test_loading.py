"""From files to live objects."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

import compat
from compat.errors import Corrupt, UnsafeGlobals, Unsupported
from tests.compat.making import FORMATS, carried, dumped, name, number, storage_id, tensor, text, torch_dumped, zipped


class Own:
    """An object that only real unpickling brings back."""


@pytest.mark.parametrize("way", ["path", "text", "file", "BytesIO", "bytes"])
def test_the_unsafe_door_takes_every_kind_of_source(way: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"x": Own(), "w": torch.ones(2)}, path)
    content = path.read_bytes()
    with path.open("rb") as opened:
        kinds: dict[str, Any] = {"path": path, "text": str(path), "file": opened, "bytes": content}
        source = kinds.get(way, io.BytesIO(content))
        loaded = compat.load(source, weights_only=False)
    assert isinstance(loaded["x"], Own)
    assert loaded["w"].tolist() == [1, 1]


def test_the_unsafe_door_stays_shut_unless_asked(tmp_path: Path) -> None:
    content = torch_dumped({"x": [Own()], "y": {"z": Own}})
    with pytest.raises(UnsafeGlobals) as caught:
        compat.load(content)
    assert {path for paths in caught.value.globals.values() for path in paths} == {"x.0", "y.z"}
    kept = compat.load(content, on_unknown="keep")
    assert kept["x"][0].name.endswith(".Own")
    with pytest.raises(ValueError, match='expected "refuse" or "keep"'):
        compat.load(content, on_unknown="drop")


def test_what_torch_cannot_unpickle_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="torch could not unpickle it"):
        compat.load(zipped(name("fractions.Fraction") + b"]\x85R", {"version": b"3\n"}), weights_only=False)


@pytest.mark.parametrize(
    "body",
    [
        b"}" + name("m.Key") + b")RK\x01s",
        b"}" + name("m.Key") + b"K\x01s",
        name("builtins.set") + b"](" + name("m.Key") + b")Re\x85R",
        name("builtins.frozenset") + b"](" + name("m.Key") + b"\x85e\x85R",
        name("collections.Counter") + b"}" + name("m.Key") + b"K\x01s\x85R",
    ],
)
def test_unknown_objects_hide_neither_in_keys_nor_in_sets(body: bytes) -> None:
    with pytest.raises(UnsafeGlobals, match=r"m\.Key"):
        compat.load(zipped(body))
    assert "m.Key" in str(next(iter(compat.load(zipped(body), on_unknown="keep"))))


@pytest.mark.parametrize(
    "body",
    [b"}" + tensor() + b"K\x01s", name("builtins.set") + b"](" + tensor() + b"e\x85R", b"}" + tensor() + b"\x85Ns"],
)
def test_a_tensor_as_a_key_is_refused(body: bytes) -> None:
    with pytest.raises(Unsupported, match="used as a key"):
        compat.open(zipped(body, {"data/0": bytes(16)}))


def test_attributes_do_not_act_on_the_tensor() -> None:
    """`setattr(tensor, "data", …)` would replace its content, `"grad"` and `"__class__"` raise."""
    rebuild = name("torch._utils._rebuild_parameter_with_state")
    names = ("data", "grad", "__class__", "requires_grad", "_backward_hooks", "note", "shape")
    state = b"}(" + b"".join(text(attribute) + b"K\x01" for attribute in names) + b"u"
    empty = name("collections.OrderedDict") + b")R"
    file = zipped(rebuild + b"(" + tensor() + b"\x88" + empty + state + b"tR", {"data/0": bytes(16)})
    loaded = compat.load(file)
    assert (loaded.tolist(), loaded.grad, loaded.note, type(loaded)) == ([0] * 4, None, 1, torch.nn.Parameter)


def test_a_tensor_with_attributes_that_is_held_twice_is_one_tensor() -> None:
    held = torch.ones(2)
    vars(held)["note"] = [1]
    for content in (torch_dumped([held, held]), dumped([held, held])):
        first, second = compat.load(content)
        assert first is second
        assert first.note == [1]


@pytest.mark.parametrize("wanted", ["xyz", "cpu:-3", "", "cuda:x"])
def test_a_device_that_torch_does_not_know_is_said(wanted: str) -> None:
    with pytest.raises(Unsupported, match="does not know"):
        compat.load(zipped(name("torch.device") + text(wanted) + b"\x85R"))


def test_whole_numbers_cannot_require_a_gradient() -> None:
    body = tensor(kind="torch.LongStorage", numel=2, shape=(2,)).replace(b"\x89", b"\x88")
    with pytest.raises(Corrupt, match="claims to require a gradient"):
        compat.load(zipped(body, {"data/0": bytes(16)}))


@pytest.mark.parametrize("name_", FORMATS)
@pytest.mark.parametrize(
    "place", [None, "cpu", torch.device("cpu"), {"cpu": "cpu"}, {"cuda": "cpu"}, "meta", {"cpu": "meta"}]
)
def test_map_location_means_the_same_on_every_format(name_: str, place: Any) -> None:
    state = {"a": torch.arange(4.0), "b": torch.arange(4.0)[::2]}
    loaded = compat.load(dumped(state, name_), map_location=place)
    on_meta = "meta" in str(place)
    assert {tensor.device.type for tensor in loaded.values()} == {"meta" if on_meta else "cpu"}
    assert [tensor.shape for tensor in loaded.values()] == [(4,), (2,)]


@pytest.mark.parametrize("name_", FORMATS)
def test_a_function_is_given_each_storage_and_its_place(name_: str) -> None:
    seen: list[tuple[int, str]] = []

    def place(storage: Any, tag: str) -> Any:
        seen.append((storage.nbytes(), tag))
        return storage

    compat.load(dumped({"a": torch.ones(4), "b": torch.ones(2)}, name_), map_location=place)
    assert seen == [(16, "cpu"), (8, "cpu")]


def test_a_map_location_of_another_kind_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="map_location is float"):
        compat.load(dumped({}), map_location=1.5)


def test_mapping_reads_what_reading_reads(tmp_path: Path) -> None:
    state = {"a": torch.arange(100.0), "t": torch.arange(6).reshape(2, 3).t(), "e": torch.empty(0), "n": 1}
    for form in FORMATS:
        path = tmp_path / form
        compat.save(state, path, format=form)
        assert str(compat.load(path, mmap=True)) == str(state)
        assert str(compat.load(path.read_bytes(), mmap=True)) == str(state)


@pytest.mark.parametrize(
    "parts",
    [
        {"indices": {"tensor": "a"}, "values": {"tensor": "a"}, "size": {"size": [1]}, "is_coalesced": True},
        {"indices": {"tensor": "a"}, "values": {"tensor": "a"}, "size": {"size": []}, "is_coalesced": False},
    ],
)
def test_parts_that_contradict_each_other_are_corrupt(parts: dict[str, Any]) -> None:
    composite = {"composite": {"kind": "sparse_coo", "requires_grad": False, "parameter": False}, "parts": parts}
    tree = {"dict": [["a", {"tensor": "a"}], ["c", composite]]}
    with pytest.raises(Corrupt, match="contradict"):
        compat.load(carried({"version": 1, "tree": tree, "tensors": {}, "storages": {}}))


def test_torch_is_needed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    content = dumped({"a": torch.ones(1)})
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(compat.MissingDependency, match=r"needs torch, which is not installed\. Install it with"):
        compat.load(content)
    with compat.open(content) as checkpoint:
        assert list(checkpoint.tensors) == ["a"]


def test_numbers_of_any_size_come_back() -> None:
    for value in (255, 256, -1, -256, 1 << 31, -(1 << 31), (1 << 31) - 1, 1 << 3000, -(1 << 3000)):
        for form in FORMATS:
            assert compat.load(dumped({"n": value}, form)) == {"n": value}
        assert compat.load(zipped(number(value))) == value


@pytest.mark.parametrize("place", [b"C\x01a))", b"K\x00])", b"K\x00(Nt)"])
def test_a_quantized_tensor_that_lies_nowhere_is_corrupt(place: bytes) -> None:
    begin = name("torch._utils._rebuild_qtensor") + b"(" + storage_id(kind="torch.QInt8Storage")
    params = b"(" + name("torch.per_tensor_affine") + b"G" + bytes(8) + b"K\x00t\x89Nt"
    with pytest.raises(Corrupt, match="a quantized tensor lies at"):
        compat.open(zipped(begin + place + params + b"R", {"data/0": bytes(4)}))


def test_a_composite_of_whole_numbers_cannot_require_a_gradient() -> None:
    sparse = torch.tensor([1]).to_sparse()
    content = dumped({"s": sparse}, "safetensors").replace(rb"requires_grad\":false", rb"requires_grad\":true ")
    with pytest.raises(Corrupt, match=r"s of torch\.int64 claims to require a gradient"):
        compat.load(content)
