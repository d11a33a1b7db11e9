from __future__ import annotations

import ast
import enum
import json
import random
import struct
import subprocess
import sys
import time
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from matrix import peer
from matrix.drawing import CONTENTS, SeededChoices
from matrix.spec import CheckpointSpec, DictNode, OpaqueNode, StorageSpec, TensorNode, compare, to_node
from matrix.strategies import states
from matrix.tensors import build, describe

Point = namedtuple("Point", "x y")  # noqa: PYI024 - a plain named tuple is what is met


class Colour(enum.IntEnum):
    RED = 1


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("name", CONTENTS)
def test_every_content_is_built_and_described_exactly(name: str) -> None:
    for seed in range(10):
        spec = CONTENTS[name].draw(SeededChoices(seed))
        again = describe(build(spec))
        assert compare(spec, again) == (), seed
        assert again == spec


@settings(max_examples=30, deadline=None)
@given(states())
def test_drawn_states_are_built_and_described_exactly(spec: CheckpointSpec) -> None:
    assert describe(build(spec)) == spec


@pytest.mark.parametrize("name", CONTENTS)
def test_the_wire_form_builds_and_describes_the_same(name: str) -> None:
    spec = CONTENTS[name].draw(SeededChoices(1))
    wire = json.loads(json.dumps(spec.to_json()))
    assert peer.describe(peer.build(wire)) == wire == json.loads(json.dumps(spec.to_json()))


# What build() makes is checked with torch's own eyes, since describe() alone might share its mistakes.


def one(data: bytes, tree: Any) -> Any:
    return build(CheckpointSpec(storages=(StorageSpec(data=data),), tree=to_node(tree)))


def test_torch_sees_values_strides_and_offset() -> None:
    node = TensorNode(dtype="int16", shape=(2, 2), stride=(1, 2), storage=0, storage_offset=1)
    tensor = one(struct.pack("<6h", *range(6)), node)
    assert tensor.tolist() == [[1, 3], [2, 4]]
    assert (tensor.stride(), tensor.storage_offset(), tensor.untyped_storage().nbytes()) == ((1, 2), 1, 12)


def test_torch_sees_shared_storage() -> None:
    node = TensorNode(dtype="float32", shape=(2,), stride=(1,), storage=0)
    first, second = one(bytes(8), [node, node])
    first.fill_(3.0)
    assert second.tolist() == [3.0, 3.0]


def test_torch_sees_parameters_buffers_gradients_and_lazy_bits() -> None:
    facts: dict[str, Any] = {"dtype": "complex64", "shape": (1,), "stride": (1,), "storage": 0}
    nodes = [
        TensorNode(**facts, tensor_kind="parameter"),
        TensorNode(**facts, tensor_kind="buffer"),
        TensorNode(**facts, requires_grad=True),
        TensorNode(**facts, conj=True),
        TensorNode(**facts, neg=True),
    ]
    parameter, buffer, trained, conj, neg = one(struct.pack("<2f", 1.0, 2.0), nodes)
    assert (type(parameter), parameter.requires_grad) == (torch.nn.Parameter, False)
    assert isinstance(buffer, torch.nn.Buffer)
    assert trained.requires_grad
    assert trained.is_leaf
    assert (conj.is_conj(), conj.tolist()) == (True, [1 - 2j])
    assert (neg.is_neg(), neg.tolist()) == (True, [-1 - 2j])


def test_torch_sees_ordered_dicts_with_metadata() -> None:
    state = torch.nn.Linear(1, 1).state_dict()
    again = build(describe(state))
    assert type(again) is OrderedDict
    assert again._metadata == state._metadata  # type: ignore[attr-defined] # torch puts it there
    plain = build(CheckpointSpec(storages=(), tree=to_node(OrderedDict(a=1))))
    assert not hasattr(plain, "_metadata")


def test_what_has_no_bytes_is_described_without_any() -> None:
    base = torch.empty(3, 4, device="meta")
    spec = describe([base, base.T, torch.empty(2, device="meta")])
    assert [storage.device for storage in spec.storages] == ["meta", "meta"]
    assert [node.storage for _, node in spec.tensors()] == [0, 0, 1]
    assert describe(build(spec)) == spec


def test_distinct_storages_of_no_bytes_do_not_alias() -> None:
    empty = torch.empty(0)
    spec = describe([empty, torch.empty(0), empty.view(0, 3)])
    assert [node.storage for _, node in spec.tensors()] == [0, 1, 0]


