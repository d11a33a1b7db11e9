"""The forms that programs read, and the command that writes them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

from matrix.cli import main
from matrix.outcomes import VERDICTS, Outcome
from matrix.report import CutReport, Report, render_html, render_json, render_junit, render_markdown, render_sarif
from matrix.report.printable import printable, printable_json
from tests.matrix.reporting import everything, failing, known, line, written

# What a file may name its keys, and what its reader says of them.
HOSTILE = "</script><b>&'\"\x00\x1b[31m\ud800\ufffe\u202e ]]> \u2028 | `x` @who"
FORMS: dict[str, Callable[[Report], str]] = {
    "html": render_html,
    "json": render_json,
    "junit": render_junit,
    "markdown": render_markdown,
    "sarif": render_sarif,
}


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    written(folder / "report.jsonl", everything())
    return folder


def report_of(path: Path, *cells: Any) -> Report:
    return Report.read(written(path / "report.jsonl", list(cells)))


def cut(path: Path) -> Report:
    whole = written(path / "report.jsonl", everything()).read_text(encoding="ascii")
    (path / "report.jsonl").write_text("".join(whole.splitlines(keepends=True)[:-1]), encoding="ascii")
    with pytest.raises(CutReport) as caught:
        Report.read(path / "report.jsonl")
    return caught.value.partial


def test_text_that_cannot_be_seen_is_escaped() -> None:
    assert printable("a\x00\u202e\ud800 é\n字") == "a\\x00\\u202e\\ud800 é\n字"
    assert printable_json({"\x07": ["\x00", 1, None, {"a": "b"}]}) == {"\\x07": ["\\x00", 1, None, {"a": "b"}]}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_every_failure_and_is_text_that_can_be_written(form: str, tmp_path: Path) -> None:
    text = FORMS[form](report_of(tmp_path, *everything(), failing(30, HOSTILE)))
    raw = text.encode("utf-8")
    assert b"\x00" not in raw
    assert b"\x1b" not in raw
    assert "\u202e" not in text
    for number in (14, 30):
        assert f"content-{number}" in text


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_that_a_run_was_cut(form: str, tmp_path: Path) -> None:
    says = {
        "html": "CUT: it did not end",
        "json": '"complete": false',
        "junit": "the run was cut",
        "markdown": "CUT: the run did not end",
        "sarif": '"executionSuccessful": false',
    }
    assert says[form] in FORMS[form](cut(tmp_path))
    assert says[form] not in FORMS[form](report_of(tmp_path, *everything()))


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_report_has_every_form(form: str, tmp_path: Path) -> None:
    assert FORMS[form](report_of(tmp_path))


def test_junit_counts_what_the_report_counts(tmp_path: Path) -> None:
    cells = [*everything(), failing(30, HOSTILE)]
    root = ET.fromstring(render_junit(report_of(tmp_path, *cells)))
    assert (root.get("tests"), root.get("failures"), root.get("skipped"), root.get("errors")) == ("24", "2", "1", "0")
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert cases.keys() == {cell.id for cell in cells}
    for cell in cells:
        case = cases[cell.id]
        assert (case.find("failure") is not None) == cell.failed
        assert (case.find("skipped") is not None) == (cell.verdict == "skipped")
        assert case.get("classname") == f"compat-matrix.roundtrip.{cell.axes['format']}"
    told = cases[cells[-2].id].find("failure")
    assert told is not None
    assert told.get("type") == "broken"
    assert "run it again: matrix run --cells 'roundtrip:torch-zip:torch>torch:full:content-14' --seed 5" in str(
        told.text
    )
    noted = cases[known(10).id].find("system-out")
    assert noted is not None
    assert noted.text == "known difference lost: torch loses it\nhttps://example.org/known"


def test_a_junit_report_of_a_cut_run_has_an_error(tmp_path: Path) -> None:
    root = ET.fromstring(render_junit(cut(tmp_path)))
    assert (root.get("errors"), root.get("tests")) == ("1", "24")


def test_json_holds_all_of_the_report(tmp_path: Path) -> None:
    report = report_of(tmp_path, *everything(), failing(30, HOSTILE))
    document = json.loads(render_json(report))
    assert (document["kind"], document["schema"], document["complete"]) == ("report", 1, True)
    assert document["run"]["seed"] == 5
    assert document["verdicts"] == dict(Counter(cell.verdict for cell in report.cells))
    counted: Counter[str] = Counter()
    for row in document["grid"]["rows"]:
        for verdicts in row["modes"].values():
            counted.update(verdicts)
    assert counted == document["verdicts"]
    assert document["known"]["lost"]["cells"] == 2
    assert (document["not_selected"], document["pruned"]) == (42, {"the writer does not write this format": 12345})
    assert [cell["id"] for cell in document["cells"]] == [cell.id for cell in report.cells]
    assert [cell["failed"] for cell in document["cells"]] == [cell.failed for cell in report.cells]
    assert document["cells"][-1]["outcome"]["message"] == HOSTILE, "programs get the text as it was"
    assert document["cells"][-1]["mode"] == "full"


def test_sarif_points_at_the_line_of_each_failure(tmp_path: Path) -> None:
    report = report_of(tmp_path, *everything(), failing(30, HOSTILE))
    document = json.loads(render_sarif(report, uri="out/report.jsonl"))
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert {rule["id"] for rule in rules} == {name for name, (fails, _) in VERDICTS.items() if fails}
    lines = (tmp_path / "report.jsonl").read_text(encoding="ascii").splitlines()
    assert len(run["results"]) == 2
    for result, cell in zip(run["results"], report.failed, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == cell.verdict
        assert result["message"]["text"].startswith(cell.id)
        (place,) = result["locations"]
        physical = place["physicalLocation"]
        assert physical["artifactLocation"]["uri"] == "out/report.jsonl"
        assert json.loads(lines[physical["region"]["startLine"] - 1])["id"] == cell.id
        assert result["partialFingerprints"] == {"cell/v1": cell.id}


# The command


def test_all_forms_are_written_at_once(run: Path, tmp_path: Path) -> None:
    files = {form: tmp_path / "new" / form for form in FORMS}
    done = call(run, *(part for form, path in files.items() for part in (f"--{form}", path)))
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    report = Report.read(run / "report.jsonl")
    for form, path in files.items():
        if form != "sarif":  # its text depends on where the report lies
            assert path.read_text(encoding="utf-8") == FORMS[form](report), form
        assert f"{form}: {path}" in done.stderr


def test_without_a_file_pages_lie_beside_the_report_and_texts_are_printed(run: Path) -> None:
    done = call(run, "--html", "--junit", "--sarif")
    assert done.stdout == ""
    assert {path.name for path in run.iterdir()} == {"report.jsonl", "report.html", "junit.xml", "report.sarif"}
    assert json.loads(call(run, "--json").stdout)["kind"] == "report"
    assert call(run, "--markdown").stdout.startswith("**23 cells")
    assert call(run, "--junit", "-").stdout.startswith("<?xml")


def test_the_exit_code_is_the_run_s(run: Path, tmp_path: Path) -> None:
    assert call(run, "--html", tmp_path / "a").exit_code == 1
    written(run / "report.jsonl", [line(0)])
    assert call(run, "--html", tmp_path / "a").exit_code == 0
    cut(run)
    done = call(run, "--html", tmp_path / "a")
    assert done.exit_code == 2
    assert "CUT" in (tmp_path / "a").read_text(encoding="utf-8"), "what there was is written all the same"
    assert "the run was cut" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--html", "RUN"], "Name the run first: matrix report RUN --html"),
        (["--markdown", "RUN/report.jsonl"], "which is a run; expected a file to write"),
        (["RUN", "--json", "--markdown"], "--json and --markdown both go to standard output; give each a FILE"),
        (["RUN", "--json", "x", "--html", "x"], "both go to 'x'"),
        (["RUN", "--compare", "RUN", "--junit"], "--compare has no --junit; there are --html, --markdown and --json"),
        (["RUN", "--html", "RUN/report.jsonl/x"], "report.jsonl"),
        (["nothing-there"], "nothing-there cannot be read: No such file"),
    ],
)
def test_wrong_usage_is_one_message_and_changes_nothing(
    run: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    before = (run / "report.jsonl").read_bytes()
    done = call(*(argument.replace("RUN", "run") for argument in arguments))
    assert done.exit_code == 2, done.output
    assert re.sub(r"\s+", " ", message.replace("RUN", "run")) in re.sub(r"\s+", " ", done.stderr)
    assert (run / "report.jsonl").read_bytes() == before
    assert [path.name for path in run.parent.iterdir()] == ["run"]
    assert [path.name for path in run.iterdir()] == ["report.jsonl"]


def test_the_command_to_run_a_cell_again_names_what_was_given(tmp_path: Path) -> None:
    from matrix.report.stories import rerun

    assert rerun("a>b", {"seed": 3, "profile": "quick"}) == "matrix run --cells 'a>b' --seed 3 --profile quick"
    assert rerun("a", {"given": "model"}) == "matrix run --cells a --seed 0 --model PKG.MOD:FACTORY"
    assert rerun("a", {"given": "state"}).endswith(" --state FILE")


def test_a_skipped_cell_says_why_in_every_form(tmp_path: Path) -> None:
    report = report_of(tmp_path, line(0, "skipped", outcome=Outcome(kind="skipped", message="no such GPU")))
    for form in ("html", "json", "junit", "markdown"):
        assert "no such GPU" in FORMS[form](report), form


def test_the_page_on_reports_shows_commands_that_work(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")
    monkeypatch.chdir(run.parent)
    for name in ("matrix-report", "old-run", "new-run"):
        shutil.copytree(run, name)
    commands = re.findall(r"^matrix report *([^#\n]*)", page, flags=re.MULTILINE)
    assert len(commands) == 9
    for command in commands:
        done = call(*shlex.split(command))
        assert done.exit_code == (0 if "--compare" in command else 1), (command, done.output)
    assert {path.name for path in (run.parent / "matrix-report").iterdir()} == {
        "report.jsonl",
        "report.html",
        "junit.xml",
        "report.sarif",
    }
    options = set(re.findall(r"--[a-z]+", call("--help").output)) - {"--help"}
    assert options <= set(re.findall(r"--[a-z]+", page))
