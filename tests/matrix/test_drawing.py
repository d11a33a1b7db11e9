from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable

import pytest

from matrix.choices import SeededChoices
from matrix.contents import CONTENTS
from matrix.draft import contiguous, finite
from matrix.drawing import MODULE_FAMILIES, draw_module
from matrix.gathering import visible
from matrix.spec import ITEMSIZES, CheckpointSpec, DictNode, ODictNode, TensorNode, to_node

SEEDS = range(40)


def draws(name: str) -> list[CheckpointSpec]:
    return [CONTENTS[name].draw(SeededChoices(seed)) for seed in SEEDS]


def tensors(spec: CheckpointSpec) -> list[TensorNode]:
    return [tensor for _, tensor in spec.tensors()]


def keys(spec: CheckpointSpec) -> set[object]:
    assert isinstance(spec.tree, DictNode)
    return {key for key, _ in spec.tree.items}


def is_contiguous(tensor: TensorNode) -> bool:
    return tensor.stride == contiguous(tensor.shape)


def floats(spec: CheckpointSpec) -> list[float]:
    """The elements of the float32 tensors."""
    found: list[float] = []
    for tensor in tensors(spec):
        if tensor.dtype == "float32":
            data = visible(tensor, spec.storages[tensor.storage].data)
            found += struct.unpack(f"<{len(data) // 4}f", data)
    return found


def shares(spec: CheckpointSpec) -> bool:
    return len({tensor.storage for tensor in tensors(spec)}) < len(tensors(spec))


def hides(spec: CheckpointSpec) -> bool:
    shown = [0] * len(spec.storages)
    for tensor in tensors(spec):
        shown[tensor.storage] += math.prod(tensor.shape) * ITEMSIZES[tensor.dtype]
    return any(len(storage.data) > size for storage, size in zip(spec.storages, shown, strict=True))


def has_metadata(spec: CheckpointSpec) -> bool:
    return isinstance(spec.tree, ODictNode) and spec.tree.metadata is not None


def text(spec: CheckpointSpec) -> str:
    return json.dumps(spec.tree.to_json())


FEATURES: dict[str, Callable[[CheckpointSpec], bool]] = {
    "plain": lambda spec: has_metadata(spec) and all(map(is_contiguous, tensors(spec))) and not shares(spec),
    "zero-dim": lambda spec: any(tensor.shape == () for tensor in tensors(spec)),
    "empty": lambda spec: sum(0 in tensor.shape for tensor in tensors(spec)) >= 2,
    "noncontiguous": lambda spec: sum(not is_contiguous(tensor) for tensor in tensors(spec)) >= 2,
    "channels-last": lambda spec: any(
        len(t.shape) == 4 and t.stride[1] == 1 and not is_contiguous(t) for t in tensors(spec)
    ),
    "expanded": lambda spec: any(0 in tensor.stride for tensor in tensors(spec)),
    "overlapping": lambda spec: any(t.stride == (1, 1) and min(t.shape) > 1 for t in tensors(spec)),
    "shared-storage": lambda spec: len(set(tensors(spec))) < len(tensors(spec)),
    "partial-views": lambda spec: shares(spec) and hides(spec),
    "nan-payload": lambda spec: any(map(math.isnan, floats(spec))),
    "negative-zero": lambda spec: any(x == 0 and math.copysign(1, x) < 0 for x in floats(spec)),
    "odd-keys": lambda spec: {to_node(""), to_node("line\nbreak")} <= keys(spec),
    "reserved-keys": lambda spec: to_node("__metadata__") in keys(spec),
    "colliding-keys": lambda spec: {to_node("a"), to_node("a.b")} <= keys(spec),
    "int-keys": lambda spec: {to_node(0), to_node(-1)} <= keys(spec),
    "nested": lambda spec: {'"list"', '"tuple"', '"odict"'} <= set(text(spec).replace(",", "").split()),
    "extras-json": lambda spec: {to_node("epoch"), to_node("lr"), to_node("history")} <= keys(spec),
    "extras-python": lambda spec: all(
        f'"t": "{kind}"' in text(spec)
        for kind in ("tuple", "bytes", "complex", "set", "float", "int", "size", "dtype", "device")
    ),
    "empty-bytes": lambda spec: '{"t": "bytes", "v": ""}' in text(spec),
    "metadata": lambda spec: "assign_to_params_buffers" in text(spec),
    "no-metadata": lambda spec: not has_metadata(spec),
    "parameters": lambda spec: (
        {t.requires_grad for t in tensors(spec) if t.tensor_kind == "parameter"} == {True, False}
    ),
    "requires-grad": lambda spec: any(t.requires_grad and t.tensor_kind == "tensor" for t in tensors(spec)),
    "conj": lambda spec: any(t.conj and t.dtype.startswith("complex") for t in tensors(spec)),
    "neg": lambda spec: any(tensor.neg for tensor in tensors(spec)),
    "optimizer": lambda spec: keys(spec) == {to_node("state"), to_node("param_groups")},
    "many": lambda spec: len(tensors(spec)) >= 200,
    "no-tensors": lambda spec: not tensors(spec) and bool(keys(spec)),
    "big-tensor": lambda spec: max(len(storage.data) for storage in spec.storages) >= 256 * 1024,
    **{
        f"dtype-{name}": lambda spec, name=name: any(t.dtype == name for t in tensors(spec))  # type: ignore[misc] # mypy cannot infer a lambda's default
        for name in ITEMSIZES
    },
}


