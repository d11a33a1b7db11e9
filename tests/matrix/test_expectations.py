from __future__ import annotations

from typing import Any

import pytest

from matrix.expectations import MOST_COVERED, Expectations, Known, KnownError, load_known, parse
from matrix.outcomes import FINE, Expectation

REFUSAL = """
[[known]]
id = "no-float8"
cells = ["roundtrip:torch-legacy:torch>torch:*:dtype-float8*"]
outcome = "refused"
stage = "read"
message = "no attribute 'dtype'"
reason = "torch cannot read it back"
link = "https://example.org/1"
"""
CELL = "roundtrip:torch-legacy:torch>torch:wo:dtype-float8_e5m2"
CLAIM = Expectation(kind="refused", source="capability", reason="not claimed")


def changed(**fields: str | None) -> str:
    """The entry with some of its lines replaced, added or (None) removed."""
    lines = [line for line in REFUSAL.splitlines() if line.partition(" ")[0] not in fields]
    return "\n".join(lines + [f"{name} = {value}" for name, value in fields.items() if value is not None])


def one(text: str = REFUSAL) -> Known:
    (entry,) = parse(text, "known/test.toml")
    return entry


def expectations(text: str = REFUSAL, *, torch: str = "2.13.0", **options: Any) -> Expectations:
    return Expectations(parse(text, "known/test.toml"), versions={"torch": torch}, **options)


def test_an_entry_says_what_should_happen_in_its_cells() -> None:
    found = expectations().for_cell(CELL)
    assert found == Expectation(
        kind="refused",
        reason="torch cannot read it back",
        link="https://example.org/1",
        source="known:no-float8",
        message="no attribute 'dtype'",
        stage="read",
    )


def test_other_cells_are_fine_unless_a_format_claims_something() -> None:
    other = CELL.replace("legacy", "zip")
    assert expectations().for_cell(other) is FINE
    assert expectations(claims=lambda _: CLAIM).for_cell(other) is CLAIM


def test_cells_can_be_exempt() -> None:
    text = changed(**{"except": '["*:dtype-float8_e5m2"]'})
    assert expectations(text).for_cell(CELL) is FINE
    assert expectations(text).for_cell(CELL + "fnuz").kind == "refused"


def test_a_reproducer_is_evidence_too() -> None:
    assert one(changed(link=None, reproducer='"import torch"')).expectation.link == "import torch"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(colour='"red"'), "no-float8 has the unknown field 'colour'; expected cells, covers, except"),
        (changed(id=None), "an entry without id has no 'id'"),
        (changed(cells=None), "has no 'cells'"),
        (changed(cells="[]"), "has no 'cells'"),
        (changed(outcome=None), "has no 'outcome'"),
        (changed(reason=None), "has no 'reason'"),
        (changed(reason='""'), "has no 'reason'"),
        (changed(link=None), "has no evidence; give a link, or a reproducer"),
        (changed(message=None), "has no message; give the beginning"),
        (changed(outcome='"crashed"', message=None), "has no message"),
        (
            changed(outcome='"ok"'),
            "has the outcome 'ok'; expected one of crashed, timeout, mismatch, refused",
        ),
        (changed(outcome='"skipped"'), "has the outcome 'skipped'"),
        (changed(outcome='"mismatch"'), "is a mismatch without facets"),
        (changed(cells=f'"{CELL}"'), "for 'cells'; expected a list of texts"),
        (changed(cells="[1]"), "for 'cells'; expected a list of texts"),
        (changed(reason="3"), "has 3 for 'reason'; expected text"),
        (changed(versions='">=2"'), "for 'versions'; expected a table of texts"),
        (changed(versions="{torch = 2}"), "for 'versions'; expected a table of texts"),
        (changed(versions='{torch = "new"}'), "has a broken range"),
        (changed(cells='["*"]'), "has the pattern '\\*', which is too broad"),
        (changed(cells='["roundtrip:*"]'), "which is too broad"),
        (changed(cells='["roundtrip:*>*:*"]'), "which is too broad"),
        ("[[knwon]]\nid = 'x'", "known/test.toml has 'knwon'; expected \\[\\[known\\]\\] tables alone"),
        ("[[known", "known/test.toml is no TOML"),
    ],
)
def test_an_entry_that_breaks_the_rules_is_refused(text: str, message: str) -> None:
    with pytest.raises(KnownError, match=message):
        parse(text, "known/test.toml")


