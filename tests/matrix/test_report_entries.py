"""The entry that would record a failure is one that the matrix takes."""

from __future__ import annotations

from typing import Any

import pytest

from matrix.expectations import Expectations, parse
from matrix.outcomes import Outcome, judge
from matrix.report import CellLine
from matrix.report.entries import entry
from tests.matrix.reporting import KNOWN, failing, line

ODD = 'say "no" \\ to \x00\u202e'


@pytest.mark.parametrize(
    "seen",
    [
        Outcome(kind="mismatch", stage="compare", message="['a'] dtype", facets=("aliasing", "dtype")),
        Outcome(kind="refused", stage="write", message="no name for complex32", error_type="Unsupported"),
        Outcome(kind="crashed", stage="read", message="'dtype' of /tmp/x/example.pt is unknown", error_type="KeyError"),
        Outcome(kind="crashed", stage="read", message="storage is too small at 0x7fe9f3bf7950", error_type="E"),
        Outcome(kind="refused", stage="read", message=ODD, error_type="E"),
    ],
)
def test_an_entry_explains_the_outcome_it_was_made_of(seen: Outcome) -> None:
    cell = line(0, "broken", outcome=seen)
    (made,) = parse(entry(cell), "new.toml")
    assert made.covers(cell.id)
    assert made.expectation.explains(seen)
    assert judge(seen, Expectations([made], versions={}).for_cell(cell.id)).name == "known"


def test_what_differs_from_run_to_run_is_no_part_of_it() -> None:
    def message(text: str) -> str:
        seen = Outcome(kind="crashed", message=text)
        return parse(entry(line(0, "broken", outcome=seen)), "x")[0].expectation.message

    assert message("storage is too small at 0x7fe9f3bf7950, 8 bytes") == "storage is too small at"
    assert message("no such file: /tmp/run-17/example.pt") == "no such file:"
    assert len(message("a" * 500)) == 120


def test_a_changed_difference_keeps_its_name() -> None:
    seen = Outcome(kind="mismatch", message="x", facets=("dtype",))
    (made,) = parse(entry(line(0, "changed", outcome=seen, expectation=KNOWN)), "x")
    assert made.id == "lost"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (line(0), ""),
        (line(0, "unrefused"), ""),
        (line(0, "skipped", outcome=Outcome(kind="skipped", message="no CUDA")), ""),
        (line(0, "broken", outcome=Outcome(kind="timeout", message="took longer")), "[[known]]"),
        (line(0, "healed", expectation=KNOWN), "# 'lost' did not happen: remove its entry"),
        (failing(3), "[[known]]"),
    ],
)
def test_there_is_an_entry_where_one_is_an_answer(cell: CellLine, text: str) -> None:
    made: Any = entry(cell)
    assert made.startswith(text)
    assert bool(made) == bool(text)
