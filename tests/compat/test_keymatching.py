"""Which keys of a checkpoint are which keys of a module."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat.errors import Mismatch
from compat.keymatching import Choice, match, wrappers_own
from compat.keys import rename


def matched(source: list[str], target: list[str], prefix: str | None = "auto") -> dict[str, str]:
    found = match(source, target, prefix)
    return {key: found.rename(key) for key in source}


@pytest.mark.parametrize(
    ("source", "target", "prefix"),
    [
        (["module.a", "module.b"], ["a", "b"], "module."),
        (["a", "b"], ["module.a", "module.b"], "+module."),
        (["module.a", "module.b"], ["module.a", "module.b"], ""),
        (["module.module.a"], ["module.a"], "module."),
        (["model.a", "model.b"], ["module.a", "module.b"], "model.+module."),
        (["module._orig_mod.a"], ["a"], "module."),
        (["my.own.a", "my.own.b"], ["a", "b"], "my.own."),
        (["a", "x"], ["a", "b"], ""),
        (["q.a"], ["b"], ""),
        # A prefix that no wrapper gives, for one key of many, would be a guess.
        (["stem.w", "b1.w", "b2.w", "b3.w"], ["w", "c1.v", "c2.v", "c3.v"], ""),
        ([], ["a"], ""),
        (["a"], [], ""),
    ],
)
def test_prefixes(source: list[str], target: list[str], prefix: str) -> None:
    assert match(source, target, "auto").prefix == prefix


def test_steps_inside_are_taken_off_and_put_on_at_any_depth() -> None:
    plain = ["a.b.w", "c.w"]
    wrapped = ["a._orig_mod.b._fsdp_wrapped_module.w", "c._checkpoint_wrapped_module.w"]
    assert list(matched(wrapped, plain).values()) == plain
    assert list(matched(plain, wrapped).values()) == wrapped
    fronts = [f"_forward_module.model.{key}" for key in wrapped]
    assert list(matched(fronts, plain).values()) == plain


def test_what_is_exactly_there_is_not_renamed() -> None:
    both = ["a.w", "a._orig_mod.w"]
    assert list(matched([*both, "x"], both).values()) == [*both, "x"]


def test_metadata_finds_wrapped_parts() -> None:
    target = ["block._orig_mod.bn.weight", "head.weight"]
    state: Any = OrderedDict.fromkeys(["module.block.bn.weight", "module.head.weight"])
    versions = {"": 1, "module": 5, "module.block": 6, "module.block.bn": 2, "module.head": 3}
    state._metadata = OrderedDict((path, {"version": version}) for path, version in versions.items())
    renamed: Any = rename(state, match(list(state), target, "auto").rename)
    assert list(renamed) == target
    found = {path: facts["version"] for path, facts in renamed._metadata.items()}
    assert found == {"": 5, "block._orig_mod": 6, "block._orig_mod.bn": 2, "head": 3}


def test_weight_norm_both_ways() -> None:
    old, new = (
        ["c.weight_g", "c.weight_v", "c.bias"],
        [
            "c.parametrizations.weight.original0",
            "c.parametrizations.weight.original1",
            "c.bias",
        ],
    )
    assert list(matched(old, new).values()) == new
    assert list(matched(new, old).values()) == old
    # A parameter of such a name, without its partner in the module, stays what it is.
    assert matched(["c.rank_g"], ["c.rank"]) == {"c.rank_g": "c.rank_g"}


def test_two_that_fit_equally_are_refused() -> None:
    source = ["encoder_q.w", "encoder_k.w", "queue"]
    with pytest.raises(Mismatch, match=r"without 'encoder_k\.' and without 'encoder_q\.'.*prefix='encoder_k\.'"):
        match(source, ["w"], "auto")
    assert matched(source, ["w"], "encoder_q.")["encoder_q.w"] == "w"


def test_a_wrapper_s_own_state() -> None:
    assert wrappers_own("n_averaged", "module.") == "torch.optim.swa_utils.AveragedModel"
    assert wrappers_own("n_averaged", "+module.") is not None
    assert wrappers_own("n_averaged", "") is None
    assert wrappers_own("weight", "module.") is None


steps = st.sampled_from(["module", "_orig_mod", "model", "a", "b", "conv", "_fsdp_wrapped_module"])
names = st.lists(st.lists(steps, min_size=1, max_size=4).map(".".join), min_size=1, max_size=8, unique=True)


@given(source=names, target=names)
def test_a_match_never_loses_what_fits_as_it_is(source: list[str], target: list[str]) -> None:
    try:
        found = match(source, target, "auto")
    except Mismatch:
        return
    hits = {found.rename(key) for key in source} & set(target)
    if not found.prefix:
        assert all(found.rename(key) == key for key in source if key in target)
    assert len(hits) >= 1 or not set(source) & set(target)


def test_choices() -> None:
    choice = Choice(["a.*", re.compile(r"\.bias$")], ["*.skip"])
    assert [key for key in ("a.w", "b.bias", "b.w", "a.skip", "abias") if key in choice] == ["a.w", "b.bias"]
    assert choice.idle(["a.w"]) == ([r"\.bias$"], ["*.skip"])
    assert "anything" in Choice(None, None)
    assert "a" not in Choice([], None)
