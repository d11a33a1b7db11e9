from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrix.spec import (
    FACETS,
    CheckpointSpec,
    DictNode,
    FloatNode,
    Node,
    ODictNode,
    OpaqueNode,
    SetNode,
    StorageSpec,
    TensorNode,
    UnknownNodeError,
    compare,
    to_node,
)

ONE, TWO = b"\x00\x00\x80\x3f", b"\x00\x00\x00\x40"  # 1.0 and 2.0 in float32


def spec(tree: Any, *data: bytes) -> CheckpointSpec:
    return CheckpointSpec(storages=tuple(StorageSpec(data=item) for item in data), tree=to_node(tree))


def row(storage: int, size: int = 2, **facts: Any) -> TensorNode:
    return replace(TensorNode(dtype="float32", shape=(size,), stride=(1,), storage=storage), **facts)


def facets(expected: CheckpointSpec, actual: CheckpointSpec, **options: Any) -> list[tuple[str, str]]:
    return [(difference.path, difference.facet) for difference in compare(expected, actual, **options)]


def through_json(value: CheckpointSpec) -> CheckpointSpec:
    return CheckpointSpec.from_json(json.loads(json.dumps(value.to_json())))


PLAIN: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.binary()
    | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)
@given(PLAIN)
def test_every_plain_value_survives_json(value: Any) -> None:
    original = spec(value)
    assert through_json(original) == original


@pytest.mark.parametrize(
    "node",
    [
        to_node(10**5000),
        to_node(-(10**30)),
        to_node("\ud83d\ude00 \udc80"),
        to_node(OrderedDict(a=1)),
        ODictNode(items=(), metadata=to_node({"": {"version": 1}})),
        FloatNode(bits="7ff8000000000abc"),
        to_node({1, "a", None}),
        OpaqueNode(name="numpy.ndarray: array([1.])"),
    ],
    ids=["big", "negative-big", "surrogates", "odict", "metadata", "nan", "set", "opaque"],
)
def test_what_json_has_no_word_for_survives_it(node: Node) -> None:
    assert through_json(spec(node)).tree == node


def test_an_unknown_kind_or_version_is_refused() -> None:
    data = spec(1).to_json()
    with pytest.raises(UnknownNodeError, match="kind 'quaternion', expected one of none, bool"):
        CheckpointSpec.from_json({**data, "tree": {"t": "quaternion"}})
    with pytest.raises(UnknownNodeError, match="version 99, expected 1"):
        CheckpointSpec.from_json({**data, "version": 99})
    with pytest.raises(UnknownNodeError, match="a object has no node"):
        to_node(object())


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (0, False), (1, 1.0), (0.0, -0.0), ((), []), ("a", b"a"), ({}, OrderedDict()), (None, False)],
)
def test_equal_in_python_is_not_equal_here(one: Any, other: Any) -> None:
    assert to_node(one) == to_node(one)
    assert to_node(one) != to_node(other)
    assert facets(spec(one), spec(one)) == []
    assert facets(spec(one), spec(other)) != []


def test_a_repr_is_bounded_and_complete_when_small() -> None:
    small = spec([row(0)], ONE + TWO)
    assert "data=b'\\x00\\x00\\x80?\\x00\\x00\\x00@', device='cpu'" in repr(small)
    large = spec([row(n) for n in range(500)], bytes(10**6), *[ONE + TWO] * 499)
    assert "1000000 bytes" in repr(large)
    assert len(repr(large)) <= 20_001


def test_a_set_has_no_order() -> None:
    items = tuple(map(to_node, (1, "a", None)))
    assert SetNode(items=items) == SetNode(items=items[::-1])


# Every way in which a state of two tensors can come back wrong: the facet it must be reported under.
BASE = spec(OrderedDict(a=row(0), b=row(1), n=[1, 0.0]), ONE + TWO, TWO + ONE)
assert isinstance(BASE.tree, ODictNode)
BASE = replace(BASE, tree=replace(BASE.tree, metadata=to_node({"": {"version": 1}})))


def entry(name: str, change: Callable[[Any], Node]) -> Callable[[CheckpointSpec], CheckpointSpec]:
    """What changes one entry of the top level."""

    def changed(before: CheckpointSpec) -> CheckpointSpec:
        assert isinstance(before.tree, DictNode)
        items = [(k, change(v) if k == to_node(name) else v) for k, v in before.tree.items]
        return replace(before, tree=replace(before.tree, items=tuple(items)))

    return changed


