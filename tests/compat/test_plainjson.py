"""Plain values as JSON and back: exact, or refused."""

from __future__ import annotations

import json
import struct
from collections import Counter, OrderedDict
from typing import Any

import pytest

from compat.checkpoint import Composite, Opaque, Size, StorageRecord, TensorRecord, TorchValue
from compat.diffing import same_value
from compat.errors import Corrupt, Unsupported
from compat.plainjson import decode, encode


def there_and_back(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value, refuse))), refuse)


def refuse(*_: Any) -> Any:
    raise AssertionError("there is no tensor here")


ORDERED = OrderedDict([("b", 1), ("a", 2)])
vars(ORDERED)["_metadata"] = OrderedDict({"": {"version": 1}})


VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1 << 63,
    1 << 50_000,
    -(1 << 50_000),
    0.1,
    -0.0,
    5e-324,
    float("inf"),
    float("nan"),
    struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0],
    "",
    "ü\n\x00\ud800",
    b"\x00\xff",
    bytearray(b"\x01"),
    complex(-0.0, float("-inf")),
    [],
    [1, [2.0, None]],
    (),
    (1, (2,)),
    {},
    {"a": 1, 2: "b", None: 3, (1, "k"): 4, 1.5: 5, False: 6},
    set(),
    {1, "a", (2,)},
    frozenset({1}),
    ORDERED,
    Counter("abca"),
    Size((2, 3)),
    TorchValue("dtype", "bfloat16"),
    TorchValue("device", "cuda:3"),
    {"float": "not one"},
    {"tensor": 1},
]


@pytest.mark.parametrize("value", VALUES, ids=[f"{type(value).__name__}-{n}" for n, value in enumerate(VALUES)])
def test_a_value_comes_back_with_its_type_and_bits(value: Any) -> None:
    back = there_and_back(value)
    if isinstance(value, (float, complex)):
        assert same_value(back, value)
    else:
        assert back == value
        assert type(back) is type(value)
    assert getattr(back, "__dict__", None) == getattr(value, "__dict__", None)
    if isinstance(value, dict):
        assert [type(key) for key in back] == [type(key) for key in value]


def test_what_has_no_exact_form_is_refused_with_its_path() -> None:
    with pytest.raises(Unsupported, match=r"a\.0 is <Opaque m\.C>") as caught:
        encode({"a": [Opaque("m.C")]}, refuse)
    assert caught.value.paths == ["a.0"]
    own: list[Any] = []
    own.append(own)
    with pytest.raises(Unsupported, match="holds itself"):
        encode({"a": own}, refuse)


@pytest.mark.parametrize(
    "node",
    [
        {"unknown": 1},
        {},
        {"float": "xx"},
        {"float": 3},
        {"float": "00"},
        {"int": "zz"},
        {"int": None},
        {"dict": 1},
        {"dict": [[1]]},
        {"dict": [[[], 1]]},
        {"set": [[]]},
        {"tuple": None},
        {"odict": [["a", 1]], "attributes": []},
        {"size": ["x"]},
        {"size": [1 << 70]},
        {"bytes": "!"},
        {"complex": "00"},
        {"torch": ["dtype"]},
        {"torch": ["dtype", "load"]},
        {"torch": ["layout", "hub"]},
        {"torch": ["device", 1]},
        {"torch": [[], {}]},
        {"torch": ""},
        {"composite": {"kind": "nested"}, "parts": {}},
        {"composite": {}, "parts": {}},
        {"composite": {"kind": "per_tensor_affine", "requires_grad": 0, "parameter": 0}, "parts": {"data": 1}},
        {"composite": {"kind": "sparse_coo", "requires_grad": 0, "parameter": 0}, "parts": {"indices": 1}},
        {"tensor": []},
    ],
    ids=str,
)
def test_damaged_words_are_corrupt(node: Any) -> None:
    def tensor(name: Any) -> TensorRecord:
        raise KeyError(name)

    with pytest.raises(Corrupt):
        decode([node], tensor)


def test_a_tensor_is_no_key() -> None:
    made = TensorRecord(dtype="uint8", shape=(), stride=(), storage_offset=0, storage=StorageRecord(key="0", nbytes=1))
    for node in ({"dict": [[{"tensor": "a"}, 1]]}, {"set": [{"tensor": "a"}]}, {"odict": [[{"tensor": "a"}, 1]]}):
        with pytest.raises(Unsupported, match="used as a key"):
            decode(node, lambda _: made)


def test_composites_come_back_in_their_parts() -> None:
    storage = StorageRecord(key="0", nbytes=8)
    one = TensorRecord(dtype="uint8", shape=(1,), stride=(1,), storage_offset=0, storage=storage)
    made = Composite(kind="sparse_coo", parts={"indices": one, "values": one, "size": Size((3,)), "is_coalesced": True})
    back = decode(json.loads(json.dumps(encode(made, lambda *_: "a"))), lambda _: one)
    assert (back.kind, back.parts, back.requires_grad) == (made.kind, made.parts, False)


def test_deep_words_are_refused() -> None:
    node: Any = []
    for _ in range(300):
        node = [node]
    with pytest.raises(Corrupt, match="nest too deep"):
        decode(node, refuse)
