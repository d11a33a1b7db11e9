from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrix.axes import Axes, Value, load_axes
from matrix.cells import Cell, Plan, UnknownCellError, plan, select
from matrix.rules import RULES, Rule

CONTENTS = ("plain", "module-mixed", "dtype-float16", "shared-storage")
FORMATS = {
    "torch-zip": {"unpickles": True, "mmap": True, "written": True, "hub": True},
    "torch-legacy": {"unpickles": True, "mmap": True, "written": True},
    "safetensors": {"unpickles": False, "mmap": True, "written": True},
    "torchscript": {"unpickles": True, "mmap": True, "written": False},
}


def make_axes() -> Axes:
    axes = load_axes()
    formats = [Value(id=name, summary="", facts=facts) for name, facts in FORMATS.items()]
    given = {"format": formats, "via": formats}
    named = {
        "content": CONTENTS,
        "optimizer": ("Adam", "LBFGS"),
        "scheduler": ("none", "StepLR"),
        "mutation": ("missing", "shape"),
        "feature": ("none", "tied"),
    }
    recipes = {"whole": True, "several-one": False}
    given["recipe"] = [Value(id=name, summary="", facts={"by_torch": by}) for name, by in recipes.items()]
    targets = {"onnx": ["static", "batch", "auto"], "torchscript-frozen": ["batch"], "torch-export": ["batch"]}
    given["target"] = [Value(id=name, summary="", facts={"sizes": sizes}) for name, sizes in targets.items()]
    families = {"linear": True, "conv2d-bn": False}
    given["family"] = [Value(id=name, summary="", facts={"general": general}) for name, general in families.items()]
    given |= {name: [Value(id=value, summary="") for value in values] for name, values in named.items()}
    for name, values in given.items():
        axes = axes.with_values(name, values)
    return axes


AXES = make_axes()
PLAN: Plan = plan(AXES)
IDS = {cell.id for cell in PLAN.cells}


def test_an_id_shows_what_is_no_default_in_a_fixed_order_and_the_content_last() -> None:
    cell = Cell.make(
        AXES,
        "roundtrip",
        content="dtype-float16",
        protocol="p4",
        prefix="module.",
        map_location="cpu",
        weights_only="wo",
        reader="compat",
        writer="torch",
        format="torch-legacy",
    )
    assert cell.id == "roundtrip:torch-legacy:torch>compat:wo:cpu:module.:p4:dtype-float16"
    assert cell["mmap"] == "read"


def test_a_new_axis_with_a_default_changes_no_id() -> None:
    text = '[axes.endian]\nsummary = ""\ndefault = "little"\n[axes.endian.values.little]\nsummary = ""\n'
    big = text + '[axes.endian.values.big]\nsummary = ""\n'
    from importlib import resources

    shipped = resources.files("matrix").joinpath("data/axes.toml").read_text(encoding="utf-8")
    longer = load_axes(shipped.replace('"protocol", "content"]', '"protocol", "endian", "content"]', 1) + big)
    for name in AXES.axes:
        longer = longer.with_values(name, AXES[name].values.values())
    assert longer["endian"].default == "little"
    found = {cell.id for cell in plan(longer).cells}
    assert found > IDS
    assert all(":big:" in name for name in found - IDS)


@given(st.data())
def test_every_combination_of_values_comes_back_from_its_id(data: st.DataObject) -> None:
    check = data.draw(st.sampled_from(sorted(AXES.checks)), label="check")
    values = {axis.name: data.draw(st.sampled_from(list(axis.values)), label=axis.name) for axis in AXES.of(check)}
    cell = Cell.make(AXES, check, **values)
    assert Cell.parse(AXES, cell.id) == cell
    assert dict(Cell.parse(AXES, cell.id).values) == values


def test_every_cell_comes_back_from_its_id() -> None:
    assert all(Cell.parse(AXES, cell.id) == cell for cell in PLAN.cells)


