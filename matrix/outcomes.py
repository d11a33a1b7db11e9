"""What happened, what should happen, and the judgement of one against the other. Everything here is pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

# Worst first: of several examples of a cell, the worst outcome stands for the cell.
KINDS: Final = ("crashed", "timeout", "mismatch", "refused", "ok", "skipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happened to one example, or to a cell.

    Attributes:
        kind: one of `KINDS`.
        stage: where it happened: write, read, compare, forward.
        message: what was said, in one line; error_type: the exception's class.
        facets: in what the result differs, for a mismatch.
    """

    kind: str
    stage: str = ""
    message: str = ""
    error_type: str = ""
    facets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"an outcome is {self.kind!r}; expected one of {', '.join(KINDS)}")

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON values; what is empty is left out."""
        facts = {name: getattr(self, name) for name in ("kind", "stage", "message", "error_type", "facets")}
        return {name: list(value) if name == "facets" else value for name, value in facts.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What should happen in a cell.

    Attributes:
        kind: the kind of outcome.
        reason: why, in one sentence; link: where that is recorded, or a reproducer.
        source: `default`, `capability` or `known`, and then the entry's id behind a colon.
        message: how the outcome's message must begin; stage: where it must happen; empty for any.
        facets: in what a mismatch may differ; it must differ in at least one of them, and in nothing else.
    """

    kind: str = "ok"
    reason: str = ""
    link: str = ""
    source: str = "default"
    message: str = ""
    stage: str = ""
    facets: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.kind == "skipped":
            raise ValueError(f"{self.kind!r} is expected; what can be is one of {', '.join(KINDS[:-1])}")

    def explains(self, outcome: Outcome) -> bool:
        """Whether an outcome is exactly what is expected."""
        return (
            outcome.kind == self.kind
            and outcome.message.startswith(self.message)
            and (not self.stage or outcome.stage == self.stage)
            and (self.kind != "mismatch" or (outcome.facets != () and self.facets.issuperset(outcome.facets)))
        )


FINE: Final = Expectation()

# How `matrix.peer` begins to say what a release of torch cannot build.
_LACKING: Final = "this torch has no "

# Verdict → whether it fails the run, and what it says.
VERDICTS: Final[Mapping[str, tuple[bool, str]]] = MappingProxyType(
    {
        "as-expected": (False, "what should happen happened"),
        "known": (False, "a known difference happened as recorded"),
        "refused-as-claimed": (False, "what a format does not claim was refused"),
        "skipped": (False, "not run; counted, and no pass"),
        "broken": (True, "something is wrong that no one recorded"),
        "changed": (True, "a known difference happened otherwise than recorded"),
        "healed": (True, "a known difference did not happen: its entry must go"),
        "unrefused": (True, "what a format does not claim was not refused"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A judgement: its name, and the outcome and the expectation that decided it."""

    name: str
    outcome: Outcome
    expectation: Expectation = FINE

    @property
    def failed(self) -> bool:
        """Whether the run fails by it."""
        return VERDICTS[self.name][0]


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of several outcomes; the facets of mismatches are put together."""
    listed = sorted(outcomes, key=lambda outcome: KINDS.index(outcome.kind))
    if not listed:
        return Outcome(kind="skipped", message="no example was tried")
    first = listed[0]
    facets = {facet for outcome in listed if outcome.kind == first.kind for facet in outcome.facets}
    return Outcome(
        kind=first.kind,
        stage=first.stage,
        message=first.message,
        error_type=first.error_type,
        facets=tuple(sorted(facets)),
    )


def unless_lacking(outcome: Outcome) -> Outcome:
    """The outcome, or a skip where this release of torch has no tensors of what should have been tried."""
    if outcome.kind in ("ok", "skipped") or not outcome.message.startswith(_LACKING):
        return outcome
    return Outcome(kind="skipped", stage=outcome.stage, message=outcome.message)


def judge(outcome: Outcome, expectation: Expectation) -> Verdict:
    """Judge one outcome."""
    if outcome.kind == "skipped":
        return Verdict(name="skipped", outcome=outcome, expectation=expectation)
    if expectation.kind == "ok":
        return Verdict(
            name="as-expected" if outcome.kind == "ok" else "broken", outcome=outcome, expectation=expectation
        )
    claimed = expectation.source == "capability"
    if expectation.explains(outcome):
        return Verdict(name="refused-as-claimed" if claimed else "known", outcome=outcome, expectation=expectation)
    if outcome.kind == "ok":
        return Verdict(name="unrefused" if claimed else "healed", outcome=outcome, expectation=expectation)
    return Verdict(name="broken" if claimed else "changed", outcome=outcome, expectation=expectation)


def judge_all(judged: Iterable[tuple[Outcome, Expectation]]) -> Verdict:
    """Judge a cell by all its examples, each against what should have happened to it.

    A refusal must happen every time: one example that gets through heals it. Not every example that has a
    feature also shows what a mismatch breaks, so one without it is fine; the known difference as a whole must
    happen somewhere, which only all its cells together can say.
    """
    verdicts = []
    for outcome, expectation in judged:
        verdict = judge(outcome, expectation)
        if verdict.name == "healed" and expectation.kind == "mismatch":
            verdict = Verdict(name="as-expected", outcome=outcome, expectation=expectation)
        verdicts.append(verdict)
    failed = [verdict for verdict in verdicts if verdict.failed]
    if failed:
        return min(failed, key=lambda v: (v.name == "healed", KINDS.index(v.outcome.kind)))
    for name in ("known", "refused-as-claimed", "as-expected"):
        found = [verdict for verdict in verdicts if verdict.name == name]
        if found:
            outcome = worst(verdict.outcome for verdict in found)
            return Verdict(name=name, outcome=outcome, expectation=found[0].expectation)
    return Verdict(name="skipped", outcome=worst(verdict.outcome for verdict in verdicts))
