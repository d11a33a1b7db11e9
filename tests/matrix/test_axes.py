from __future__ import annotations

import pytest

from matrix.axes import Axes, Value, load_axes

SMALL = """
[checks.c]
summary = "a check"
axes = ["who", "mode", "content"]
[axes.who]
summary = "who"
[axes.who.values.a]
summary = "a"
formats = ["x"]
[axes.mode]
summary = "how"
default = "usual"
[axes.mode.values.usual]
summary = "as usual"
[axes.mode.values.odd]
summary = "otherwise"
[axes.content]
summary = "what"
"""


def test_the_shipped_axes_load_and_every_value_says_what_it_is() -> None:
    axes = load_axes()
    assert {"roundtrip"} <= set(axes.checks)
    for check, names in axes.checks.items():
        assert axes.summaries[check]
        assert [axis.name for axis in axes.of(check)] == list(names)
    for axis in axes.axes.values():
        assert axis.summary
        assert axis.default is None or axis.default in axis.values
        assert all(value.summary and value.id == key for key, value in axis.values.items())


def test_facts_are_what_the_table_has_besides_the_summary() -> None:
    assert dict(load_axes(SMALL)["who"].values["a"].facts) == {"formats": ["x"]}


def test_a_value_is_one_table() -> None:
    longer = load_axes(SMALL + '[axes.mode.values.new]\nsummary = "new"\n')
    assert list(longer["mode"].values) == ["usual", "odd", "new"]


def test_other_values_leave_the_axes_they_come_from_alone() -> None:
    axes = load_axes(SMALL)
    other = axes.with_values("content", [Value(id="plain", summary="")])
    assert list(other["content"].values) == ["plain"]
    assert not axes["content"].values


def test_a_content_may_be_named_like_a_default_which_is_never_shown() -> None:
    axes = load_axes(SMALL).with_values("content", [Value(id="usual", summary="")])
    assert "usual" in axes["content"].values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL.replace('default = "usual"', 'default = "gone"'), "axis 'mode' has the default 'gone'"),
        (SMALL.replace('"mode", "content"', '"mode", "colour"'), "the check 'c' has the axis 'colour'"),
        (SMALL + '[axes.content.values.odd]\nsummary = ""\n', "'odd' stands on mode and content"),
        (SMALL + '[axes.mode.values."a:b"]\nsummary = ""\n', "the axis 'mode' has the value 'a:b'"),
        (SMALL + '[axes.mode.values."a>b"]\nsummary = ""\n', "the axis 'mode' has the value 'a>b'"),
        (SMALL + '[axes.mode.values.""]\nsummary = ""\n', "the axis 'mode' has the value ''"),
    ],
)
def test_axes_by_which_no_id_could_be_read_back_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_axes(text)


def with_contents(*names: str) -> Axes:
    return load_axes(SMALL).with_values("content", [Value(id=name, summary="") for name in names])


def test_values_given_later_are_held_to_the_same_rules() -> None:
    with pytest.raises(ValueError, match="'odd' stands on mode and content"):
        with_contents("plain", "odd")
    with pytest.raises(ValueError, match="two values 'plain'"):
        with_contents("plain", "plain")
