"""The comparer accepts what is the same and rejects what is not, of every kind."""

from __future__ import annotations

import struct
import warnings
from collections import OrderedDict
from typing import Any

import pytest
import torch

import compat
from compat.diffing import first_difference
from compat.errors import Unsupported
from tests.compat.making import dumped, name, storage_of, tensor, torch_dumped, with_marks, zipped

NAN = struct.unpack(">d", bytes.fromhex("7ff8000000000000"))[0]
OTHER_NAN = struct.unpack(">d", bytes.fromhex("7ff8000000000001"))[0]
UNKNOWN = name("m.Key") + b")R"


def quantized(scale: float) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that it will drop them
        return torch.quantize_per_tensor(torch.ones(4), scale, 3, torch.quint8)


def facets(left: Any, right: Any) -> set[str]:
    return compat.diff(dumped(left), dumped(right)).facets()


SAME: list[Any] = [
    {NAN: 1},
    {0.0: 1},
    {(1, NAN): {2}},
    {"a": {1, (2, NAN)}},
    {1: "a", "1": "b", 0.5: "d"},
    [1, 1.0, True, None, "", b"", (), [], {}, set()],
    {"c": complex(NAN, -0.0)},
    storage_of(torch.ones(3)),
    torch.empty(2, device="meta"),
    {"e": torch.zeros(1).expand(10**6, 10**6)},
    {"e": torch.zeros(2, 1).expand(2, 10**9)},
    torch.tensor([[0, 1.0], [2, 0]]).to_sparse(),
    quantized(0.1),
]


@pytest.mark.parametrize("value", SAME, ids=[f"{n}-{type(value).__name__}" for n, value in enumerate(SAME)])
@pytest.mark.filterwarnings("ignore")
def test_the_same_is_the_same(value: Any) -> None:
    assert not compat.diff(torch_dumped(value), torch_dumped(value, zipped=False))


@pytest.mark.parametrize(
    ("left", "right", "facet"),
    [
        ({NAN: 1}, {OTHER_NAN: 1}, "missing"),
        ({0.0: 1}, {-0.0: 1}, "missing"),
        ({1: 1}, {True: 1}, "missing"),
        ({1: 1}, {1.0: 1}, "missing"),
        ({1: 1}, {"1": 1}, "missing"),
        ({(1, 2): 1}, {(1, 2.0): 1}, "missing"),
        ([NAN], [OTHER_NAN], "value"),
        ([0.0], [-0.0], "value"),
        ([1], [1.0], "missing"),
        ([1], (1,), "type"),
        ([1], [1, 2], "missing"),
        ({1}, {2}, "value"),
        ({1}, {1.0}, "value"),
        ({1}, {True}, "value"),
        ({1}, frozenset({1}), "missing"),
        (b"a", bytearray(b"a"), "missing"),
        ({"a": {}}, {"a": OrderedDict()}, "type"),
        ({"a": {}}, {"a": []}, "missing"),
        ({"a": None}, {}, "missing"),
        (OrderedDict(a=1, b=2), OrderedDict(b=2, a=1), "key order"),
        (complex(0.0, 1), complex(-0.0, 1), "value"),
        (torch.float32, torch.float64, "value"),
        (torch.Size([1]), torch.Size([2]), "value"),
    ],
)
def test_what_differs_beside_tensors_is_seen(left: Any, right: Any, facet: str) -> None:
    assert facet in facets(left, right)
    assert facet in facets(right, left)


