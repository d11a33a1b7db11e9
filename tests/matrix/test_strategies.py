from __future__ import annotations

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from matrix.contents import CONTENTS
from matrix.drawing import MODULE_FAMILIES
from matrix.modules import build_module, example_inputs, forward
from matrix.modulespec import ModuleSpec
from matrix.spec import CheckpointSpec
from matrix.strategies import DrawnChoices, content_states, modules, states

QUICK = settings(max_examples=15, deadline=None)
FIND = settings(max_examples=200, deadline=None, database=None, derandomize=True, phases=[Phase.generate, Phase.shrink])


def shapes(spec: CheckpointSpec) -> list[tuple[int, ...]]:
    return [tensor.shape for _, tensor in spec.tensors()]


@pytest.mark.parametrize("name", CONTENTS)
def test_every_content_can_be_drawn_by_hypothesis(name: str) -> None:
    found = []

    @settings(max_examples=3, deadline=None, database=None, derandomize=True)
    @given(content_states(name))
    def collect(spec: CheckpointSpec) -> None:
        found.append(spec)

    collect()
    assert found
    assert all(isinstance(spec, CheckpointSpec) and spec.normalized() is spec for spec in found)


@QUICK
@given(states(contents=st.sampled_from(("plain", "shared-storage"))))
def test_contents_can_be_chosen(spec: CheckpointSpec) -> None:
    assert shapes(spec)


@QUICK
@given(modules())
def test_drawn_modules_run(spec: ModuleSpec) -> None:
    assert spec.family in MODULE_FAMILIES
    assert forward(build_module(spec), example_inputs(spec))


@QUICK
@given(modules(families=st.just("lstm")))
def test_families_can_be_chosen(spec: ModuleSpec) -> None:
    assert spec.family == "lstm"


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, str, list[bool], list[int], str]:
    """One answer to every question that can be asked."""
    choices = DrawnChoices(draw)
    return (
        choices.integer(2, 5),
        choices.pick(("a", "b")),
        [choices.boolean(0.0), choices.boolean(1.0)],
        [len(choices.bytes(size)) for size in (0, 3, 1000)],
        choices.text(),
    )


@settings(deadline=None)
@given(answers())
def test_drawn_choices_stay_within_bounds(drawn: tuple[int, str, list[bool], list[int], str]) -> None:
    number, letter, truths, sizes, text = drawn
    assert 2 <= number <= 5
    assert letter in {"a", "b"}
    assert truths == [False, True]
    assert sizes == [0, 3, 1000]
    assert len(text) <= 8


def test_a_state_shrinks_to_one_small_tensor_of_zeros() -> None:
    smallest = find(content_states("plain"), lambda _: True, settings=FIND)
    assert shapes(smallest) == [(1,)]
    assert [storage.data for storage in smallest.storages] == [bytes(4)]


def test_a_shrunk_failure_keeps_what_made_it_fail_and_little_else() -> None:
    smallest = find(states(), lambda spec: any(t.dtype == "float16" for _, t in spec.tensors()), settings=FIND)
    # The simplest content comes first, so a failure of a dtype is shown in a plain state.
    assert [tensor.dtype for _, tensor in smallest.tensors()] == ["float16"]
    assert shapes(smallest) == [(1,)]


def test_large_runs_of_bytes_shrink_to_zeros() -> None:
    smallest = find(content_states("big-tensor"), lambda _: True, settings=FIND)
    assert not any(any(storage.data) for storage in smallest.storages)
    assert smallest.size_bytes >= 256 * 1024
