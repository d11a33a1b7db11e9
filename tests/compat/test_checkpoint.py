"""The neutral model: walking, naming, bounds, and records that nothing changes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest

from compat.checkpoint import (
    MAX_DEPTH,
    Attribute,
    Checkpoint,
    Opaque,
    Size,
    StorageRecord,
    TensorRecord,
    TorchValue,
    check_bounds,
    contiguous_stride,
    is_contiguous,
    name_paths,
    path_text,
    walk,
)
from compat.errors import Corrupt, Unsupported


def record(shape: tuple[int, ...] = (2, 3), **facts: Any) -> TensorRecord:
    place: dict[str, Any] = {
        "stride": contiguous_stride(shape),
        "storage_offset": 0,
        "storage": StorageRecord(key="0", nbytes=24),
    }
    return TensorRecord(dtype="float32", shape=shape, **(place | facts))


def test_walk_reaches_everything_in_order() -> None:
    inner, tensor = Opaque("m.C", (1,)), record(attributes={"note": "x"})
    inner.state = {"w": tensor}
    tree = OrderedDict(a=[1, (2, tensor)], b=inner, c={})
    vars(tree)["_metadata"] = {"": 1}
    found = [(path_text(path), type(leaf).__name__) for path, leaf in walk(tree)]
    assert found == [
        ("a.0", "int"),
        ("a.1.0", "int"),
        ("a.1.1", "TensorRecord"),
        ("a.1.1.attributes.note", "str"),
        ("b", "Opaque"),
        ("b.args.0", "int"),
        ("b.state.w", "TensorRecord"),
        ("b.state.w.attributes.note", "str"),
        ("c", "dict"),
        ("._metadata.''", "int"),
    ]


def test_walk_enters_a_container_that_holds_itself_once() -> None:
    tree: dict[str, Any] = {"x": 1}
    tree["self"] = tree
    assert [path_text(path) for path, _ in walk(tree)] == ["x"]


def test_walk_refuses_depth_and_repeats() -> None:
    deep: Any = []
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(Unsupported, match="nest deeper than 100"):
        list(walk(deep))
    twice: Any = [0, 0]
    for _ in range(40):
        twice = [twice, twice]
    with pytest.raises(Unsupported, match="over and over"):
        list(walk(twice))


def test_opaque_objects_among_keys_and_members_are_found() -> None:
    tree = {"d": {Opaque("m.Key"): 1}, "s": {Opaque("m.Member"), 2}, "t": {(1, Opaque("m.Inside")): 2}}
    assert {leaf.name for _, leaf in walk(tree) if isinstance(leaf, Opaque)} == {"m.Key", "m.Member", "m.Inside"}


def test_names_are_distinct_and_say_the_path() -> None:
    paths: list[tuple[Any, ...]] = [("a", "b"), ("a.b",), (1,), ("1",), (True,), (("k", 2),), (), (Attribute("x"),)]
    assert list(name_paths(paths)) == ["a.b", "a.b#2", "1", "1#2", "True", "('k', 2)", "", "x"]


def test_many_equal_names_take_no_quadratic_time() -> None:
    assert len(name_paths([("a",)] * 50_000)) == 50_000


def test_names_that_are_too_long_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compat.checkpoint.MAX_NAMES", 1000)
    with pytest.raises(Unsupported, match="longer than 1,000 characters"):
        name_paths([("k" * 100, index) for index in range(20)])


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"stride": (3,)}, "stride"),
        ({"stride": (-3, 1)}, "natural numbers"),
        ({"storage_offset": -1}, "natural numbers"),
        ({"storage_offset": 1}, "needs 28 bytes of a storage of 24"),
        ({"stride": (1 << 62, 1)}, "needs"),
        ({"shape": (1 << 64, 0), "stride": (1, 1)}, "natural numbers"),
        ({"shape": (1 << 40, 1 << 40, 0), "stride": (0, 0, 0)}, "natural numbers"),
        ({"shape": (1,) * 65, "stride": (1,) * 65}, "shape"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(facts: dict[str, Any], message: str) -> None:
    made = record(**facts)
    made.storage.data = object()  # type: ignore[assignment]  # only its presence is looked at
    with pytest.raises(Corrupt, match=message) as caught:
        check_bounds(made, path="a.b")
    assert "'a.b'" in str(caught.value)


@pytest.mark.parametrize("facts", [{}, {"stride": (1, 2)}, {"stride": (0, 0)}, {"shape": (0, 9), "stride": (9, 1)}])
def test_a_tensor_inside_its_storage_passes(facts: dict[str, Any]) -> None:
    made = record(**facts)
    made.storage.data = object()  # type: ignore[assignment]
    check_bounds(made)


@pytest.mark.parametrize(
    ("shape", "stride", "expected"),
    [
        ((), (), True),
        ((3,), (1,), True),
        ((3,), (2,), False),
        ((1,), (99,), True),
        ((2, 1, 3), (3, 7, 1), True),
        ((2, 3), (1, 2), False),
        ((0, 5), (1, 1), True),
        ((5, 0), (1, 7), True),
        ((2, 2), (0, 1), False),
    ],
)
def test_contiguity_is_torch_s(shape: tuple[int, ...], stride: tuple[int, ...], expected: bool) -> None:
    import torch

    assert is_contiguous(shape, stride) is expected
    assert torch.empty_strided(shape, stride).is_contiguous() is expected


def test_records_cannot_be_given_a_state() -> None:
    records: list[Any] = [record(), StorageRecord(key="0", nbytes=0), Size((1,)), TorchValue("dtype", "int8")]
    for made in records:
        with pytest.raises(Corrupt, match="is given a state"):
            made.__setstate__(["x"])


def test_a_checkpoint_is_a_context_manager_that_closes_once_more_without_harm() -> None:
    closed: list[int] = []
    with Checkpoint(format="x", tree={"a": record()}, close=lambda: closed.append(1)) as checkpoint:
        assert list(checkpoint.tensors) == ["a"]
        assert checkpoint.paths == {"a": ("a",)}
    assert closed == [1]
    Checkpoint(format="x", tree={}).close()
