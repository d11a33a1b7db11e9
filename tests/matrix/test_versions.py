"""The check version: what a reader makes of a file: a real torch, and peers that lie, die, hang and babble."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from matrix.cli import main
from matrix.examples import draw
from matrix.outcomes import Outcome
from matrix.releases import TORCH
from matrix.report import Report
from matrix.spec import CheckpointSpec
from matrix.talking import Peer, PeerFailed
from matrix.tensors import describe
from matrix.versionrun import VersionRun, VersionSettings, contents
from matrix.versions import (
    COMPAT,
    File,
    Reader,
    compared,
    draw_files,
    drawn,
    drawn_file,
    golden_files,
    this_release,
    what_of,
)

# A torch that loses the last key of every dict, one that dies of one file, one that hangs, one that says no spec.
BROKEN = {
    "drops": 'found["spec"]["tree"]["v"].pop()',
    "dies": "os.abort()",
    "hangs": "time.sleep(60)",
    "babbles": 'found["spec"] = {"tree": "a tensor"}',
}
SERVED = """
import os, time
from matrix.serving import by_torch
from matrix.serving.protocol import serve

def read(request):
    found = by_torch.read(request)
    {broken}
    return found

serve(dict(by_torch.handlers(), read=read))
"""
NAME, PYTHON = this_release()


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Peer(NAME, python=PYTHON) as peer:
        yield Reader.meet(NAME, peer, TORCH)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> File:
    (file,) = [file for file in made(tmp_path_factory.mktemp("plain"), "plain") if file.format == "torch-zip"]
    return file


def made(folder: Path, *names: str) -> list[File]:
    """What compat writes of drawn states."""
    return [found for found in draw_files({COMPAT: None}, drawn(names), folder) if isinstance(found, File)]


def golden(writer: str, what: str, format_: str = "torch-zip") -> File:
    return next(file for file in golden_files([writer]) if (file.what, file.format) == (what, format_))


def test_a_reader_is_asked_in_every_mode_that_a_format_has(reader: Reader, plain: File) -> None:
    legacy = File(writer=COMPAT, format="torch-legacy", what="x", path=plain.path, judge=plain.judge)
    onnx = File(writer=COMPAT, format="onnx", what="x", path=plain.path, judge=plain.judge)
    assert reader.modes(plain) == ("default", "wo", "full", "wo-mmap", "full-mmap")
    assert reader.modes(legacy) == ("default", "wo", "full")
    assert reader.modes(onnx) == ()
    assert Reader(name=COMPAT, hello={}).modes(onnx) == ("inert",)
    assert Reader(name="numpy", peer=reader.peer, module="by_numpy", hello={"reads": ["onnx"]}).modes(onnx) == ("own",)


def test_a_release_without_an_option_skips_its_modes(reader: Reader, plain: File) -> None:
    old = Reader(name="1.4.0", peer=reader.peer, module=TORCH, hello={**reader.hello, "features": ["weights_only"]})
    assert old.read(plain, "wo-mmap") == Outcome(kind="skipped", message="this release has no mmap")
    assert old.read(plain, "wo").kind == "ok"


@pytest.mark.parametrize("mode", ["default", "wo", "full", "wo-mmap", "full-mmap"])
def test_this_torch_reads_what_compat_wrote(reader: Reader, plain: File, mode: str) -> None:
    assert reader.read(plain, mode).kind == "ok"


def test_another_truth_is_a_mismatch_that_says_in_what(reader: Reader, plain: File) -> None:
    spec = draw("plain", 0).spec.to_json()
    storage = next(storage for storage in spec["storages"] if storage["data"])
    data = bytearray(base64.b64decode(storage["data"]))
    data[-1] ^= 1
    storage["data"] = base64.b64encode(data).decode("ascii")
    file = drawn_file(COMPAT, "torch-zip", "plain", plain.path, CheckpointSpec.from_json(spec))
    found = reader.read(file, "wo")
    assert (found.kind, found.stage, "bytes" in found.facets) == ("mismatch", "compare", True)


def test_golden_files_are_read_by_the_torch_that_wrote_them_and_by_compat(reader: Reader) -> None:
    file = golden("1.4.0", "state", "torch-legacy")
    assert reader.read(file, "wo") == Reader(name=COMPAT, hello={}).read(file, "inert") == Outcome(kind="ok")
    refused = reader.read(golden("1.4.0", "state"), "full")
    assert refused.kind == "refused"
    assert refused.message.startswith("PytorchStreamReader failed locating file data/N: file not found")


def test_compat_says_what_is_damaged(plain: File, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(plain.path.read_bytes()[:-30])
    found = Reader(name=COMPAT, hello={}).read(
        File(writer=COMPAT, format="torch-zip", what="x", path=cut, judge=plain.judge), "inert"
    )
    assert (found.kind, found.stage) == ("refused", "read")
    assert str(tmp_path) not in found.message


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("drops", "mismatch", "structure"),
        ("dies", "crashed", "ended by SIGABRT"),
        ("hangs", "timeout", "no answer within 4 s"),
        ("babbles", "crashed", "answered no spec: "),
    ],
)
def test_every_way_to_fail_is_another_outcome_and_fails_the_run(
    plain: File, tmp_path: Path, how: str, kind: str, said: str
) -> None:
    script = tmp_path / "served.py"
    script.write_text(SERVED.format(broken=BROKEN[how]), encoding="utf-8")
    with Peer("9.0.0", command=(sys.executable, str(script)), seconds=60) as peer:
        broken = Reader.meet("9.0.0", peer, TORCH)
        peer.seconds = 4
        run = VersionRun(VersionSettings(patterns=("*:wo:*",)))
        verdicts = run.report(tmp_path / "report.jsonl", [broken], [plain], [])
    (line,) = Report.read(tmp_path / "report.jsonl").cells
    assert (dict(verdicts), run.not_run, line.outcome.kind) == ({"broken": 1}, 4, kind)
    assert said in (line.outcome.message, *line.outcome.facets) or line.outcome.message.startswith(said)


def test_what_a_writer_has_no_tensors_for_is_skipped(tmp_path: Path) -> None:
    spec = draw("plain", 0).spec.to_json()
    tensor = next(pair[1] for pair in spec["tree"]["v"] if pair[1]["t"] == "tensor")
    tensor["dtype"] = "float128"
    with Peer(NAME, python=PYTHON) as peer:
        found = list(draw_files({NAME: peer}, {"odd": CheckpointSpec.from_json(spec)}, tmp_path))
    kinds = [one[1].kind for one in found if not isinstance(one, File)]
    assert kinds == ["skipped", "skipped"]


def test_compat_refuses_to_write_what_safetensors_has_no_place_for(tmp_path: Path) -> None:
    found = list(draw_files({COMPAT: None}, drawn(["dtype-complex128"]), tmp_path))
    outcomes = {cell["format"]: outcome for cell, outcome in (one for one in found if not isinstance(one, File))}
    assert [outcome.kind for outcome in outcomes.values()] == ["skipped"]
    assert sorted(one.format for one in found if isinstance(one, File)) == ["torch-legacy", "torch-zip"]


@pytest.mark.parametrize(("target", "holds"), [("torchscript", "script"), ("torch-export", "export")])
def test_a_peer_exports_a_module_that_computes_the_same(tmp_path: Path, target: str, holds: str) -> None:
    import torch

    torch.manual_seed(0)
    torch.save(torch.nn.Linear(3, 2), tmp_path / "module.pt")
    inputs = describe([torch.ones(4, 3)]).to_json()
    with Peer(NAME, python=PYTHON, seconds=120) as peer:
        if target not in peer.ask("hello")["exports"]:
            pytest.skip(f"this torch has no {target}")
        asked: dict[str, Any] = {"path": str(tmp_path / "module.pt"), "inputs": inputs, "weights_only": False}
        expected = peer.ask("forward", **asked)["spec"]
        peer.ask("export", target=target, to=str(tmp_path / "made"), **asked)
        assert peer.ask("forward", path=str(tmp_path / "made"), holds=holds, inputs=inputs)["spec"] == expected
        with pytest.raises(PeerFailed, match="no target 'clay'"):
            peer.ask("export", target="clay", to=str(tmp_path / "made"), **asked)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("state.zip.pt", "state"),
        ("scripted-lite.torchscript.ptl", "scripted-lite"),
        ("linear odd name.pt", "linear-odd-name"),
        ("shards-torch", "shards-torch"),
    ],
)
def test_a_golden_file_is_called_by_what_it_holds(name: str, what: str) -> None:
    assert what_of(name) == what


def test_golden_files_of_python_2_come_with_their_release() -> None:
    assert {file.writer for file in golden_files(["1.4.0"])} == {"1.4.0", "1.4.0-python2"}
    assert {file.writer for file in golden_files()} > {"1.0.1", "2.15.0"}


def test_facets_are_those_that_the_sentences_name() -> None:
    assert compared([]) == Outcome(kind="ok")
    found = compared(["['a']: bytes: expected 00, seen 01", "['b']: stride: expected [1], seen [2]"])
    assert (found.kind, found.facets) == ("mismatch", ("bytes", "stride"))
    assert compared(["there is no constants"]).facets == ("structure",)


def test_what_is_drawn_are_states_and_two_modules() -> None:
    names = contents()
    assert {"plain", "dtype-float8_e5m2", "module-tied"} < set(names)
    assert "big-tensor" not in names


def test_the_command_runs_without_any_peer_and_its_header_names_who_was_asked(tmp_path: Path) -> None:
    places = ["--cache", str(tmp_path), "--out", str(tmp_path / "out")]
    cells = f"version:*:{NAME}>*:*:drawn-dtype-uint16"
    done = CliRunner().invoke(main, ["run", "--check", "version", "--json", "--cells", cells, *places])
    document = json.loads(done.stdout)
    assert (done.exit_code, document["verdicts"]) == (0, {"as-expected": 7, "known": 3}), done.output
    report = Report.read(tmp_path / "out" / "report.jsonl")
    assert report.header["peers"][NAME]["torch"].startswith(NAME)
    known = {line.expectation.source for line in report.cells if line.verdict == "known"}
    assert known == {"known:legacy-missing-dtype"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--check", "version", "--cells", "version:nothing:*"], "no cell of the check version matches"),
        (["--check", "version", "--peers", "1.6.0"], "there is no peer 1.6.0"),
        (["--peers", "1.6.0", "--check", "roundtrip"], "--peers is for the check version"),
        (["--peers", "1.6.0", "--model", "torch.nn:Identity"], "--peers is for the check version"),
    ],
)
def test_wrong_usage_is_exit_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["run", *arguments, "--cache", str(tmp_path), "--out", str(tmp_path / "out")])
    assert (done.exit_code, said in done.output) == (2, True), done.output
