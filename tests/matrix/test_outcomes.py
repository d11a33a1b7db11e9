from __future__ import annotations

import json
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix.outcomes import FINE, KINDS, VERDICTS, Expectation, Outcome, judge, judge_all, unless_lacking, worst

OK = Outcome(kind="ok")
SKIPPED = Outcome(kind="skipped", message="no CUDA")
REFUSED = Outcome(kind="refused", stage="read", message="no such dtype: x", error_type="KeyError")
OTHERWISE = Outcome(kind="refused", stage="read", message="file not found", error_type="OSError")
AT_WRITE = Outcome(kind="refused", stage="write", message="no such dtype: x", error_type="KeyError")
STRIDE = Outcome(kind="mismatch", stage="compare", message="stride", facets=("stride",))
BYTES = Outcome(kind="mismatch", stage="compare", message="bytes", facets=("bytes",))
BOTH = Outcome(kind="mismatch", stage="compare", message="both", facets=("bytes", "stride"))
NAMELESS = Outcome(kind="mismatch", stage="compare", message="differs")
CRASHED = Outcome(kind="crashed", stage="read", message="boom", error_type="AssertionError")
TIMEOUT = Outcome(kind="timeout", message="took longer than 30 s")

KNOWN_REFUSAL = Expectation(kind="refused", source="known:x", message="no such dtype", stage="read")
KNOWN_MISMATCH = Expectation(kind="mismatch", source="known:x", facets=frozenset({"stride", "aliasing"}))
KNOWN_CRASH = Expectation(kind="crashed", source="known:x", message="boom")
KNOWN_TIMEOUT = Expectation(kind="timeout", source="known:x")
CLAIMED = Expectation(kind="refused", source="capability", message="no such dtype")

TRUTH = {
    "ok": (FINE, {OK: "as-expected"}, "broken"),
    "known refusal": (KNOWN_REFUSAL, {OK: "healed", REFUSED: "known"}, "changed"),
    "known mismatch": (KNOWN_MISMATCH, {OK: "healed", STRIDE: "known"}, "changed"),
    "known crash": (KNOWN_CRASH, {OK: "healed", CRASHED: "known"}, "changed"),
    "known timeout": (KNOWN_TIMEOUT, {OK: "healed", TIMEOUT: "known"}, "changed"),
    "claim": (
        CLAIMED,
        {OK: "unrefused", REFUSED: "refused-as-claimed", AT_WRITE: "refused-as-claimed"},
        "broken",
    ),
}
EVERY = (OK, SKIPPED, REFUSED, OTHERWISE, AT_WRITE, STRIDE, BYTES, BOTH, NAMELESS, CRASHED, TIMEOUT)


@pytest.mark.parametrize("outcome", EVERY, ids=lambda o: f"{o.kind}-{o.message[:8]}-{o.stage}")
@pytest.mark.parametrize("case", TRUTH)
def test_the_truth_table(case: str, outcome: Outcome) -> None:
    expectation, named, otherwise = TRUTH[case]
    wanted = "skipped" if outcome == SKIPPED else named.get(outcome, otherwise)
    verdict = judge(outcome, expectation)
    assert verdict.name == wanted
    assert (verdict.outcome, verdict.expectation) == (outcome, expectation)
    # One cell alone cannot say that a mismatch is healed: not every example shows what it breaks.
    alone = "as-expected" if (wanted, expectation) == ("healed", KNOWN_MISMATCH) else wanted
    assert judge_all([(outcome, expectation)]).name == alone


def test_the_truth_table_reaches_every_kind_and_every_verdict() -> None:
    assert {outcome.kind for outcome in EVERY} == set(KINDS)
    seen = {judge(outcome, expectation).name for outcome in EVERY for expectation, _, _ in TRUTH.values()}
    assert seen == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_only_what_happened_as_it_should_does_not_fail(name: str) -> None:
    fails, sentence = VERDICTS[name]
    assert fails == (name in {"broken", "changed", "healed", "unrefused"})
    assert sentence


def test_a_verdict_says_whether_it_fails() -> None:
    assert judge(CRASHED, FINE).failed
    assert not judge(OK, FINE).failed