def test_every_content_has_a_feature_to_guarantee() -> None:
    assert FEATURES.keys() == CONTENTS.keys()
    assert all(content.name == name for name, content in CONTENTS.items())
    assert all(content.summary.endswith(".") for content in CONTENTS.values())


@pytest.mark.parametrize("name", CONTENTS)
def test_every_draw_shows_the_content_s_feature(name: str) -> None:
    for seed, spec in enumerate(draws(name)):
        assert FEATURES[name](spec), (seed, spec)


RARE = set(FEATURES) - {"plain", "no-metadata", "dtype-float32", "dtype-int64"}


@pytest.mark.parametrize("name", sorted(name for name in RARE if not name.startswith("dtype-")))
def test_the_plain_content_shows_no_other_feature(name: str) -> None:
    if name == "big-tensor":
        assert all(len(storage.data) < 2048 * 2 for spec in draws("plain") for storage in spec.storages)
        return
    assert not any(FEATURES[name](spec) for spec in draws("plain"))


@pytest.mark.parametrize("name", CONTENTS)
def test_draws_are_determined_by_the_seed_vary_and_are_normalized(name: str) -> None:
    assert draws(name) == draws(name)
    assert len(set(draws(name))) > len(SEEDS) // 2
    for spec in draws(name):
        assert spec.normalized() is spec
        assert CheckpointSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_every_tensor_lies_inside_its_storage() -> None:
    for name in CONTENTS:
        for spec in draws(name)[:5]:
            for tensor in tensors(spec):
                size = math.prod(tensor.shape) * ITEMSIZES[tensor.dtype]
                # visible() raises where a tensor reaches beyond.
                assert len(visible(tensor, spec.storages[tensor.storage].data)) == size


@pytest.mark.parametrize(("dtype", "form"), [("float32", "f"), ("float64", "d"), ("float16", "e"), ("complex64", "f")])
def test_ordinary_elements_are_finite_whatever_was_drawn(dtype: str, form: str) -> None:
    raw = b"\xff\xff\xff\xff\xff\xff\xff\x7f" * 2
    values = struct.unpack(f"<{16 // struct.calcsize(form)}{form}", finite(dtype, raw))
    assert all(map(math.isfinite, values))


def test_ordinary_bools_are_zero_or_one_and_integers_untouched() -> None:
    assert finite("bool", b"\xff\x02") == b"\x01\x00"
    assert finite("int32", b"\xff\xff\xff\x7f") == b"\xff\xff\xff\x7f"
    assert finite("float32", b"\x00\x00\x80\xbf") == b"\x00\x00\x80\xbf"


def test_seeded_choices_stay_within_bounds_and_reach_them() -> None:
    choices = SeededChoices(0)
    assert {choices.integer(-1, 2) for _ in range(200)} == {-1, 0, 1, 2}
    assert {choices.pick("abc") for _ in range(200)} == {"a", "b", "c"}
    assert {choices.boolean() for _ in range(200)} == {True, False}
    assert not any(choices.boolean(0.0) for _ in range(200))
    assert all(choices.boolean(1.0) for _ in range(200))
    assert [len(choices.bytes(size)) for size in (0, 1, 300)] == [0, 1, 300]
    assert {len(choices.text()) for _ in range(500)} == set(range(9))


def test_a_module_of_any_family_is_drawn_when_none_is_named() -> None:
    families = {draw_module(SeededChoices(seed)).family for seed in range(300)}
    assert families == set(MODULE_FAMILIES)
