"""compat doctor: what real releases do with real files is what it says, and what it says can be acted on."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import compat
from compat import support
from compat.allowlist import order
from compat.cli import main
from compat.errors import Corrupt, UnknownFormat
from compat.support import MODES, fates
from matrix.corpus.index import ROOT
from matrix.measured import Measured, load
from matrix.supporting import Sample, samples

SHARED = Path(__file__).parents[2].parent / "shared" / "real" / "silero_vad.jit"
# What decides here is no trait: text that Python 2 wrote, what a class does with its state, sizes and numbers.
UNSEEN = {
    *("raw-text", "arrays", "extras", "extras-protocol1", "extras-protocol2", "module", "parallel", "sequence"),
    *("subclass", "quantized", "storages", "nested", "jagged", "sparse", "drawn-empty", "drawn-conj", "drawn-neg"),
    *("script-class", "script-extra", "scripted", "scripted-lite", "traced", "traced-net", "attributes", "buffers"),
}
# Whole files on which nothing else than real releases may be believed.
ASKED = ("1.4.0/state.zip.pt", "2.13.0/rare_dtypes.legacy.pt", "2.6.0/module.zip.pt", "2.13.0/checkpoint.zip.pt")


@pytest.fixture(scope="module")
def found() -> Measured:
    return load()


@pytest.fixture(scope="module")
def files() -> list[Sample]:
    return list(samples())


def test_its_answers_are_those_of_the_releases_that_were_asked(found: Measured, files: list[Sample]) -> None:
    asked, wrong = 0, set()
    for file in files:
        for mode in MODES:
            for release, fate in fates(file.format, file.traits, mode):
                outcome = file.outcome(found, release, mode)
                if outcome is None:
                    continue
                asked += 1
                if (outcome.kind == "ok") != (fate.letter == support.LOADS):
                    assert fate.letter == support.LOADS, f"{file.writer} {file.what} is said not to load in {release}"
                    wrong.add(file.what)
    assert asked > 30_000
    assert wrong <= UNSEEN


def test_it_never_says_of_a_measured_file_that_it_does_not_know(files: list[Sample], found: Measured) -> None:
    for file in files:
        for mode in MODES:
            for release, fate in fates(file.format, file.traits, mode):
                if file.outcome(found, release, mode) is not None:
                    assert fate.letter != support.UNKNOWN, (file.writer, file.what, release, fate)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("name", ASKED)
def test_this_torch_does_as_it_says(name: str) -> None:
    path = ROOT / f"torch-{name}"
    told = compat.doctor(path)
    for mode, answers in ((True, told.weights_only), (False, told.unrestricted)):
        loaded = answers[-1].letter == support.LOADS
        if name.startswith("2.6.0/module") and not mode:
            continue  # its class is not here to be imported
        try:
            torch.load(path, weights_only=mode)
        except Exception:  # noqa: BLE001 - whatever torch raises is a refusal
            assert not loaded
        else:
            assert loaded


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("name", ASKED[:3])
def test_its_fix_makes_a_file_that_this_torch_loads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = compat.doctor(ROOT / f"torch-{name}")
    assert not told.loads
    program, *arguments = shlex.split(told.fix)
    assert program == "compat"
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert compat.doctor("fixed.pt").loads
    assert torch.load("fixed.pt", weights_only=True)


@pytest.mark.parametrize(
    ("name", "since", "said"),
    [
        ("1.4.0/state.zip.pt", "1.4.0", "torch 1.4.0: loads"),
        ("1.4.0/state.zip.pt", "1.4.0", "the opt-in zip of 1.4 has its tensors below `tensors/`"),
        ("2.13.0/rare_dtypes.legacy.pt", "2.8.0", "into legacy files and cannot read them back"),
        ("2.6.0/module.zip.pt", "1.6.0", "a whole module is a pickled class, which weights_only refuses by design"),
        ("2.13.0/checkpoint.zip.pt", "1.6.0", "torch 1.13.1: refuses (the opcode BINFLOAT: weights_only of 1.13"),
        ("2.6.0/export-small.pt2", "2.6.0", "torch.export.load reads schemas of its own major version only"),
    ],
)
def test_it_says_who_wrote_it_and_why_some_do_not_load_it(name: str, since: str, said: str) -> None:
    done = CliRunner().invoke(main, ["doctor", str(ROOT / f"torch-{name}")])
    assert f"written by torch {since} or later" in done.stdout
    assert said in done.stdout
    assert done.exit_code == (0 if "checkpoint" in name or "export" in name else 1)


@pytest.mark.skipif(not SHARED.is_file(), reason="the real file is not here")
def test_a_real_script_loads_and_is_not_vouched_for() -> None:
    told = compat.doctor(SHARED)
    assert (told.format, told.loads, told.fix, told.weights_only) == ("torchscript", True, "", ())
    assert any("was not looked at" in note for note in told.notes)


def test_a_name_that_was_never_measured_is_refused_or_not_known(tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    torch.save({"scheduler": torch.optim.lr_scheduler.ConstantLR}, path)
    told = compat.doctor(path)
    assert told.weights_only[-1].letter == "r"
    assert told.weights_only[-1].reason == "weights_only does not allow this name by default"
    assert told.unrestricted[-1].letter == support.UNKNOWN


def test_a_format_that_torch_is_not_asked_for_has_no_answers(tmp_path: Path) -> None:
    compat.save({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    told = compat.doctor(tmp_path / "a.safetensors")
    assert (told.weights_only, told.unrestricted, told.since, told.fix) == ((), (), "", "")
    assert "torch was not measured on this format; compat reads it" in told.notes


def test_json_is_the_same_diagnosis() -> None:
    path = ROOT / "torch-1.4.0" / "state.zip.pt"
    done = CliRunner().invoke(main, ["doctor", str(path), "--json"])
    document = json.loads(done.stdout)
    assert (document["kind"], document["loads"], document["written_by"]) == ("doctor", False, "1.4.0")
    assert document["weights_only"] == [answer.to_json() for answer in compat.doctor(path).weights_only]


def test_what_is_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "page.pt").write_bytes(b"<!DOCTYPE html><html>404</html>")
    with pytest.raises(UnknownFormat):
        compat.doctor(tmp_path / "page.pt")
    cut = tmp_path / "cut.pt"
    cut.write_bytes((ROOT / "torch-2.6.0" / "state.zip.pt").read_bytes()[:-40])
    with pytest.raises(Corrupt):
        compat.doctor(cut)
    assert CliRunner().invoke(main, ["doctor", str(cut)]).exit_code == 2


def test_releases_are_in_order_and_every_row_says_something_of_each() -> None:
    releases = support.releases()
    assert list(releases) == sorted(releases, key=order)
    table = support._table()
    for rows in table["traits"].values():
        for row in rows.values():
            assert {len(row[mode]) for mode in MODES} == {len(releases)}
            assert set("".join(row[mode] for mode in MODES)) <= set("owrc?")
