"""What changed between two runs."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from matrix.cli import main
from matrix.outcomes import Outcome
from matrix.report import (
    CellLine,
    Changes,
    CutReport,
    Report,
    ReportError,
    ReportWriter,
    changes,
    render_changes,
    render_changes_html,
    render_changes_json,
    render_changes_markdown,
)
from matrix.report.changes import KINDS
from tests.matrix.reporting import CLAIMED, failing, known, line

SKIPPED = Outcome(kind="skipped", message="no CUDA")
HEADER: dict[str, Any] = {"seed": 0, "profile": "quick", "given": None, "versions": {"torch": "2.12.0"}}


def write(folder: Path, *cells: CellLine, ended: bool = True, **header: Any) -> Path:
    folder.mkdir(exist_ok=True)
    with ReportWriter(folder / "report.jsonl", {**HEADER, **header}) as writer:
        for cell in cells:
            writer.cell(cell)
        if ended:
            writer.finish(seconds=1.0)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs with one cell of each kind of change; the numbers are the cells'."""
    full: dict[str, Any] = {"mode": {"weights_only": "full"}}
    old = write(
        tmp_path / "old",
        line(0),
        line(1, **full),
        failing(2),
        line(3),
        failing(4),
        line(5),
        line(6),
    )
    new = write(
        tmp_path / "new",
        line(0),
        failing(1),
        failing(2, "['a'] bytes: other"),
        line(3, "skipped", outcome=SKIPPED),
        line(4, **full),
        known(5),
        line(7),
        failing(8),
        versions={"torch": "2.13.0"},
    )
    return old, new


def read(folder: Path) -> Report:
    return Report.read(folder / "report.jsonl")


def found(runs: tuple[Path, Path]) -> Changes:
    return changes(read(runs[0]), read(runs[1]))


def numbers(listed: Any) -> list[int]:
    return [int(change.id.rpartition("-")[2]) for change in listed]


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_each_cell_stands_in_one_list(runs: tuple[Path, Path]) -> None:
    seen = found(runs)
    assert {kind: numbers(getattr(seen, kind)) for kind, *_ in KINDS} == {
        "broken": [1, 8],
        "failing": [2],
        "unrun": [3],
        "healed": [4],
        "moved": [5],
        "new": [7],
        "gone": [6],
    }
    assert seen.same == 1
    assert seen.versions == (("torch", "2.12.0", "2.13.0"),)
    assert seen.title == (
        "2 newly broken, 1 still failing, 1 no longer run, 1 healed, 1 other verdicts, 1 new, 1 gone; 1 the same"
    )


def test_a_run_against_itself_has_no_changes(runs: tuple[Path, Path]) -> None:
    seen = changes(read(runs[0]), read(runs[0]))
    assert [kind for kind, *_ in KINDS if getattr(seen, kind)] == ["failing"]
    assert seen.notes == ("Both are the same run.",)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"seed": 7}, "the runs differ in the seed: 0 and 7. They tried other examples"),
        ({"given": "model"}, "the runs differ in the example that was given: None and 'model'"),
    ],
)
def test_runs_of_other_examples_are_not_compared(tmp_path: Path, header: dict[str, Any], message: str) -> None:
    old, new = write(tmp_path / "old", line(0)), write(tmp_path / "new", line(0), **header)
    with pytest.raises(ReportError, match=re.escape(message)):
        changes(read(old), read(new))
    done = call("--compare", old, new)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize("which", [0, 1])
def test_a_cut_run_is_not_compared(tmp_path: Path, which: int) -> None:
    names = ("old", "new")
    folders = [write(tmp_path / name, line(0), ended=place != which) for place, name in enumerate(names)]
    done = call("--compare", *folders)
    assert done.exit_code == 2
    assert f"{names[which]}/report.jsonl has no footer after 1 cells: the run was cut" in done.stderr
    with pytest.raises(CutReport) as caught:
        read(folders[which])
    whole = read(folders[1 - which])
    pair = (caught.value.partial, whole) if which == 0 else (whole, caught.value.partial)
    with pytest.raises(ReportError, match="run was cut after 1 cells; run it again"):
        changes(*pair)


