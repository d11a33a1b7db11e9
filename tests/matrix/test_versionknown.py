"""Known differences between releases: ranges of writers and readers, evidence, places, strict both ways."""

from __future__ import annotations

import pytest

from matrix.covering import Place
from matrix.expectations import KnownError
from matrix.outcomes import Outcome, judge
from matrix.versionknown import VersionKnowns, Who, load, parse, parse_places, places_text

ENTRY = """
[[known]]
id = "old-layout"
what = ["state", "drawn-*"]
outcome = "refused"
message = ["file not found"]
reason = "the layout is another"
"""
PLACE = """
[[place]]
known = "old-layout"
format = ["torch-zip"]
mode = ["full", "wo"]
what = ["*"]
writer = [">=1.4,<1.5", "1.4.0-python2"]
reader = [">=1.6,<2"]
"""
REFUSED = Outcome(kind="refused", stage="read", message="file not found: data/0")


def knowns(entry: str = ENTRY, place: str = PLACE) -> VersionKnowns:
    entries = parse(entry, "tried")
    return VersionKnowns(entries, parse_places(place, "tried", entries))


def cell(**values: str) -> dict[str, str]:
    given = {"format": "torch-zip", "mode": "full", "what": "state", "writer": "1.4.1", "reader": "1.13.1"}
    return {**given, **values}


def verdict(outcome: Outcome, **values: str) -> str:
    return judge(outcome, knowns().expected(cell(**values), outcome)).name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "known"),
        ({"writer": "1.4.0-python2"}, "known"),
        ({"writer": "1.5.0"}, "broken"),
        ({"writer": "1.3.1-python2"}, "broken"),
        ({"writer": "compat"}, "broken"),
        ({"reader": "2.0.1"}, "broken"),
        ({"reader": "tinygrad"}, "broken"),
        ({"mode": "default"}, "broken"),
        ({"format": "torch-legacy"}, "broken"),
    ],
)
def test_a_refusal_is_known_between_these_releases_alone(values: dict[str, str], expected: str) -> None:
    assert verdict(REFUSED, **values) == expected


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome(kind="ok"), "healed"),
        (Outcome(kind="refused", message="another sentence"), "changed"),
        (Outcome(kind="crashed", message="file not found"), "changed"),
        (Outcome(kind="skipped"), "skipped"),
    ],
)
def test_what_is_known_must_happen_as_it_says(outcome: Outcome, expected: str) -> None:
    assert verdict(outcome) == expected


def test_of_several_that_may_happen_the_one_that_did_is_expected() -> None:
    other = ENTRY.replace("old-layout", "other").replace("file not found", "no such class")
    both = knowns(ENTRY + other, PLACE + PLACE.replace("old-layout", "other"))
    assert [entry.id for entry in both.covering(cell())] == ["old-layout", "other"]
    seen = Outcome(kind="refused", message="no such class: X")
    assert judge(seen, both.expected(cell(), seen)).expectation.source == "known:other"
    assert judge(Outcome(kind="ok"), both.expected(cell(), Outcome(kind="ok"))).name == "healed"


def test_what_happens_by_chance_may_as_well_be_fine_and_nothing_else() -> None:
    chance = knowns(ENTRY.replace('outcome = "refused"', 'outcome = "refused"\nchance = true'))
    outcomes = (REFUSED, Outcome(kind="ok"), Outcome(kind="mismatch", facets=("bytes",)))
    names = [judge(outcome, chance.expected(cell(), outcome)).name for outcome in outcomes]
    assert names == ["known", "as-expected", "changed"]


def test_a_name_is_no_range() -> None:
    who = Who.of([">=1.6,<2", "compat"])
    assert [name for name in ("1.6.0", "1.13.1", "2.0.1", "compat", "1.6.0-python2") if who.covers(name)] == [
        "1.6.0",
        "1.13.1",
        "compat",
    ]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (ENTRY.replace("reason =", "reasons ="), "has the unknown field 'reasons'"),
        (ENTRY.replace('reason = "the layout is another"', ""), "has no 'reason'"),
        (ENTRY.replace('["file not found"]', '"file not found"'), "expected texts"),
        (ENTRY.replace('"the layout is another"', "7"), "expected text"),
        (ENTRY.replace('message = ["file not found"]', ""), "has no message; give the beginning of what is said"),
        (ENTRY + "chance = 1", "has 1 for 'chance'; expected true or false"),
        (ENTRY.replace('"refused"', '"ok"'), "has the outcome 'ok'; expected one of crashed, timeout"),
        (ENTRY.replace('"refused"', '"mismatch"'), "is a mismatch without facets"),
        (ENTRY + ENTRY, "two known differences between releases are named 'old-layout'"),
        (ENTRY + ENTRY.replace("old-layout", "idle"), "'idle' happens nowhere that was measured; it must go"),
        ("[[known", "tried is no TOML"),
    ],
)
def test_an_entry_that_says_too_little_is_refused(entry: str, said: str) -> None:
    with pytest.raises(KnownError, match=said.replace("[", r"\[")):
        knowns(entry)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (PLACE.replace("old-layout", "gone"), "a place of 'gone', which is no known difference"),
        (PLACE.replace('mode = ["full", "wo"]', ""), "has a broken place of old-layout"),
        (PLACE.replace('["torch-zip"]', '"torch-zip"'), "has a broken place of old-layout"),
        (PLACE.replace(">=1.6,<2", ">=one"), "has a broken range for old-layout"),
    ],
)
def test_a_place_that_is_broken_is_refused(place: str, said: str) -> None:
    with pytest.raises(KnownError, match=said):
        knowns(place=place)


def test_places_are_written_as_they_are_read() -> None:
    place = Place(format=("torch-zip",), mode=("wo",), what=("state", 'a"b'), writer=(">=0",), reader=("<2",))
    entries = parse(ENTRY, "tried")
    (found,) = parse_places(places_text({"old-layout": [place]}), "tried", entries)
    assert (found.known, found.what) == (entries[0], frozenset({"state", 'a"b'}))
    assert found.reader.covers("1.0")
    assert not found.reader.covers("2.0")


def test_those_that_are_committed_can_be_read() -> None:
    found = load()
    assert len(found.entries) > 50
    assert all(entry.reason for entry in found.entries)
    (entry,) = found.covering(cell(mode="default", writer="1.4.0", reader="2.6.0"))
    assert entry.id == "zip-1.4-layout"
