"""The parts of the check `export`: what is drawn, covered, compared and weighed; both ways, so that each can fail."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from matrix import examples
from matrix.cells import Cell
from matrix.expectations import STAGES, Known, load_known
from matrix.exports import running
from matrix.exports.comparing import Tolerance, compare_outputs, flat, shape_of
from matrix.exports.covering import pairs, pairwise
from matrix.exports.crew import Crew, Job
from matrix.exports.document import page, square
from matrix.exports.families import BATCH, FAMILIES, draw_family
from matrix.exports.features import FEATURES
from matrix.exports.jobs import job_of, module_of
from matrix.exports.reproduce import script
from matrix.exports.smallest import smallest
from matrix.exports.tolerances import table, tolerance
from matrix.exports.weighing import fates, live_keys, weigh
from matrix.exports.worker import EQUAL
from matrix.modules import build_module, forward, in_precision, sized_inputs
from matrix.modulespec import ModuleSpec, layer
from matrix.outcomes import FINE, Expectation, Outcome, judge
from matrix.report import CellLine, Report
from matrix.runner import PROFILES, Run, Settings, make_axes

ROOT = Path(__file__).parents[2]
AXES = make_axes()
ALLOWED = Tolerance(absolute=1e-5, relative=1e-5)
BITS = Tolerance()


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_with_any_batch_and_survives_json(family: str) -> None:
    for seed in range(5):
        spec = draw_family(family, seed)
        assert ModuleSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
        for batch in (BATCH, 1, 5):
            outputs = forward(build_module(spec), sized_inputs(spec, batch=batch, number=0))
            assert outputs, spec
            assert all(bool(torch.isfinite(output).all()) for output in outputs), spec


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")  # it is what is tried
@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_runs_behind_a_linear_module(feature: str) -> None:
    spec = FEATURES[feature].given_to(draw_family("linear", 1))
    assert forward(build_module(spec), sized_inputs(spec, batch=5, number=2))


def test_names_of_families_are_no_contents() -> None:
    assert not set(FAMILIES) & set(examples.contents())
    assert any(family.general for family in FAMILIES.values())


def test_another_precision_leaves_complex_and_integer_tensors_alone() -> None:
    module = in_precision(build_module(FEATURES["conjugated"].given_to(draw_family("linear", 0))), "float16")
    assert {str(tensor.dtype) for tensor in module.state_dict().values()} == {"torch.float16", "torch.complex64"}


def test_a_cover_meets_every_pair_and_is_small() -> None:
    cells = list(Run(Settings(patterns=("export:torchscript-*",))).cells)
    chosen = pairwise(cells)
    assert {pair for cell in chosen for pair in pairs(cell)} == {pair for cell in cells for pair in pairs(cell)}
    assert len(chosen) < len(cells) / 2
    assert pairwise(cells) == chosen
    assert all(len(pairs(cell)) == len(list(combinations(cell.values, 2))) for cell in chosen)


def test_profiles_leave_out_what_they_say() -> None:
    one = "export:onnx:float64:linear"
    default, quick, all_ = (
        running.left_out(Run(Settings(patterns=("export:*",))).cells, patterns, PROFILES[name])
        for name, patterns in (("default", ()), ("quick", (one,)), ("thorough", ()))
    )
    cells = Run(Settings(patterns=("export:*",))).cells
    assert {name.split(":")[1] for name in all_} == {"openvino", "executorch", "aot-inductor"}, "pairs will do"
    assert {cell.id for cell in cells} - quick == {one}, "a cell that is named is run"
    kept = [cell for cell in cells if cell.id not in default]
    for axis in ("family", "precision", "feature", "sizes", "variant"):
        assert {cell[axis] for cell in kept} == set(AXES[axis].values), axis
    assert not {cell["target"] for cell in kept} & {"openvino", "executorch", "aot-inductor"}, "these take minutes"


def test_what_is_left_out_is_skipped_with_a_reason(tmp_path: Path) -> None:
    run = Run(Settings(profile="quick", patterns=("export:onnx:*:linear",), out=tmp_path))
    assert set(run.execute()) == {"skipped"}


def ones(*values: float, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.tensor(values, dtype=dtype)]


def test_outputs_within_tolerance_are_accepted_and_others_are_not() -> None:
    wide = ones(1.0, 2.0, dtype=torch.float64)
    assert compare_outputs(ones(1.0, 2.0), wide, ones(1.0, 2.0), BITS) == (None, 0.0)
    near = ones(1.0, 2.000001)
    assert compare_outputs(ones(1.0, 2.0), wide, near, ALLOWED)[0] is None
    found, worst = compare_outputs(ones(1.0, 2.0), wide, near, BITS)
    assert found is not None
    assert found.facet == "values"
    assert 0 < worst < 1e-6


@pytest.mark.parametrize(
    ("seen", "facet"),
    [
        (ones(1.0, 2.1), "values"),
        (ones(1.0, 2.0, dtype=torch.float64), "dtype"),
        (ones(1.0), "shape"),
        (ones(1.0, float("nan")), "nan"),
        (ones(1.0, float("inf")), "nan"),
        ([*ones(1.0, 2.0), *ones(1.0)], "structure"),
    ],
)
def test_what_differs_is_named(seen: list[torch.Tensor], facet: str) -> None:
    found, _ = compare_outputs(ones(1.0, 2.0), ones(1.0, 2.0, dtype=torch.float64), seen, ALLOWED)
    assert found is not None
    assert found.facet == facet


def test_the_sign_of_zero_and_the_places_of_nan_count() -> None:
    zero, wide = ones(0.0), ones(0.0, dtype=torch.float64)
    found, _ = compare_outputs(zero, wide, ones(-0.0), BITS)
    assert found is not None
    assert found.facet == "bits"
    nan, wide = ones(float("nan"), 1.0), ones(float("nan"), 1.0, dtype=torch.float64)
    assert compare_outputs(nan, wide, ones(float("nan"), 1.0), ALLOWED)[0] is None
    assert compare_outputs(nan, wide, ones(1.0, float("nan")), ALLOWED)[0] is not None
    integers = [torch.tensor([1])]
    assert compare_outputs(integers, integers, [torch.tensor([2])], ALLOWED)[0] is not None


def test_nested_outputs_are_flattened_and_told_apart() -> None:
    values = {"a": torch.zeros(1), "b": (torch.zeros(2), [torch.zeros(3)])}
    assert [len(tensor) for tensor in flat(values)] == [1, 2, 3]
    assert shape_of(values) == "{a: *, b: (*, (*))}"
    assert shape_of(None) == "NoneType"


def test_live_weights_are_those_that_outputs_hang_on() -> None:
    spec = FEATURES["unused"].given_to(draw_family("linear", 0))
    inputs = sized_inputs(spec, batch=3, number=0)
    assert live_keys(lambda: build_module(spec), inputs) == ["weight"]
    tied = FEATURES["tied"].given_to(draw_family("linear", 0))
    live = live_keys(lambda: build_module(tied), sized_inputs(tied, batch=3, number=0))
    assert {"1.first.weight", "1.second.weight"} <= set(live)


def test_weights_are_weighed_by_bytes() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    state = {"a": weight, "b": torch.ones(2), "c": torch.zeros(1), "d": torch.full((4,), 7.0)}
    found = {"a": weight.clone(), "x": torch.ones(2), "c": torch.tensor([-0.0])}
    assert fates(state, found) == {"a": "exact", "b": "renamed", "c": "changed", "d": "lost"}
    assert fates({"a": weight}, {"y": weight.t().contiguous()}) == {"a": "transposed"}
    told = {finding.facet for finding in weigh(state, ["a"], found, "exact")}
    assert told == {"weights-renamed", "weights-changed", "weights-lost", "weights-extra"}
    assert {finding.facet for finding in weigh(state, ["a"], found, "live")} == {"weights-changed"}
    assert {finding.facet for finding in weigh(state, ["a", "d"], found, "live")} == {"weights-changed", "weights-lost"}
    assert {finding.facet for finding in weigh(state, ["d"], found, "none")} == {"weights-changed"}
    shared = {"a": weight, "b": weight}
    assert not weigh(shared, [], shared, "exact")
    assert weigh(shared, [], {"a": weight, "b": weight.clone()}, "exact")[0].facet == "weights-untied"


def test_tolerances_are_data_for_every_class_and_precision() -> None:
    for family in FAMILIES.values():
        for precision in AXES["precision"].values:
            assert set(table()[family.precision][precision]) >= {"absolute", "relative"}
    assert tolerance("torch-export", "mlp", "float32", same_runtime=True) == {"absolute": 0.0, "relative": 0.0}
    assert tolerance("torchscript-script", "encoder", "float32", same_runtime=True)["absolute"] > 0
    for row in table()["exceptions"]:
        assert row["reason"]
        assert set(row["families"]) <= set(FAMILIES)


def test_a_failing_module_shrinks_to_the_layer_that_fails() -> None:
    spec = draw_family("mlp", 3)
    found = smallest(spec, lambda trial: any(item.kind == "GELU" for item in trial.layer.walk()))
    assert found.layer == layer("GELU")
    kept = smallest(spec, lambda _: False)
    assert kept == spec


def test_a_reproducer_shows_the_failure_with_torch_alone(tmp_path: Path) -> None:
    cell = Cell.parse(AXES, "export:torchscript-trace:branching:linear")
    text = script(module_of(cell, 0), cell, {}, expected="ok", seen='it """ends"""')
    assert "import compat" not in text
    assert "import matrix" not in text
    path = tmp_path / "reproducer.py"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", path], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    blocks = [block.split("  artefact:") for block in done.stdout.split("call ")[1:]]
    same = [block[0].split("eager:")[1].split() == block[1].split() for block in blocks]
    assert same[0] is True, "the call of the export"
    assert same[1] is False, "the one that takes the other branch"


@pytest.fixture(scope="module")
def crew() -> Any:
    made = Crew(at_once=1, seconds=100)
    yield made
    made.close()


def run_cell(crew: Crew, name: str, **changes: Any) -> Outcome:
    job = job_of(Cell.parse(AXES, name), 0)
    request = {**json.loads(job.request), **changes}
    return crew.result(Job.of(job.target, **request)).outcome


def test_an_export_goes_through_all_stages(crew: Crew) -> None:
    assert run_cell(crew, "export:torchscript-trace:conv2d-bn").kind == "ok"


def test_a_stage_that_fails_is_named(crew: Crew) -> None:
    found = run_cell(crew, "export:torchscript-trace:unpool")
    assert (found.kind, found.stage) == ("refused", "export")
    found = run_cell(crew, "export:torchscript-trace:linear", subject="tests.exporters:RAISES")
    assert (found.kind, found.stage, found.error_type) == ("crashed", "export", "IndexError")


def test_a_worker_that_hangs_or_dies_is_an_outcome_and_is_replaced(crew: Crew) -> None:
    found = run_cell(crew, "export:torchscript-trace:linear", subject="tests.exporters:DIES")
    assert (found.kind, found.stage, found.message) == ("crashed", "export", "ended with exit code 3")
    found = run_cell(crew, "export:torchscript-trace:linear", subject="tests.exporters:HANGS", seconds=1.0)
    assert (found.kind, found.stage) == ("timeout", "export")
    assert run_cell(crew, "export:torchscript-trace:linear").kind == "ok"


def test_what_eager_torch_lacks_is_skipped(crew: Crew) -> None:
    found = run_cell(crew, "export:torchscript-trace:float16:cdist")
    assert found.kind == "skipped"
    assert found.message.startswith("eager torch: ")


def test_what_is_ordered_is_done_once(crew: Crew) -> None:
    job = job_of(Cell.parse(AXES, "export:torchscript-trace:mlp"), 7)
    crew.order([job, job])
    assert crew.result(job) is crew.result(job)
    other = replace(job, request=job.request.replace("torchscript", "torchscript"))
    assert crew.result(other) is crew.result(job)


def line(target: str, family: str, outcome: Outcome, expectation: Expectation = FINE) -> CellLine:
    cell = Cell.make(AXES, "export", target=target, family=family)
    verdict = judge(outcome, expectation).name
    axes = dict(cell.values)
    return CellLine(
        id=cell.id, axes=axes, outcome=outcome, expectation=expectation, verdict=verdict, examples=1, seconds=0.1
    )


def test_the_page_shows_the_worst_of_every_square_and_each_silent_finding() -> None:
    silent = Expectation(
        kind="mismatch", reason="it forgets", link="print(1)", source="known:forgets", facets=frozenset({"values"})
    )
    lines = [
        line("onnx", "linear", Outcome(kind="ok", message=EQUAL)),
        line("onnx", "mlp", Outcome(kind="ok", message="off by 1e-07 of the largest value")),
        line("onnx", "lstm", Outcome(kind="mismatch", facets=("values",)), silent),
        line("onnx", "gru", Outcome(kind="crashed")),
        line("torch-export", "linear", Outcome(kind="skipped", message="left")),
    ]
    report = Report(header={"versions": {"torch": "2.13.0"}}, cells=tuple(lines), footer={})
    text = page([report])
    rows = {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `")}
    assert rows["linear"].endswith("| = | · |")
    assert rows["mlp"].endswith("| ≈ | · |")
    assert rows["lstm"].endswith("| **wrong** | · |")
    assert rows["gru"].endswith("| **FAILS** | · |")
    assert "### forgets\n\nit forgets." in text
    assert "torch 2.13.0; 4 of\n5 cells" in text
    assert square([lines[0], line("onnx", "linear", Outcome(kind="refused"), replace(silent, kind="refused"))]) == (
        "some refused"
    )


def test_every_entry_of_the_study_is_somewhere() -> None:
    text = (ROOT / "matrix" / "data" / "studied.toml").read_text(encoding="utf-8")
    named = set(re.findall(r"^\[I(\d+)\]$", text, flags=re.MULTILINE))
    assert named == {str(number) for number in range(1, 31)}
    known = {entry.id for entry in load_known()}
    for name in re.findall(r"`((?:onnx|trace|script|frozen|torch|safetensors)[a-z0-9-]+)`", text):
        assert name in known | {"torchscript-frozen"}, name


def test_the_documented_page_is_of_the_families_of_today() -> None:
    text = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([\w-]+)`", text, flags=re.MULTILINE))
    assert rows == {*FAMILIES, *FEATURES, *AXES["variant"].values}
    assert "FAILS" not in text


@pytest.mark.parametrize("entry", [e for e in load_known() if e.expectation.stage in STAGES], ids=lambda e: e.id)
def test_reproducers_of_exports_are_python_that_needs_no_compat(entry: Known) -> None:
    tree = ast.parse(entry.expectation.link)
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert "torch" in imported
    assert not imported & {"compat", "matrix"}