def test_what_makes_runs_unlike_is_said(tmp_path: Path) -> None:
    old = write(tmp_path / "old", line(0), patterns=[])
    new = write(tmp_path / "new", line(0), patterns=["inert:*"], profile="default")
    notes = changes(read(old), read(new)).notes
    assert [note.split(":")[0].split(",")[0] for note in notes] == ["The profiles differ", "Other cells were asked for"]
    assert "(quick and default)" in notes[0]
    assert "(all and ['inert:*'])" in notes[1]


def test_only_what_is_newly_broken_fails(runs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = runs
    assert call("--compare", old, new).exit_code == 1
    assert call("--compare", old, old).exit_code == 0, "what failed before is no news"
    assert call("--compare", new, old).exit_code == 1, "4 fails there"
    healed = write(tmp_path / "healed", line(0), line(2, mode={"weights_only": "full"}))
    assert call("--compare", old, healed).exit_code == 0


def test_text_shows_both_verdicts_and_what_was_seen(runs: tuple[Path, Path]) -> None:
    file = io.StringIO()
    render_changes(found(runs), Console(file=file, width=100))
    text = file.getvalue()
    assert text.startswith("torch: 2.12.0 -> 2.13.0\n")
    assert text.index("NEWLY BROKEN: 2 cells fail now") < text.index("HEALED: 1 cells failed before")
    assert "content-1: as-expected -> broken\n    mismatch at compare: ['a'] dtype: float16, expected bfloat16" in text
    assert "content-8: not there -> broken" in text
    assert "content-6: as-expected -> not there" in text
    assert "skipped: no CUDA" in text


def test_markdown_folds_what_is_no_failure(runs: tuple[Path, Path]) -> None:
    text = render_changes_markdown(found(runs))
    assert "| torch | 2.12.0 | 2.13.0 |" in text
    assert "### Newly broken: 2 cells fail now and did not before" in text
    assert "torch>torch:full:content-1` | as-expected | broken | mismatch at compare: \\['a'\\] dtype" in text
    assert text.count("<details>") == text.count("</details>") == 5
    assert text.index("### Still failing") < text.index("<details>")


def test_long_lists_are_cut_and_counted(tmp_path: Path) -> None:
    old = write(tmp_path / "old", line(0))
    new = write(tmp_path / "new", line(0), *(failing(n) for n in range(1, 61)), *(line(n) for n in range(100, 130)))
    seen = changes(read(old), read(new))
    file = io.StringIO()
    render_changes(seen, Console(file=file, width=100))
    for text in (file.getvalue(), render_changes_markdown(seen)):
        assert "… and 10 more" in text
        assert "… and 20 more" in text
    document = json.loads(render_changes_json(seen))
    assert (len(document["broken"]), len(document["new"])) == (60, 30)


def test_json_and_html_hold_every_change(runs: tuple[Path, Path], tmp_path: Path) -> None:
    seen = found(runs)
    document = json.loads(render_changes_json(seen))
    assert (document["kind"], document["schema"], document["same"]) == ("changes", 1, 1)
    assert document["versions"] == {"torch": {"before": "2.12.0", "now": "2.13.0"}}
    assert [document["broken"][0][name] for name in ("before", "now")] == ["as-expected", "broken"]
    assert document["gone"][0]["now"] is None
    page = render_changes_html(seen)
    assert "2 cells are newly broken" in page
    for number in range(1, 9):
        assert f"content-{number}<" in page
    assert "content-0<" not in page
    done = call("--compare", runs[0], runs[1], "--html", tmp_path / "c.html", "--markdown", tmp_path / "c.md", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["kind"] == "changes"
    assert (tmp_path / "c.html").read_text(encoding="utf-8") == page
    assert (tmp_path / "c.md").read_text(encoding="utf-8") == render_changes_markdown(seen)


def test_a_page_of_no_changes_says_so(tmp_path: Path) -> None:
    refused = line(1, "refused-as-claimed", outcome=Outcome(kind="refused"), expectation=CLAIMED)
    old, new = write(tmp_path / "old", line(0), refused), write(tmp_path / "new", line(0), refused)
    seen = changes(read(old), read(new))
    assert seen.title == "nothing changed; 2 the same"
    assert "Nothing changed" in render_changes_html(seen)
