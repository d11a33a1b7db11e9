"""From live objects to files."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import compat
from compat.errors import Unsupported
from tests.compat.making import FORMATS, dumped, known_dtypes, raw, storage_of

CLASSIC = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
NEW = known_dtypes("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64", "float4_e2m1fn_x2")


def content(dtype: torch.dtype) -> torch.Tensor:
    """Every bit pattern that fits: NaNs with payload and -0.0 come free."""
    bits = torch.arange(256, dtype=torch.uint8) if dtype != torch.bool else torch.arange(256, dtype=torch.uint8) % 2
    return bits.view(dtype)


@pytest.mark.parametrize("dtype", CLASSIC, ids=str)
def test_torch_reads_every_classic_dtype(dtype: torch.dtype) -> None:
    for name in ("torch-zip", "torch-legacy"):
        loaded = torch.load(io.BytesIO(dumped({"a": content(dtype)}, name)), weights_only=True)["a"]
        assert loaded.dtype == dtype
        assert raw(loaded) == raw(content(dtype))


@pytest.mark.parametrize("dtype", NEW, ids=str)
def test_torch_reads_every_new_dtype_of_a_zip_file(dtype: torch.dtype) -> None:
    loaded = torch.load(io.BytesIO(dumped({"a": content(dtype)})), weights_only=True)["a"]
    assert loaded.dtype == dtype
    assert loaded.view(torch.uint8).tolist() == list(range(256))


def test_torch_reads_two_dtypes_of_one_storage() -> None:
    base = torch.arange(4.0)
    state = {"f": base, "i": base.view(torch.int32), "b": base.view(torch.uint8)[1:7]}
    loaded = torch.load(io.BytesIO(dumped(state)), weights_only=True)
    assert len({storage_of(tensor).data_ptr() for tensor in loaded.values()}) == 1
    assert {name: raw(tensor) for name, tensor in loaded.items()} == {name: raw(t) for name, t in state.items()}
    for name in FORMATS:
        again = compat.load(dumped(state, name))
        assert {key: raw(tensor) for key, tensor in again.items()} == {key: raw(t) for key, t in state.items()}


def test_attributes_of_tensors_are_kept() -> None:
    plain, parameter = torch.ones(2), torch.nn.Parameter(torch.ones(2))
    for tensor in (plain, parameter):
        vars(tensor)["note"] = {"scale": 0.5}
    for name in FORMATS:
        loaded = compat.load(dumped({"a": plain, "p": parameter}, name))
        assert [tensor.note for tensor in loaded.values()] == [{"scale": 0.5}] * 2, name
        assert type(loaded["p"]) is torch.nn.Parameter
    read = torch.load(io.BytesIO(dumped({"a": plain, "p": parameter})), weights_only=True)
    assert [tensor.note for tensor in read.values()] == [{"scale": 0.5}] * 2


def test_containers_that_are_shared_stay_shared() -> None:
    shared = [1]
    cyclic: dict[str, Any] = {"s": shared, "t": (shared, shared)}
    cyclic["self"] = cyclic
    for name in ("torch-zip", "torch-legacy"):
        loaded = compat.load(dumped(cyclic, name))
        assert loaded["self"] is loaded
        assert loaded["t"][0] is loaded["t"][1] is loaded["s"]
    with pytest.raises(Unsupported, match="holds itself"):
        dumped(cyclic, "safetensors")


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("state", "feature"),
    [
        ({"a": object()}, "opaque"),
        ({"a": {1: torch.nn.Linear(1, 1)}}, "opaque"),
        ({"a": torch.ones(1).as_subclass(Subclass)}, "subclass"),
        ({torch.ones(1): 1}, "keys"),
        ({"a": {torch.ones(1)}}, "keys"),
        ({(1, torch.ones(1)): 1}, "keys"),
        *[({"a": dtype}, "dtype") for dtype in known_dtypes("uint3")],
        ({"a": type("Odd", (dict,), {})()}, "opaque"),
    ],
)
@pytest.mark.parametrize("name", FORMATS)
def test_what_has_no_neutral_form_is_refused(state: Any, feature: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        compat.save(state, tmp_path / "x", format=name)
    assert caught.value.feature == feature
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_what_torch_s_files_lose_is_refused() -> None:
    sparse = torch.tensor([[0, 1.0], [2, 0]]).to_sparse().requires_grad_()
    for name in ("torch-zip", "torch-legacy"):
        with pytest.raises(Unsupported, match="requires a gradient") as caught:
            dumped({"s": sparse}, name)
        assert caught.value.paths == ["s"]
        loaded = compat.load(dumped({"s": torch.nn.Parameter(sparse.detach())}, name))["s"]
        assert (type(loaded), loaded.requires_grad) == (torch.nn.Parameter, True)


def test_a_tree_that_is_too_deep_is_refused() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    for name in FORMATS:
        with pytest.raises(Unsupported, match="nest deeper than"):
            dumped(deep, name)


def test_a_file_object_gets_a_whole_file_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        with pytest.raises(Unsupported):
            compat.save({"a": torch.ones(1), "b": object()}, file)
        assert file.tell() == 0
        compat.save({"a": torch.ones(1)}, file)
    assert compat.load(path)["a"].tolist() == [1]


@pytest.mark.parametrize(
    ("suffix", "name"),
    [(".pt", "torch-zip"), (".CKPT", "torch-zip"), ("", "torch-zip"), (".safetensors", "safetensors")],
)
def test_the_suffix_asks_for_a_format(suffix: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    compat.save({"a": torch.ones(1)}, path)
    with compat.open(path) as checkpoint:
        assert checkpoint.format == name


def test_a_suffix_or_a_format_that_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"the suffix '\.txt' says no format"):
        compat.save({}, tmp_path / "x.txt")
    with pytest.raises(Unsupported, match="there is no format 'zip'; expected one of"):
        compat.save({}, tmp_path / "x", format="zip")
    with pytest.raises(Unsupported, match="can be read, not written"):
        compat.save({}, tmp_path / "x", format="torchscript")
    assert list(tmp_path.iterdir()) == []


def test_saving_copies_nothing_and_changes_nothing() -> None:
    state = OrderedDict(a=torch.nn.Parameter(torch.ones(3)))
    version = state["a"]._version
    pointer = state["a"].data_ptr()
    dumped(state)
    assert (state["a"]._version, state["a"].data_ptr()) == (version, pointer)


def test_the_memory_of_a_tensor_outlives_the_tensor() -> None:
    from compat.saving import capture

    checkpoint = capture({"a": torch.arange(1000)})
    import gc

    gc.collect()
    from compat.strided import element_bytes

    assert element_bytes(checkpoint.tensors["a"]) == raw(torch.arange(1000))