@pytest.mark.parametrize(
    ("expectation", "outcomes", "name", "decided_by"),
    [
        (FINE, [OK, OK], "as-expected", OK),
        (FINE, [OK, REFUSED], "broken", REFUSED),
        (FINE, [OK, STRIDE, CRASHED], "broken", CRASHED),
        (FINE, [OK, SKIPPED], "as-expected", OK),
        (FINE, [SKIPPED, SKIPPED], "skipped", SKIPPED),
        # A refusal holds for every example, or it is not what was recorded.
        (KNOWN_REFUSAL, [REFUSED, REFUSED], "known", REFUSED),
        (KNOWN_REFUSAL, [REFUSED, OK], "healed", OK),
        (KNOWN_REFUSAL, [REFUSED, OTHERWISE, OK], "changed", OTHERWISE),
        (KNOWN_REFUSAL, [REFUSED, SKIPPED], "known", REFUSED),
        (KNOWN_CRASH, [CRASHED, OK], "healed", OK),
        (CLAIMED, [REFUSED, OK], "unrefused", OK),
        (CLAIMED, [REFUSED, STRIDE], "broken", STRIDE),
        # A mismatch need not show in every example, but none may show anything else.
        (KNOWN_MISMATCH, [STRIDE, OK], "known", STRIDE),
        (KNOWN_MISMATCH, [STRIDE, OK, SKIPPED], "known", STRIDE),
        (KNOWN_MISMATCH, [OK, OK], "as-expected", OK),
        (KNOWN_MISMATCH, [STRIDE, BYTES], "changed", BYTES),
        (KNOWN_MISMATCH, [STRIDE, BOTH], "changed", BOTH),
        (KNOWN_MISMATCH, [STRIDE, CRASHED], "changed", CRASHED),
        (KNOWN_MISMATCH, [SKIPPED], "skipped", SKIPPED),
        (KNOWN_MISMATCH, [OK, SKIPPED], "as-expected", OK),
    ],
)
def test_a_cell_is_judged_by_all_its_examples_in_whatever_order(
    expectation: Expectation, outcomes: list[Outcome], name: str, decided_by: Outcome
) -> None:
    for ordered in permutations(outcomes):
        verdict = judge_all((outcome, expectation) for outcome in ordered)
        assert (verdict.name, verdict.outcome) == (name, decided_by)


def test_each_example_is_held_to_what_should_have_happened_to_it() -> None:
    fine = judge_all([(OK, FINE), (REFUSED, KNOWN_REFUSAL)])
    assert (fine.name, fine.outcome, fine.expectation) == ("known", REFUSED, KNOWN_REFUSAL)
    swapped = judge_all([(REFUSED, FINE), (OK, KNOWN_REFUSAL)])
    assert (swapped.name, swapped.outcome, swapped.expectation) == ("broken", REFUSED, FINE)


def test_a_cell_without_examples_is_skipped() -> None:
    verdict = judge_all([])
    assert verdict.name == "skipped"
    assert verdict.outcome.message == "no example was tried"


outcomes = st.lists(st.sampled_from(EVERY), min_size=1)
expected = st.sampled_from([expectation for expectation, _, _ in TRUTH.values()])


@given(st.lists(st.tuples(st.sampled_from(EVERY), expected), min_size=1))
def test_no_failure_is_hidden_by_other_examples(judged: list[tuple[Outcome, Expectation]]) -> None:
    failing = set()
    for outcome, expectation in judged:
        verdict = judge(outcome, expectation)
        if verdict.failed and (verdict.name, expectation.kind) != ("healed", "mismatch"):
            failing.add(verdict.name)
    found = judge_all(judged)
    assert found.failed == bool(failing)
    assert not failing or found.name in failing
    assert (found.name == "skipped") == all(outcome.kind == "skipped" for outcome, _ in judged)


@given(outcomes)
def test_the_worst_outcome_stands_for_all(listed: list[Outcome]) -> None:
    found = worst(listed)
    assert KINDS.index(found.kind) == min(KINDS.index(outcome.kind) for outcome in listed)
    assert set(found.facets) == {f for outcome in listed if outcome.kind == found.kind for f in outcome.facets}


def test_an_expected_stage_and_message_are_both_needed() -> None:
    assert KNOWN_REFUSAL.explains(REFUSED)
    assert not KNOWN_REFUSAL.explains(AT_WRITE)
    assert not KNOWN_REFUSAL.explains(OTHERWISE)


def test_an_outcome_as_json_is_json_and_leaves_out_what_is_empty() -> None:
    assert OK.to_json() == {"kind": "ok"}
    assert json.loads(json.dumps(STRIDE.to_json())) == {
        "kind": "mismatch",
        "stage": "compare",
        "message": "stride",
        "facets": ["stride"],
    }


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="an outcome is 'fine'; expected one of crashed, timeout"):
        Outcome(kind="fine")
    for kind in ("fine", "skipped"):
        with pytest.raises(ValueError, match=f"'{kind}' is expected; what can be is one of crashed, timeout"):
            Expectation(kind=kind)


def test_what_a_release_cannot_build_was_not_tried() -> None:
    lacking = Outcome(kind="refused", stage="write", message="this torch has no tensors of dtype 'float8_e8m0fnu'")
    assert unless_lacking(lacking) == Outcome(kind="skipped", stage="write", message=lacking.message)
    for other in (Outcome(kind="ok"), Outcome(kind="refused", message="the file says: this torch has no tensors")):
        assert unless_lacking(other) is other
