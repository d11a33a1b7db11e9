"""What the formats without a tree carry, and what is refused of what others wrote there."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import pytest
import torch

import compat
from compat.errors import Corrupt, Unsupported
from compat.layout import restore
from tests.compat.making import carried, dumped, storage_of

BASE = torch.arange(12.0).reshape(3, 4)
PLAIN = {"version": 1, "tree": {"dict": [["a", {"tensor": "a"}]]}, "tensors": {}, "storages": {}}


def names(state: Any) -> list[str]:
    content = dumped(state, "safetensors")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return [name for name in header if name != "__metadata__"]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3, 1).t(),
        torch.ones(1).as_strided((1,), (221,)),
        torch.empty(0, 3).t(),
        torch.empty(2, 0, 3).transpose(0, 2),
        torch.ones(8, 4, 1, 1).contiguous(memory_format=torch.channels_last),
        torch.ones(8, 1, 3, 3).contiguous(memory_format=torch.channels_last),
        BASE.t(),
        BASE[1:, ::2],
        BASE[0].expand(5, 4),
        torch.tensor(3.0),
        torch.empty(0),
        torch.view_as_complex(BASE.reshape(6, 2)).conj(),
        torch.view_as_complex(BASE.reshape(6, 2)).conj().imag,
    ],
)
def test_every_stride_comes_back(tensor: torch.Tensor) -> None:
    loaded = compat.load(dumped({"t": tensor}, "safetensors"))["t"]
    assert (loaded.shape, loaded.stride(), loaded.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)
    assert (loaded.is_conj(), loaded.is_neg()) == (tensor.is_conj(), tensor.is_neg())
    assert torch.equal(loaded, tensor)
    assert not compat.diff(dumped({"t": tensor}), dumped({"t": tensor}, "safetensors"))


@pytest.mark.parametrize(
    "state",
    [
        {"a": {"b": BASE}, "a.b": BASE.clone()},
        {"__metadata__": BASE},
        {"": BASE},
        {"ü\n\x00": BASE},
        dict.fromkeys(["\ud800", "?", chr(0xDC00)], BASE),
        {1: BASE, "1": BASE.clone(), 0.5: 5},
        {None: BASE, (1, "k"): BASE.clone()},
        [BASE, (BASE, {"x": BASE})],
        BASE,
        OrderedDict(b=BASE, a=BASE[1]),
        {"empty": {}, "list": []},
        {},
        {"k" * 5000: BASE},
    ],
    ids=lambda state: f"{type(state).__name__} {str(state)[:24]!a}",
)
def test_names_that_collide_or_cannot_be_said_come_back(state: Any) -> None:
    for name in ("torch-zip", "torch-legacy", "safetensors"):
        content = dumped(state, name)
        assert not compat.diff(dumped(state), content), name
        assert str(compat.load(content)) == str(state), name


def test_a_plain_state_is_written_as_the_library_would() -> None:
    content = dumped({"b": BASE, "a": BASE.clone()}, "safetensors")
    assert b"compat.layout" not in content
    assert names({"model": {"b": BASE, "a": BASE.clone()}, "epoch": 3}) == ["b", "a"]


def test_aliases_and_ties_come_back() -> None:
    state = {"whole": BASE, "row": BASE[1], "tied": BASE, "turned": BASE.t()}
    loaded = compat.load(dumped(state, "safetensors"))
    assert len({storage_of(tensor).data_ptr() for tensor in loaded.values()}) == 1
    assert loaded["tied"] is loaded["whole"]
    loaded["row"].zero_()
    assert loaded["turned"][:, 1].tolist() == [0] * 4


def test_parameters_and_their_attributes_come_back() -> None:
    parameter = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    vars(parameter)["note"] = {"scale": 0.5}
    loaded = compat.load(dumped({"p": parameter, "g": torch.ones(1).requires_grad_()}, "safetensors"))
    assert isinstance(loaded["p"], torch.nn.Parameter)
    assert (vars(loaded["p"]), loaded["p"].requires_grad, loaded["g"].requires_grad) == (
        {"note": {"scale": 0.5}},
        False,
        True,
    )


def test_a_small_view_of_a_large_storage_does_not_carry_the_storage() -> None:
    big = torch.zeros(1_000_000)
    content = dumped({"a": big[:4]}, "safetensors")
    assert len(content) < 2000
    assert compat.load(content)["a"].tolist() == [0] * 4
    with pytest.raises(Unsupported, match="small part of a storage") as caught:
        dumped({"a": big[:4], "b": big[2:6]}, "safetensors")
    assert caught.value.feature == "aliasing"


def test_a_huge_expanded_view_is_refused() -> None:
    with pytest.raises(Unsupported, match="is an expanded view"):
        dumped({"a": torch.zeros(1).expand(10**6, 10**6)}, "safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": None},
        {"tree": {"tensor": "b"}},
        {"tree": {"tensor": 1}},
        {"tree": {}},
        {"tensors": []},
        {"tensors": {"a": {"of": "b"}}},
        {"tensors": {"a": {"kind": "other"}}},
        {"tensors": {"a": {"stride": [1, 1]}}},
        {"tensors": {"a": {"stride": []}}},
        {"tensors": {"a": {"stride": [float("inf")]}}},
        {"tensors": {"a": {"dtype": "float33", "shape": [1]}}},
        {"tensors": {"a": {"dtype": "float64", "shape": [1]}}},
        {"tensors": {"a": {"storage": "0", "offset": 0, "stride": [1]}}},
        {"tensors": {"a": {"storage": "0", "offset": 1, "stride": [1]}}, "storages": {"0": {"nbytes": 4}}},
        {"tensors": {"a": {"storage": "0", "offset": 0, "stride": [1]}}, "storages": {"0": {"nbytes": 1 << 40}}},
        {"tensors": {"a": {"storage": "0", "offset": -1, "stride": [1]}}, "storages": {"0": {"nbytes": 4}}},
    ],
    ids=str,
)
def test_a_changed_layout_is_refused(change: dict[str, Any]) -> None:
    compat.open(carried(PLAIN))
    with pytest.raises((Corrupt, Unsupported)):
        compat.open(carried({**PLAIN, **change}))


def test_an_array_that_the_layout_does_not_name_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="array 'a' is not in the carried layout"):
        compat.open(carried({**PLAIN, "tree": {"dict": []}}))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"version": 1}'])
def test_what_is_no_layout_is_corrupt(text: str) -> None:
    with pytest.raises(Corrupt, match="the carried layout is damaged"):
        restore({}, text)