@given(st.lists(st.sampled_from(["roundtrip", "torch-zip", "torch>torch", "wo", "plain", "p4", "read", "", ">"])))
@settings(max_examples=200)
def test_what_parses_is_the_id_of_what_it_parses_to(parts: list[str]) -> None:
    text = ":".join(parts)
    try:
        cell = Cell.parse(AXES, text)
    except UnknownCellError:
        return
    assert cell.id == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("travel:torch-zip", "begins with no check"),
        ("roundtrip:torch-zip", "where a writer is expected|cut short"),
        ("roundtrip:torch-zip:torch>torch:wo", "is cut short"),
        ("roundtrip:floppy:torch>torch:wo:plain", "'floppy' where a format is expected"),
        ("roundtrip:torch-zip:torch>torch:wo:p4:module.:plain", "where a content is expected"),
        ("roundtrip:torch-zip:torch>torch:wo:plain:plain", "which no axis of roundtrip has"),
        ("roundtrip:torch-zip:torch:torch:wo:plain", "named 'roundtrip:torch-zip:torch>torch:wo:plain'"),
        ("convert:torch-zip:safetensors:plain", "named 'convert:torch-zip>safetensors:plain'"),
        ("roundtrip:torch-zip:torch>torch:wo:read:plain", "'read' where a content is expected"),
    ],
)
def test_what_is_no_id_is_refused_and_said_why(text: str, message: str) -> None:
    with pytest.raises(UnknownCellError, match=message):
        Cell.parse(AXES, text)


def test_a_cell_needs_a_value_for_every_axis_without_a_default() -> None:
    with pytest.raises(KeyError, match="content"):
        Cell.make(AXES, "roundtrip", format="torch-zip", writer="torch", reader="torch", weights_only="wo")


def test_a_cell_with_other_values_is_the_cell_of_those_values() -> None:
    cell = Cell.parse(AXES, "roundtrip:torch-zip:torch>torch:wo:plain")
    other = cell.with_(AXES, protocol="p3", content="dtype-float16")
    assert other.id == "roundtrip:torch-zip:torch>torch:wo:p3:dtype-float16"
    assert len({cell, other, Cell.parse(AXES, cell.id)}) == 2


def test_ids_are_unique_and_every_combination_is_a_cell_or_counted() -> None:
    assert len(IDS) == len(PLAN.cells)
    total = 0
    for check in AXES.checks:
        size = 1
        for axis in AXES.of(check):
            size *= len(axis.values)
        total += size
    assert len(PLAN.cells) + sum(PLAN.pruned.values()) == total


def test_pruning_by_branches_leaves_what_asking_every_combination_leaves() -> None:
    # The product is walked here in the plainest way there is, as an oracle of the walk that skips branches.
    for check in AXES.checks:
        names = [axis.name for axis in AXES.of(check)]
        rules = [rule for rule in RULES if set(rule.reads) <= set(names)]
        expected = set()
        for chosen in product(*(axis.values for axis in AXES.of(check))):
            values = dict(zip(names, chosen, strict=True))
            if not any(rule.prunes(AXES, values) for rule in rules):
                expected.add(Cell.make(AXES, check, **values).id)
        assert {cell.id for cell in plan(AXES, [check]).cells} == expected, check


class _Recorded(dict[str, str]):
    def __init__(self, values: dict[str, str], seen: set[str]) -> None:
        super().__init__(values)
        self.seen = seen

    def __getitem__(self, key: str) -> str:
        self.seen.add(key)
        return super().__getitem__(key)


def test_a_format_that_is_only_read_has_no_cells_of_writing() -> None:
    assert not any(dict(cell.values).get("format") == "torchscript" for cell in PLAN.cells)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.sentence)
def test_a_rule_looks_at_no_axis_that_it_does_not_name(rule: Rule) -> None:
    seen: set[str] = set()
    for chosen in product(*(AXES[name].values for name in rule.reads)):
        rule.prunes(AXES, _Recorded(dict(zip(rule.reads, chosen, strict=True)), seen))
    assert seen <= set(rule.reads)
    assert seen, "it looks at nothing"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.sentence)
