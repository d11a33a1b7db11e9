"""Places: on every measured cell exactly what was measured, whatever was; few, where few are enough."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from matrix.covering import Place, Table, places
from matrix.measured import Group
from matrix.versionknown import Who

RELEASES = ("1.4.0", "1.10.2", "1.9.0", "2.0.1", "2.10.0")
NAMES = (*RELEASES, "compat", "1.4.0-python2")
PAIRS = st.tuples(st.sampled_from(NAMES), st.sampled_from((*RELEASES, "compat", "tinygrad")))
GROUPS = st.tuples(
    st.sampled_from(("torch-legacy", "torch-zip")),
    st.sampled_from(("wo", "full")),
    st.sampled_from(("state", "views", "module")),
)


def holds(place: Place, group: Group, writer: str, reader: str) -> bool:
    format_, mode, what = group
    return (
        format_ in place.format
        and mode in place.mode
        and ("*" in place.what or what in place.what)
        and Who.of(place.writer).covers(writer)
        and Who.of(place.reader).covers(reader)
    )


@given(st.dictionaries(GROUPS, st.dictionaries(PAIRS, st.booleans(), max_size=20), max_size=8))
def test_measured_cells_are_covered_where_it_happened_and_nowhere_else(tables: dict[Group, Table]) -> None:
    found = places(tables)
    for group, table in tables.items():
        for (writer, reader), happens in table.items():
            assert any(holds(place, group, writer, reader) for place in found) == happens, (group, writer, reader)


def table(happens: dict[str, str]) -> Table:
    """A table by a text per reader: one sign per release that writes, `.` where nothing was measured."""
    signs = {"+": True, "-": False}
    return {
        (writer, reader): signs[sign]
        for reader, text in happens.items()
        for writer, sign in zip(("1.4.0", "1.9.0", "1.10.2", "2.0.1"), text, strict=True)
        if sign in signs
    }


def test_ranges_run_through_what_was_not_measured_and_join_formats_modes_and_contents() -> None:
    one = table({"1.4.0": "----", "1.9.0": "-+.+", "2.0.1": "-.++"})
    other = table({"1.9.0": "-.+.", "2.0.1": "-+++"})
    tables = {(format_, mode, "state"): one for format_ in ("torch-legacy", "torch-zip") for mode in ("wo", "full")}
    tables |= {(*group[:2], "views"): other for group in list(tables)}
    (place,) = places(tables)
    assert place == Place(
        format=("torch-legacy", "torch-zip"),
        mode=("wo", "full"),
        what=("*",),
        writer=(">=1.9.0",),
        reader=(">=1.9.0",),
    )


def test_what_stands_against_a_range_splits_it() -> None:
    group = ("torch-zip", "wo", "state")
    found = places({group: table({"1.9.0": "+-+-", "1.10.2": "+-+-", "2.0.1": "++++"})})
    assert [(place.writer, place.reader) for place in found] == [
        ((">=0,<1.9.0", ">=1.10.2,<2.0.1"), (">=0,<2.0.1",)),
        ((">=0",), (">=2.0.1",)),
    ]


def test_what_never_happens_has_no_place() -> None:
    assert places({("torch-zip", "wo", "state"): table({"2.0.1": "----"})}) == []
    assert places({}) == []