def spoiled(tensor: torch.Tensor, **attributes: Any) -> torch.Tensor:
    vars(tensor).update(attributes)
    return tensor


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("left", "right", "facet"),
    [
        (storage_of(torch.ones(2)), storage_of(torch.zeros(2)), "bytes"),
        (storage_of(torch.ones(2)), storage_of(torch.ones(3)), "shape"),
        (torch.ones(2), torch.ones(2).requires_grad_(), "requires_grad"),
        (torch.ones(2), torch.empty(2, device="meta"), "device"),
        pytest.param(
            torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.complex64).conj(), "conj", marks=with_marks
        ),
        pytest.param(spoiled(torch.ones(2), note=1), spoiled(torch.ones(2), note=2), "value", marks=with_marks),
        pytest.param(spoiled(torch.ones(2), note=1), torch.ones(2), "missing", marks=with_marks),
        (torch.zeros(2, 1).expand(2, 10**9), torch.ones(2, 1).expand(2, 10**9), "bytes"),
        (torch.tensor([[0, 1.0]]).to_sparse(), torch.tensor([[0, 2.0]]).to_sparse(), "bytes"),
        (
            quantized(0.1),
            quantized(0.2),
            "value",
        ),
        (
            torch.nn.Parameter(torch.tensor([[0, 1.0]]).to_sparse()),
            torch.tensor([[0, 1.0]]).to_sparse(),
            "parameter",
        ),
    ],
)
def test_what_differs_in_tensors_is_seen(left: Any, right: Any, facet: str) -> None:
    assert facet in compat.diff(torch_dumped(left), torch_dumped(right)).facets()


def test_unknown_objects_are_compared_by_what_they_hold() -> None:
    def made(argument: bytes, state: bytes) -> bytes:
        return zipped(b"}" + name("m.C") + argument + b"\x85R" + state + b"bK\x00s")

    same = made(b"K\x01", b"K\x02")
    assert not compat.diff(same, same)
    assert compat.diff(same, made(b"K\x02", b"K\x02"))
    assert compat.diff(zipped(name("m.C") + b")R"), zipped(name("m.D") + b")R")).facets() == {"value"}
    assert compat.diff(zipped(name("m.C") + b")RK\x01b"), zipped(name("m.C") + b")RK\x02b")).facets() == {"value"}


@pytest.mark.parametrize("body", [b"}" + UNKNOWN + b"K\x01s", name("builtins.set") + b"](" + UNKNOWN + b"e\x85R"])
def test_unknown_objects_as_keys_are_the_same_when_they_are(body: bytes) -> None:
    assert not compat.diff(zipped(body), zipped(body))
    assert compat.diff(zipped(body), zipped(body.replace(b"Key", b"Yek")))


def test_a_view_that_shows_far_more_than_there_is_is_not_compared() -> None:
    data = {"data/0": bytes(range(16))}
    left = zipped(tensor(shape=(2, 1 << 40), stride=(1, 0)), data)
    assert not compat.diff(left, left)
    right = zipped(tensor(shape=(1 << 20, 1 << 20), stride=(0, 0)), data)
    assert not compat.diff(right, right)
    overlapping = {"data/0": bytes(1 << 23)}
    big = zipped(tensor(shape=(1 << 20, 1 << 20), stride=(1, 1), numel=1 << 21), overlapping)
    with pytest.raises(Unsupported, match="out of a storage of"):
        compat.diff(big, big)


def test_differences_are_said_in_words() -> None:
    found = compat.diff(dumped({"a": 1, "b": torch.ones(2)}), dumped({"a": 2, "b": torch.zeros(2), "c": []}))
    assert [str(change) for change in found.tensors] == [
        "b: bytes is 0x80 at byte 2 (element 0) on the left, 0x00 on the right"
    ]
    assert [str(change) for change in found.extras] == [
        "a: value is int 1 on the left, int 2 on the right",
        "c: only on the right: list of 0",
    ]
    assert (found.equal_tensors, found.equal_extras) == (0, 0)


@pytest.mark.parametrize(
    ("left", "right", "at"),
    [
        ([], [], None),
        ([b"ab", b"c"], [b"a", b"bc"], None),
        ([b"ab", b"c"], [b"a", b"bd"], (2, 99, 100)),
        ([b"a"], [b"ab"], (1, 0, 98)),
        ([b"ab"], [b"a"], (1, 98, 0)),
        ([b"\x00" * 300], [b"\x00" * 299 + b"\x01"], (299, 0, 1)),
    ],
)
def test_the_first_difference_of_two_streams(left: list[bytes], right: list[bytes], at: Any) -> None:
    assert first_difference(iter(left), iter(right)) == at