def test_every_rule_prunes_something(rule: Rule) -> None:
    assert PLAN.pruned[rule.sentence] > 0


@pytest.mark.parametrize(
    "name",
    [
        "roundtrip:torch-zip:torch>torch:wo:plain",
        "roundtrip:torch-zip:compat>torch:full:plain",
        "roundtrip:torch-zip:torch>torch:wo:mmap:dtype-float16",
        "roundtrip:torch-legacy:torch>compat:wo:mmap:dtype-float16",
        "roundtrip:torch-legacy:torch>compat:wo:cpu:module.:plain",
        "roundtrip:safetensors:safetensors>torch:wo:dict:plain",
        "roundtrip:safetensors:safetensors>safetensors:wo:device:plain",
        "roundtrip:torch-zip:torch>torch:wo:meta:p5:module-mixed",
    ],
)
def test_what_should_be_a_cell_is_one(name: str) -> None:
    assert name in IDS


@pytest.mark.parametrize(
    "name",
    [
        "roundtrip:safetensors:torch>torch:wo:plain",  # torch.save writes no safetensors
        "roundtrip:torch-zip:torch>safetensors:wo:plain",
        "roundtrip:safetensors:compat>compat:full:plain",  # no pickle, so nothing to trust
        "roundtrip:torch-legacy:torch>torch:wo:mmap:plain",
        "roundtrip:safetensors:compat>safetensors:wo:mmap:plain",
        "roundtrip:safetensors:compat>safetensors:wo:dict:plain",
        "roundtrip:torch-zip:compat>compat:wo:p4:plain",
        "roundtrip:torch-zip:torch>torch:wo:module.:p4:plain",
        "roundtrip:torch-zip:torch>torch:wo:cpu:dtype-float16",
    ],
)
def test_what_makes_no_sense_is_no_cell(name: str) -> None:
    Cell.parse(AXES, name)
    assert name not in IDS


def test_contents_that_say_so_are_general_too() -> None:
    given_by_user = [Value(id="model", summary="", facts={"general": ["model"]})]
    found = {cell.id for cell in plan(AXES.with_values("content", given_by_user)).cells}
    assert "roundtrip:torch-zip:torch>torch:wo:cpu:module.:model" in found


def test_planning_asks_in_branches_and_not_a_million_times() -> None:
    asked = 0

    def counts(_axes: Axes, _values: dict[str, str]) -> bool:
        nonlocal asked
        asked += 1
        return True

    rule = Rule(sentence="nothing is a cell", reads=("format",), prunes=counts)
    found = plan(AXES, ["roundtrip"], [rule])
    assert not found.cells
    assert asked == len(FORMATS)


def test_no_pattern_selects_everything_and_several_are_joined_in_order() -> None:
    assert select(PLAN.cells, []) == PLAN.cells
    both = select(PLAN.cells, ["roundtrip:torch-zip:*", "roundtrip:*:dtype-float16"])
    assert [cell for cell in PLAN.cells if cell in both] == list(both)
    assert {cell["format"] for cell in both} == {"safetensors", "torch-legacy", "torch-zip"}


def test_a_pattern_may_be_an_id() -> None:
    name = "roundtrip:torch-zip:torch>torch:wo:plain"
    assert [cell.id for cell in select(PLAN.cells, [name])] == [name]


def test_a_pattern_that_matches_nothing_is_refused_with_what_is_near() -> None:
    near = "roundtrip:torch-zip:torch>torch:wo:plain"
    with pytest.raises(UnknownCellError, match="no cell matches 'roundtrip:torch-zip:torch>torch:w:plain'") as caught:
        select(PLAN.cells, ["*", near.replace(":wo:", ":w:")])
    assert near in str(caught.value)
    with pytest.raises(UnknownCellError, match="`matrix list` shows them all"):
        select(PLAN.cells, ["~~~~"])