def tensor(**facts: Any) -> Callable[[CheckpointSpec], CheckpointSpec]:
    return entry("a", lambda node: replace(node, **facts))


def storages(*data: bytes, device: str = "cpu") -> Callable[[CheckpointSpec], CheckpointSpec]:
    made = tuple(StorageSpec(data=item, device=device) for item in data)
    return lambda before: replace(before, storages=made)


def tree(change: Callable[[ODictNode], Node]) -> Callable[[CheckpointSpec], CheckpointSpec]:
    def changed(before: CheckpointSpec) -> CheckpointSpec:
        assert isinstance(before.tree, ODictNode)
        return replace(before, tree=change(before.tree))

    return changed


DAMAGES = {
    "extra key": (
        tree(lambda t: replace(t, items=(*t.items, (to_node("c"), to_node(1))))),
        [("['c']", "structure")],
    ),
    "missing key": (tree(lambda t: replace(t, items=t.items[1:])), [("['a']", "structure")]),
    "swapped keys": (tree(lambda t: replace(t, items=t.items[::-1])), [("", "key-order")]),
    "renamed key": (
        tree(lambda t: replace(t, items=((to_node("A"), t.items[0][1]), *t.items[1:]))),
        [("['a']", "structure"), ("['A']", "structure")],
    ),
    "lost metadata": (tree(lambda t: replace(t, metadata=None)), [("._metadata", "metadata")]),
    "changed metadata": (
        tree(lambda t: replace(t, metadata=to_node({"": {"version": 2}}))),
        [("._metadata['']['version']", "metadata")],
    ),
    "plain dict": (
        tree(lambda t: DictNode(items=t.items)),
        [("", "type"), ("._metadata", "metadata")],
    ),
    "list to tuple": (entry("n", lambda _: to_node((1, 0.0))), [("['n']", "type")]),
    "int to bool": (entry("n", lambda _: to_node([True, 0.0])), [("['n'][0]", "type")]),
    "other value": (entry("n", lambda _: to_node([2, 0.0])), [("['n'][0]", "value")]),
    "sign of zero": (entry("n", lambda _: to_node([1, -0.0])), [("['n'][1]", "value")]),
    "shorter list": (entry("n", lambda _: to_node([1])), [("['n']", "structure")]),
    "tensor to value": (entry("a", lambda _: to_node(1)), [("['a']", "type")]),
    "dtype, same bytes": (tensor(dtype="int32"), [("['a']", "dtype")]),
    "shape": (tensor(shape=(2, 1), stride=(1, 1)), [("['a']", "shape"), ("['a']", "stride")]),
    "stride": (tensor(shape=(2,), stride=(0,)), [("['a']", "stride"), ("['a']", "bytes")]),
    "offset": (
        lambda before: storages(ONE + ONE + TWO, TWO + ONE)(tensor(storage_offset=1)(before)),
        [("['a']", "storage-offset"), ("['a']", "storage-bytes")],
    ),
    "requires grad": (tensor(requires_grad=True), [("['a']", "requires-grad")]),
    "kind": (tensor(tensor_kind="parameter"), [("['a']", "kind")]),
    "neg": (tensor(neg=True), [("['a']", "conj-neg"), ("['a']", "bytes")]),
    "one bit": (
        storages(b"\x01" + ONE[1:] + TWO, TWO + ONE),
        [("['a']", "storage-bytes"), ("['a']", "bytes")],
    ),
    "hidden bytes": (storages(ONE + TWO, TWO + ONE + b"\x00"), [("['b']", "storage-bytes")]),
    "device": (storages(ONE + TWO, TWO + ONE, device="cuda:0"), [("['a']", "device"), ("['b']", "device")]),
    "meta": (
        storages(b"", b"", device="meta"),
        [(path, facet) for path in ("['a']", "['b']") for facet in ("device", "storage-bytes", "bytes")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_seen_under_its_facet_and_nothing_else(name: str) -> None:
    damage, expected = DAMAGES[name]
    damaged = damage(BASE)
    assert facets(BASE, damaged) == expected
    assert facets(damaged, damaged) == []
    assert compare(damaged, BASE), "the other direction differs too"
    assert facets(BASE, damaged, ignore={facet for _, facet in expected}) == []


def test_every_facet_is_seen_by_some_damage() -> None:
    seen = {facet for _, expected in DAMAGES.values() for _, facet in expected}
    assert seen | {"aliasing"} == FACETS


TIED = spec({"a": row(0), "b": row(0)}, ONE + TWO)
SPLIT = spec({"a": row(0), "b": row(1)}, ONE + TWO, ONE + TWO)


def test_split_and_merged_aliases_are_seen() -> None:
    assert facets(TIED, TIED) == []
    assert facets(TIED, SPLIT) == [("['b']", "aliasing")]
    assert facets(SPLIT, TIED) == [("['b']", "aliasing")]
    assert facets(TIED, SPLIT, ignore={"aliasing"}) == []
    assert str(compare(TIED, SPLIT)[0]) == (
        "['b']: aliasing: expected the storage of ['a'], +0 bytes from its start, seen the first of its storage"
    )


def test_views_that_share_at_another_distance_are_seen() -> None:
    data = ONE * 4
    near = spec([row(0), row(0, storage_offset=1)], data)
    far = spec([row(0), row(0, storage_offset=2)], data)
    assert facets(near, far) == [("[1]", "storage-offset"), ("[1]", "aliasing")]


def test_views_that_moved_together_still_alias_the_same() -> None:
    here = spec([row(0), row(0, storage_offset=1)], ONE * 3)
    there = spec([row(0, storage_offset=2), row(0, storage_offset=3)], ONE * 5)
    assert facets(here, there, ignore={"storage-offset", "storage-bytes"}) == []


def test_visible_bytes_are_compared_in_logical_order_whatever_the_strides() -> None:
    elements = [bytes([n, 0, 0, 0]) for n in range(6)]
    rows = TensorNode(dtype="int32", shape=(3, 2), stride=(2, 1), storage=0)
    columns = replace(rows, stride=(1, 3))
    transposed = b"".join(elements[2 * (i % 3) + i // 3] for i in range(6))
    ignore = {"stride", "storage-bytes"}
    assert facets(spec([rows], b"".join(elements)), spec([columns], transposed), ignore=ignore) == []
    assert facets(spec([rows], b"".join(elements)), spec([columns], b"".join(elements)), ignore=ignore) == [
        ("[0]", "bytes")
    ]


@pytest.mark.parametrize(
    ("dtype", "raw", "negated"),
    [
        ("float32", ONE, b"\x00\x00\x80\xbf"),
        ("int32", b"\x01\0\0\0", b"\xff" * 4),
        ("int8", b"\x80", b"\x80"),
    ],
)
def test_a_lazy_bit_that_was_applied_differs_in_nothing_but_the_bit(dtype: str, raw: bytes, negated: bytes) -> None:
    lazy = TensorNode(dtype=dtype, shape=(1,), stride=(1,), storage=0, neg=True)
    ignore = {"storage-bytes"}
    assert facets(spec([lazy], raw), spec([replace(lazy, neg=False)], negated), ignore=ignore) == [("[0]", "conj-neg")]
    assert facets(spec([lazy], raw), spec([replace(lazy, neg=False)], raw), ignore=ignore | {"conj-neg"}) == (
        [] if raw == negated else [("[0]", "bytes")]
    )


def test_conjugation_flips_the_imaginary_sign_alone() -> None:
    lazy = TensorNode(dtype="complex64", shape=(1,), stride=(1,), storage=0, conj=True)
    plain = replace(lazy, conj=False)
    ignore = {"storage-bytes", "conj-neg"}
    assert facets(spec([lazy], ONE + TWO), spec([plain], ONE + b"\x00\x00\x00\xc0"), ignore=ignore) == []
    assert facets(spec([lazy], ONE + TWO), spec([plain], ONE + TWO), ignore=ignore) == [("[0]", "bytes")]
    both = replace(lazy, neg=True)
    assert facets(spec([both], ONE + TWO), spec([plain], b"\x00\x00\x80\xbf" + TWO), ignore=ignore) == []


@pytest.mark.parametrize(
    ("dtype", "data", "expected", "seen"),
    [
        (
            "float32",
            (ONE + ONE, ONE + TWO),
            "0000803f (float32 1.0) at byte 6 of 8, element [1]",
            "00000040 (float32 2.0)",
        ),
        (
            "bfloat16",
            (b"\x80\x3f", b"\x80\xbf"),
            "803f (bfloat16 1.0) at byte 1 of 2, element [0]",
            "80bf (bfloat16 -1.0)",
        ),
        ("float8_e5m2", (b"\x01", b"\x02"), "01 (float8_e5m2) at byte 0 of 1, element [0]", "02 (float8_e5m2)"),
        (
            "complex64",
            (ONE + ONE, ONE + TWO),
            "0000803f0000803f (complex64 (1+1j)) at byte 6 of 8, element [0]",
            "0000803f00000040 (complex64 (1+2j))",
        ),
    ],
)
def test_a_difference_says_where_and_what(dtype: str, data: tuple[bytes, bytes], expected: str, seen: str) -> None:
    node = TensorNode(dtype=dtype, shape=(2 if dtype == "float32" else 1,), stride=(1,), storage=0)
    found = compare(spec([node], data[0]), spec([node], data[1]), ignore={"storage-bytes"})
    assert [str(item) for item in found] == [f"[0]: bytes: expected {expected}, seen {seen}"]


def test_a_nan_payload_bit_is_a_difference_though_both_print_as_nan() -> None:
    one, other = FloatNode(bits="7ff8000000000000"), FloatNode(bits="7ff8000000000001")
    assert str(compare(spec([one]), spec([other]))[0]) == (
        "[0]: value: expected nan {'t': 'float', 'v': '7ff8000000000000'}, "
        "seen nan {'t': 'float', 'v': '7ff8000000000001'}"
    )


def test_a_difference_late_in_a_large_tensor_is_found() -> None:
    data = bytes(1_000_000)
    node = row(0, 250_000)
    found = compare(spec([node], data), spec([node], data[:-1] + b"\x80"), ignore={"storage-bytes"})
    assert "byte 999999 of 1000000, element [249999]" in str(found[0])


def test_an_unknown_facet_cannot_be_ignored() -> None:
    with pytest.raises(ValueError, match="unknown facets \\['colour'\\], expected some of"):
        compare(TIED, SPLIT, ignore={"colour"})


def test_a_tensor_beyond_its_storage_is_an_error_not_a_difference() -> None:
    short = spec([row(0, stride=(5,))], ONE + TWO)
    with pytest.raises(ValueError, match="ends at byte 24, expected at most 8"):
        compare(short, spec([row(0)], ONE + TWO))


def test_tensors_are_found_wherever_they_are_in_order() -> None:
    nested = ODictNode(
        items=((to_node("a"), to_node([row(0), {"x": row(1)}])), (to_node(3), to_node((row(2),)))),
        metadata=to_node([row(3)]),
    )
    found = [(path, node.storage) for path, node in spec(nested, b"", b"", b"", b"").tensors()]
    assert found == [("['a'][0]", 0), ("['a'][1]['x']", 1), ("[3][0]", 2), ("._metadata[0]", 3)]


def test_normalized_numbers_storages_by_first_use_and_drops_unused_ones() -> None:
    before = spec({"a": row(2), "b": row(0), "c": row(2)}, ONE + ONE, b"unused", TWO + TWO)
    after = before.normalized()
    assert [storage.data for storage in after.storages] == [TWO + TWO, ONE + ONE]
    assert [node.storage for _, node in after.tensors()] == [0, 1, 0]
    assert after.normalized() is after
    assert (before.size_bytes, after.size_bytes) == (22, 16)


def metadata_spec(keys: list[str], modules: list[str]) -> CheckpointSpec:
    items = tuple((to_node(key), to_node(key)) for key in keys)
    return spec(ODictNode(items=items, metadata=to_node({name: {"of": name} for name in modules})))


def shown(value: CheckpointSpec) -> tuple[list[str], list[tuple[str, str]]]:
    data = value.tree.to_json()
    modules = [(key["v"], item["v"][0][1]["v"]) for key, item in data["metadata"]["v"]]
    return [key["v"] for key, _ in data["v"]], modules


def test_renaming_renames_metadata_along_and_back() -> None:
    before = metadata_spec(["conv.weight", "scale"], ["", "conv"])
    after = before.rename_keys(lambda key: f"module.{key}")
    assert shown(after) == (
        ["module.conv.weight", "module.scale"],
        [("module", ""), ("module.conv", "conv")],
    )
    assert after.rename_keys(lambda key: key.removeprefix("module.")) == before


def test_a_renamed_metadata_key_replaces_one_that_was_there() -> None:
    wrapped = metadata_spec(["module.w"], ["", "module", "module.conv"])
    stripped = wrapped.rename_keys(lambda key: key.removeprefix("module."))
    assert shown(stripped)[1] == [("", "module"), ("conv", "module.conv")]


def test_keys_that_collide_when_renamed_are_refused() -> None:
    with pytest.raises(ValueError, match="two keys are the same once renamed"):
        spec({"a": 1, "b": 2}).rename_keys(lambda _: "x")
    with pytest.raises(TypeError, match="the top level is a list, expected a dict"):
        spec([]).rename_keys(str)
