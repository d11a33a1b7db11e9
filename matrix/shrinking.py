"""From a failing example to the smallest one, and to a script that shows it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import NoSuchExample

from matrix.drawing import CONTENTS
from matrix.examples import Example
from matrix.exports import running as exporting
from matrix.outcomes import Outcome, Verdict
from matrix.reproduce import rerun, script
from matrix.spec import CheckpointSpec
from matrix.strategies import content_states

if TYPE_CHECKING:
    from matrix.runner import Run, Tally

# Shrinking runs a cell many times; the first few findings are worth it, a hundredth twin is not.
MAX_SHRUNK: Final = 5
_TRIES: Final = 400
# Checks whose failures a state alone shows.
_OF_STATES: Final = frozenset({"convert", "inert", "roundtrip"})
_MAX_JSON: Final = 20_000


def smallest(run: Run, tally: Tally, verdict: Verdict) -> dict[str, Any]:
    """The smallest example of a failing cell that can be found, and where its script lies."""
    if tally.worst is None:
        raise ValueError(f"{tally.cell.id} has no failing example")
    example = tally.worst[1]
    shrunk = _shrunk(run, tally, verdict)
    if shrunk is not None:
        example = shrunk
    told = {"expected": _expected_text(verdict), "seen": _seen_text(verdict.outcome)}
    export = tally.cell.check == exporting.CHECK
    if export:
        run.shrunk += 1
        subject = run.settings.implementations["compat"].exporting
        text = exporting.reproducer(
            tally.cell, example.seed, verdict.outcome, subject, shrink=run.shrunk <= MAX_SHRUNK, **told
        )
    elif tally.cell.check in _OF_STATES:
        text = script(example.spec, tally.cell, suffix=run.suffixes[tally.cell["format"]], **told)
    else:
        text = rerun(tally.cell, example.seed, **told)
    folder = run.settings.out / "reproducers"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^A-Za-z0-9._-]+", "_", tally.cell.id)[:120] + ".py")
    path.write_text(text, encoding="utf-8")
    found: dict[str, Any] = {"seed": example.seed, "shrunk": shrunk is not None, "reproducer": str(path)}
    if export:
        return found
    as_json = example.spec.to_json()
    if len(str(as_json)) <= _MAX_JSON:
        found["example"] = as_json
    return found


def _shrunk(run: Run, tally: Tally, verdict: Verdict) -> Example | None:
    """The smallest state that fails the same way, as Hypothesis finds it; None where it finds none."""
    content = tally.worst[1].content if tally.worst else ""
    if content not in CONTENTS or run.shrunk >= MAX_SHRUNK:
        return None
    run.shrunk += 1

    def fails(spec: CheckpointSpec) -> bool:
        trial = type(tally)(cell=tally.cell, expect=tally.expect)
        run.push(Example(content=content, seed=-1, spec=spec), [trial])
        return trial.verdict().name == verdict.name

    try:
        spec = find(
            content_states(content),
            fails,
            settings=settings(
                max_examples=_TRIES,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
    except NoSuchExample:
        return None
    return Example(content=content, seed=-1, spec=spec)


def _expected_text(verdict: Verdict) -> str:
    wanted = verdict.expectation
    return f"{wanted.kind} ({wanted.reason})" if wanted.reason else wanted.kind


def _seen_text(outcome: Outcome) -> str:
    where = f" at {outcome.stage}" if outcome.stage else ""
    kind = f" {outcome.error_type}" if outcome.error_type else ""
    return f"{outcome.kind}{where}:{kind} {outcome.message}".rstrip(": ")
