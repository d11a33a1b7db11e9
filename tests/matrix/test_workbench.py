"""Cells judged one by one are judged as a run judges them together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from matrix import workbench as module
from matrix.report import Report
from matrix.runner import Run, Settings
from matrix.workbench import Workbench

PATTERNS = ("roundtrip:torch-legacy:torch>torch:wo:dtype-*", "convert:npz>safetensors:*", "inert:npz:*")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(Settings(profile="quick", patterns=PATTERNS[:2], seed=5, out=tmp_path))


def test_one_by_one_and_together_give_the_same_verdicts(run: Run, tmp_path: Path) -> None:
    run.execute()
    together = {cell.id: cell for cell in Report.read(tmp_path / "report.jsonl").cells}
    bench = Workbench(run, share=10.0)
    for cell in run.cells:
        line = bench.judge(cell).line
        assert replace(line, seconds=0.0) == replace(together[cell.id], seconds=0.0, examples=line.examples)
        assert line.examples == 2
    bench.close()


def test_examples_are_made_once_for_all_cells_of_a_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(Settings(profile="quick", patterns=("roundtrip:npz:*:plain",), out=tmp_path))
    drawn: Counter[str] = Counter()
    real = run.examples

    def counted(content: str, count: int) -> object:
        drawn[content] += 1
        return real(content, count)

    monkeypatch.setattr(run, "examples", counted)
    bench = Workbench(run, share=10.0)
    for cell in run.cells:
        assert bench.judge(cell).line.examples == 2
    assert drawn == {"plain": 1}
    bench.close()


def test_what_does_not_stay_on_the_bench_is_tried_all_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", 1)
    bench = Workbench(run, share=10.0)
    assert [bench.judge(cell).line.examples for cell in run.cells[:3]] == [2, 2, 2]
    bench.close()


def test_a_cell_without_time_still_gets_one_example(run: Run) -> None:
    bench = Workbench(run, share=0.0)
    assert bench.judge(run.cells[0]).line.examples == 1
    bench.close()


def test_known_mismatches_are_told(tmp_path: Path) -> None:
    cell = "roundtrip:safetensors:safetensors>torch:wo:dtype-uint16"
    run = Run(Settings(profile="quick", patterns=(cell,), out=tmp_path))
    bench = Workbench(run, share=10.0)
    judged = bench.judge(run.cells[0])
    assert judged.line.verdict == "known"
    assert judged.mismatches == {judged.line.expectation.source: True}
    bench.close()
