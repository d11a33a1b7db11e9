"""The measurement: merged, kept small without loss, explained to the last cell, and what is made of it up to date."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from matrix import measured, publishing, versionknown
from matrix.cli import main
from matrix.measured import Measured
from matrix.measuring import Measurement
from matrix.outcomes import Outcome, judge
from matrix.peers import PeersError
from matrix.report import CutReport, Report, ReportError
from matrix.versions import COMPAT, this_release

NAME = this_release()[0]


@pytest.fixture(scope="module")
def found() -> Measured:
    return measured.load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small measurement, by compat and this torch."""
    place = tmp_path_factory.mktemp("measured")
    small(place).run()
    return place


def small(place: Path, *names: str) -> Measurement:
    return Measurement(place, names or (NAME,), cache=place / "peers", drawn=("plain",), writers=("1.4.0",))


def test_both_read_what_both_wrote_and_the_golden_files(folder: Path) -> None:
    merged = measured.merge(sorted(folder.glob("*.jsonl")))
    assert list(merged.readers) == [NAME, COMPAT]
    assert merged.readers[NAME]["torch"].startswith(NAME)
    drawn = merged.cells["torch-zip", "wo", "drawn-plain"]
    assert drawn == {(NAME, NAME): Outcome(kind="ok"), (COMPAT, NAME): Outcome(kind="ok")}
    golden = merged.cells["torch-zip", "full", "state"]["1.4.0", NAME]
    assert (golden.kind, golden.stage) == ("refused", "")
    assert merged.cells["torch-zip", "inert", "state"]["1.4.0", COMPAT] == Outcome(kind="ok")


def test_what_is_measured_is_not_measured_again(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    small(folder).run()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_report_that_was_cut_is_made_again(folder: Path) -> None:
    path = folder / f"{COMPAT}.jsonl"
    whole = path.read_text(encoding="utf-8")
    path.write_text("\n".join(whole.splitlines()[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(CutReport):
        Report.read(path)
    small(folder).run()
    assert len(Report.read(path).cells) == whole.count("\n") - 2


def test_a_peer_that_cannot_be_made_ends_the_measurement_and_leaves_the_rest(tmp_path: Path) -> None:
    with pytest.raises(PeersError, match="'nonsense' is no release of torch"):
        small(tmp_path, "nonsense").run()
    assert (tmp_path / "files" / COMPAT / "index.json").is_file()


def test_two_reports_that_disagree_are_no_measurement(folder: Path, tmp_path: Path) -> None:
    first = folder / f"{COMPAT}.jsonl"
    other = tmp_path / "other.jsonl"
    text = first.read_text(encoding="utf-8").replace('"outcome": {"kind": "ok"}', '"outcome": {"kind": "skipped"}', 1)
    other.write_text(text, encoding="utf-8")
    with pytest.raises(ReportError, match="two reports disagree on version:"):
        measured.merge([first, other])
    assert measured.merge([first, first]) == measured.merge([first])
    other.write_text(text.replace('"profile": "version"', '"profile": "quick"'), encoding="utf-8")
    with pytest.raises(ReportError, match="is of the profile 'quick'; expected version"):
        measured.merge([other])


def test_what_is_kept_is_kept_without_loss(found: Measured, folder: Path) -> None:
    for one in (found, measured.merge(sorted(folder.glob("*.jsonl")))):
        again = measured.parse(measured.to_text(one))
        assert dict(again.cells) == dict(one.cells)
        assert dict(again.readers) == dict(one.readers)
    with pytest.raises(ValueError, match="schema 2; expected 1"):
        measured.parse(json.dumps({"schema": 2}))


def test_memory_that_no_one_wrote_is_not_kept(found: Measured) -> None:
    assert not [outcome for _, outcome in found.each() if outcome.kind == "mismatch" and ", seen " in outcome.message]


def test_what_is_made_of_the_measurement_is_up_to_date() -> None:
    done = CliRunner().invoke(main, ["measure", "--check"])
    assert (done.exit_code, done.stdout) == (0, "")


def test_every_measured_cell_is_fine_or_known_exactly_as_it_happened(found: Measured) -> None:
    known = versionknown.load()
    verdicts = Counter(judge(outcome, known.expected(axes, outcome)).name for axes, outcome in found.each())
    assert set(verdicts) == {"as-expected", "known", "skipped"}


def test_compat_reads_every_byte_that_is_there(found: Measured) -> None:
    """What compat does not read right is what was not written right, or has no place for what torch makes of it."""
    wrong = {axes["what"] for axes, outcome in found.each() if axes["mode"] == "inert" and outcome.kind != "ok"}
    assert wrong <= {"drawn-conj", "drawn-neg", "drawn-empty"}


def test_an_outcome_that_nothing_explains_stops_the_publication(found: Measured) -> None:
    known = versionknown.differences()
    group, pairs = next(iter(found.cells.items()))
    pair = next(iter(pairs))
    strange = {**found.cells, group: {**pairs, pair: Outcome(kind="refused", message="no one knows why")}}
    with pytest.raises(publishing.UnexplainedError, match=r"explains 1 cells; add one for each of\n.*no one knows why"):
        publishing.explained(replace(found, cells=strange), known)
    idle = replace(known[0], id="idle", messages=("nothing begins so",))
    with pytest.raises(publishing.UnexplainedError, match="the known differences idle explain no cell"):
        publishing.explained(found, [*known, idle])


def test_releases_without_a_folder_are_wrong_usage() -> None:
    done = CliRunner().invoke(main, ["measure", "--releases", "2.6.0"])
    assert (done.exit_code, "needs a FOLDER" in done.output) == (2, True)