@pytest.mark.parametrize(
    ("allowed", "torch", "applies"),
    [
        (">=2.6", "2.6.0", True),
        (">=2.6", "2.5.1", False),
        (">=2.6,<2.16", "2.15.0+cu130", True),
        (">=2.6,<2.16", "2.16.0", False),
        (">=2.6", "2.6.0a0+git123", True),
        ("<2.6", "2.6.0rc1", False),
    ],
)
def test_an_entry_out_of_its_range_is_inert(allowed: str, torch: str, applies: bool) -> None:
    found = expectations(changed(versions=f'{{torch = "{allowed}"}}'), torch=torch)
    assert (found.for_cell(CELL).kind == "refused") == applies
    assert found.unmatched([]) == (["no-float8"] if applies else [])
    if not applies:
        found.verify(["roundtrip:torch-zip:torch>torch:wo:plain"])


def test_a_range_of_a_library_that_is_not_there_is_inert() -> None:
    assert expectations(changed(versions='{safetensors = ">=0.4"}')).for_cell(CELL) is FINE


def test_two_entries_of_one_name_are_refused_even_where_one_is_inert() -> None:
    with pytest.raises(KnownError, match="two known differences are named 'no-float8'"):
        expectations(REFUSAL + changed(versions='{torch = "<1"}'))


def test_two_entries_for_one_cell_are_refused() -> None:
    text = REFUSAL + changed(id='"other"', cells='["roundtrip:torch-legacy:*"]')
    with pytest.raises(KnownError, match="falls under 'no-float8' and 'other'"):
        expectations(text).for_cell(CELL)
    with pytest.raises(KnownError, match="falls under 'no-float8' and 'other'"):
        expectations(text).verify([CELL])


def test_a_known_difference_must_agree_with_what_the_format_claims() -> None:
    assert expectations(claims=lambda _: CLAIM).for_cell(CELL).source == "known:no-float8"
    text = changed(outcome='"mismatch"', facets='["stride"]')
    with pytest.raises(KnownError, match="is mismatch by 'no-float8' and refused by its format's claim"):
        expectations(text, claims=lambda _: CLAIM).for_cell(CELL)


def test_an_entry_that_matches_no_cell_is_named() -> None:
    assert expectations().unmatched([CELL]) == []
    expectations().verify([CELL])
    other = [CELL.replace("legacy", "zip")]
    assert expectations().unmatched(other) == ["no-float8"]
    with pytest.raises(KnownError, match="'no-float8' covers no cell"):
        expectations().verify(other)


def test_an_entry_does_not_grow_unseen() -> None:
    many = [f"{CELL}-{number}" for number in range(MOST_COVERED + 1)]
    expectations().verify(many[:-1])
    with pytest.raises(KnownError, match=f"covers {len(many)} cells; expected {MOST_COVERED} at most"):
        expectations().verify(many)
    counted = expectations(changed(covers=str(len(many))))
    counted.verify(many)
    with pytest.raises(KnownError, match=f"covers {len(many) - 1} cells; expected {len(many)}, as it says"):
        counted.verify(many[:-1])


MISMATCH = """
[[known]]
id = "{0}"
cells = ["roundtrip:torch-zip:torch>compat:wo:{0}"]
outcome = "mismatch"
facets = ["{0}"]
reason = "why {0}"
link = "https://example.org/{0}"
"""


def test_a_state_with_several_features_shares_what_is_expected_of_each() -> None:
    zips = "roundtrip:torch-zip:torch>compat:wo:"
    found = expectations(REFUSAL + MISMATCH.format("stride") + MISMATCH.format("bytes"))
    assert found.combined([]) is FINE
    assert found.combined([zips + "plain"]) is FINE
    both = found.combined([zips + "plain", zips + "stride", zips + "bytes"])
    assert (both.kind, both.facets) == ("mismatch", frozenset({"stride", "bytes"}))
    assert found.combined([zips + "stride", CELL]).source == "known:no-float8"


def test_of_several_refusals_the_earliest_is_expected() -> None:
    early = changed(id='"refused-at-write"', stage='"write"', cells='["roundtrip:torch-legacy:torch>torch:wo:early"]')
    found = expectations(REFUSAL + early)
    assert found.combined([CELL, "roundtrip:torch-legacy:torch>torch:wo:early"]).source == "known:refused-at-write"


def test_a_crash_of_one_feature_is_not_forgotten() -> None:
    crash = changed(outcome='"crashed"')
    assert expectations(crash).combined(["roundtrip:torch-zip:torch>torch:wo:plain", CELL]).kind == "crashed"


def test_what_is_shipped_loads_and_no_name_is_given_twice() -> None:
    known = load_known()
    Expectations(known, versions={})
    assert all(entry.expectation.reason and entry.expectation.link for entry in known)
