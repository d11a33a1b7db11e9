"""Prefixes come off and go on, `_metadata` goes along, nothing collides silently."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch

import compat
from compat.errors import KeyCollision
from compat.keys import detect_prefix, rename


def state(*keys: str, metadata: dict[str, object] | None = None) -> OrderedDict[str, int]:
    made = OrderedDict((key, index) for index, key in enumerate(keys))
    if metadata is not None:
        vars(made)["_metadata"] = OrderedDict(metadata)
    return made


@pytest.mark.parametrize(
    ("keys", "prefix"),
    [
        (["module.a", "module.b"], "module."),
        (["module.module.a"], "module.module."),
        (["_orig_mod.module.a"], "_orig_mod.module."),
        (["module.a", "b"], ""),
        (["module.a", "module."], ""),
        (["modules.a"], ""),
        (["module"], ""),
        ([], ""),
        ([1, "module.a"], "module."),
    ],
)
def test_the_wrappers_that_all_keys_share_are_found(keys: list[object], prefix: str) -> None:
    assert detect_prefix(keys) == prefix


def test_metadata_is_renamed_along() -> None:
    facts: dict[str, object] = {"": 1, "module": 2, "module.conv": 3, "module.conv.bn": 4}
    stripped = compat.strip_prefix(state("module.conv.weight", metadata=facts))
    assert list(vars(stripped)["_metadata"].items()) == [("", 2), ("conv", 3), ("conv.bn", 4)]
    added = compat.add_prefix(stripped, "module.")
    assert list(vars(added)["_metadata"]) == ["", "module", "module.conv", "module.conv.bn"]


def test_a_wrapped_module_reads_what_was_given_its_prefix() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    wrapped = torch.nn.DataParallel(model)
    made = compat.add_prefix(model.state_dict(), "module.")
    assert list(made) == list(wrapped.state_dict())
    assert dict(vars(made)["_metadata"]) == dict(vars(wrapped.state_dict())["_metadata"])
    wrapped.load_state_dict(made)


def test_a_child_that_is_named_like_a_wrapper_is_kept_when_asked() -> None:
    keys = ["module.weight", "module.bias"]
    assert list(compat.strip_prefix(state(*keys))) == ["weight", "bias"]
    assert list(compat.strip_prefix(state(*keys), None)) == keys
    assert list(compat.strip_prefix(state(*keys), "")) == keys


def test_only_what_begins_with_the_prefix_loses_it() -> None:
    assert list(compat.strip_prefix(state("net.a", "other", "x.net.b"), "net.")) == ["net.a"[4:], "other", "x.net.b"]


def test_collisions_are_all_named_and_nothing_is_changed() -> None:
    before = state("module.a", "a", "module.b", "b", "c")
    with pytest.raises(KeyCollision) as caught:
        compat.strip_prefix(before, "module.")
    assert caught.value.keys == {"a": ["module.a", "a"], "b": ["module.b", "b"]}
    assert list(before) == ["module.a", "a", "module.b", "b", "c"]
    with pytest.raises(KeyCollision):
        compat.strip_prefix(state("a._orig_mod.w", "a.w"))


def test_keys_that_are_no_text_stay() -> None:
    mixed: dict[object, int] = {1: 1, "module.a": 2, (2,): 3}
    assert list(rename(mixed, str.upper)) == [1, "MODULE.A", (2,)]
    assert list(compat.strip_prefix(mixed, "module.")) == [1, "a", (2,)]


def test_a_plain_dict_gets_no_metadata() -> None:
    assert vars(compat.strip_prefix({"module.a": 1})) == {}
    assert vars(compat.add_prefix({"a": 1}, "module.")) == {}


def test_what_wrappers_put_inside_goes_wherever_it_stands() -> None:
    keys = ("_fsdp_wrapped_module.module.a._checkpoint_wrapped_module.w", "_fsdp_wrapped_module.module._orig_mod.b")
    assert list(compat.strip_prefix(state(*keys))) == ["a.w", "b"]
    assert list(compat.strip_prefix(state("_forward_module.model.w"))) == ["model.w"]


def test_a_state_without_keys_has_its_wrapper_in_metadata_alone() -> None:
    module = torch.nn.Sequential(torch.nn.GroupNorm(2, 4, affine=False))
    stripped = compat.strip_prefix(torch.nn.DataParallel(module).state_dict())
    assert stripped._metadata == module.state_dict()._metadata  # type: ignore[attr-defined]
    assert compat.strip_prefix({}) == {}


def test_a_root_without_a_version_does_not_get_its_wrappers() -> None:
    state: OrderedDict[str, int] = OrderedDict({"module.0.weight": 1})
    vars(state)["_metadata"] = OrderedDict({"": {"version": 1}, "module.0": {"version": 2}})
    assert vars(compat.strip_prefix(state))["_metadata"] == {"0": {"version": 2}}
    assert vars(compat.strip_prefix(state, "module."))["_metadata"] == {"0": {"version": 2}}