def test_a_tensor_over_a_part_of_its_storage_keeps_the_hidden_bytes() -> None:
    spec = describe(torch.arange(4, dtype=torch.uint8)[1:2])
    assert spec.storages[0].data == b"\x00\x01\x02\x03"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(1.0), "numpy.float64: np.float64(1.0)"),
        (np.int64(1), "numpy.int64: np.int64(1)"),
        (Colour.RED, "<Colour.RED: 1>"),
        (Point(1, 2), "Point(x=1, y=2)"),
        (frozenset(), "builtins.frozenset: frozenset()"),
        (object(), "builtins.object: <object object>"),
        (Unprintable(), "repr() raises RuntimeError"),
        (torch.ones(1).to_sparse(), "torch.Tensor: tensor(indices"),
        (torch.nn.Linear, "builtins.type: <class 'torch.nn.modules.linear.Linear'>"),
        (torch.nn.Sequential(*[torch.nn.ReLU() for _ in range(50)]), "..."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_named_is_kept_as_opaque(value: Any, text: str) -> None:
    node = describe([value]).tree
    assert text in node.to_json()["v"][0]["v"]
    assert node.to_json()["v"][0]["t"] == "opaque"
    with pytest.raises(peer.PeerError, match="a node 'opaque' cannot be built, expected one of none"):
        build(CheckpointSpec(storages=(), tree=node))


def test_an_ordered_dict_with_other_attributes_is_not_taken_for_a_plain_one() -> None:
    odd: Any = OrderedDict(a=torch.ones(1))
    odd.note = "x"
    spec = describe(odd)
    assert spec.tree == OpaqueNode(name="collections.OrderedDict: has the attributes ['note']")
    assert spec.storages == ()


def test_describing_ends_for_containers_that_hold_themselves_or_double() -> None:
    loop: Any = {}
    loop["a"] = loop["b"] = loop
    inner = OpaqueNode(name="builtins.dict: contains itself")
    assert describe(loop).tree == DictNode(items=((to_node("a"), inner), (to_node("b"), inner)))
    deep: Any = []
    for _ in range(2000):
        deep = [deep]
    assert "more than 100 levels" in json.dumps(describe(deep).to_json())
    shared: list[Any] = []
    assert describe([shared, shared]).tree == to_node([[], []])


def test_doubling_containers_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "MAX_NODES", 1000)
    doubled: Any = []
    for _ in range(40):
        doubled = [doubled, doubled]
    assert "more than 100 levels or 1000 nodes" in json.dumps(describe(doubled).to_json())


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"shape": (3,)}, "ends at byte 12, expected at most 8: its storage is too short"),
        ({"storage_offset": 1}, "ends at byte 12, expected at most 8"),
        ({"dtype": "float3"}, "no tensors of dtype 'float3'"),
        ({"conj": True}, "a tensor of float32 has no conjugate"),
    ],
)
def test_build_refuses_what_torch_would_silently_change(facts: dict[str, Any], message: str) -> None:
    sound: dict[str, Any] = {"dtype": "float32", "shape": (2,), "stride": (1,), "storage": 0}
    assert one(bytes(8), TensorNode(**sound)).tolist() == [0.0, 0.0]
    with pytest.raises(peer.PeerError, match=message):
        one(bytes(8), TensorNode(**{**sound, **facts}))


INT, BOOL = {"t": "int", "v": "1"}, {"t": "bool", "v": True}


@pytest.mark.parametrize(
    "tree", [{"t": "dict", "v": [[INT, INT], [BOOL, INT]]}, {"t": "set", "v": [INT, BOOL]}], ids=["dict", "set"]
)
def test_build_refuses_items_that_python_would_merge(tree: dict[str, Any]) -> None:
    with pytest.raises(peer.PeerError, match="are equal in Python"):
        peer.build({"version": 1, "storages": [], "tree": tree})


def test_build_leaves_the_given_json_as_it_was() -> None:
    wire = CONTENTS["partial-views"].draw(SeededChoices(0)).to_json()
    before = json.dumps(wire)
    peer.build(wire)
    assert json.dumps(wire) == before


def test_another_version_is_refused() -> None:
    with pytest.raises(peer.PeerError, match="version 2, expected 1"):
        peer.build({"version": 2, "storages": [], "tree": {"t": "none"}})


def test_the_dtype_table_is_what_this_torch_has() -> None:
    assert peer.available_dtypes() == [name for name in peer.ITEMSIZES if hasattr(torch, name)]
    for name in peer.available_dtypes():
        assert getattr(torch, name).itemsize == peer.ITEMSIZES[name]


def test_the_peer_is_one_file_of_python_3_6_with_torch_as_its_only_dependency() -> None:
    path = Path(peer.__file__)
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported - {"torch"} <= sys.stdlib_module_names
    assert "__future__" not in imported, "annotations from the future are newer than 3.6"


def test_typed_storages_of_older_releases_give_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    old = peer._Torch()
    old.untyped = None
    monkeypatch.setattr(peer, "_TORCH", [old])
    for name in ("plain", "partial-views", "expanded", "zero-dim", "empty", "dtype-bool", "optimizer"):
        spec = CONTENTS[name].draw(SeededChoices(3))
        assert describe(build(spec)) == spec
    with pytest.raises(peer.PeerError, match=r"3 bytes are no whole number of torch\.int16"):
        one(bytes(3), TensorNode(dtype="int16", shape=(1,), stride=(1,), storage=0))


def test_spec_code_reads_the_dtype_table_without_torch() -> None:
    script = "import sys; import matrix.spec, matrix.drawing; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_describing_a_large_contiguous_tensor_costs_copies_not_loops() -> None:
    state = {"w": torch.zeros(20_000_000, dtype=torch.uint8)}
    start = time.perf_counter()
    spec = describe(state)
    other = CheckpointSpec(storages=(StorageSpec(data=spec.storages[0].data[:-1] + b"\x01"),), tree=spec.tree)
    assert len(compare(spec, other)) == 2
    # A loop over elements takes seconds; 20 MB are copied in a few hundredths of one.
    assert time.perf_counter() - start < 2.0


def test_building_leaves_the_random_state_alone() -> None:
    before, plain = torch.get_rng_state(), random.getstate()
    build(CONTENTS["plain"].draw(SeededChoices(5)))
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == plain
