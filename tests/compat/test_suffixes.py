"""A wrong suffix is said, a usual one is not, and none decides."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import compat
from compat.cli import main
from tests.compat.making import FORMATS, REAL, dumped

STATE = {"w": torch.ones(2)}


def notes(content: bytes, path: Path) -> list[str]:
    path.write_bytes(content)
    with compat.open(path) as checkpoint:
        return checkpoint.notes


@pytest.mark.parametrize(
    ("form", "name", "consequence", "renamed"),
    [
        ("safetensors", "my model.pt", "torch.load, which the suffix asks for, fails on it", "'my model.safetensors'"),
        ("safetensors", "X.PT", "torch.load, which the suffix asks for, fails on it", "X.safetensors"),
        ("safetensors", "x.jit", "what goes by the suffix fails on it", "x.safetensors"),
        ("safetensors", "x.onnx", "what goes by the suffix fails on it", "x.safetensors"),
        ("torch-zip", "x.safetensors", "safetensors fails on it, and so does torch.load from 2.13 on", "x.pt"),
        ("torch-legacy", "x.safetensors", "safetensors fails on it, and so does torch.load from 2.13 on", "x.pt"),
        ("torch-legacy", "x.onnx", "what goes by the suffix fails on it", "x.pt"),
        ("torch-zip", "x.safetensors.index.json", "what goes by the suffix fails on it", "x.pt"),
    ],
)
def test_a_wrong_suffix_is_said_with_the_right_one(
    form: str, name: str, consequence: str, renamed: str, tmp_path: Path
) -> None:
    (note,) = notes(dumped(STATE, form), tmp_path / name)
    said = "." + name.lower().partition(".")[2]
    assert note.startswith(f"named {said}, but its content is {form}: {consequence}")
    assert note.endswith(f"Rename it: {renamed}")


@pytest.mark.parametrize("name", ["x", "x.bin", "x.ckpt", "x.pth", "x.th", "x.pkl", "x.tar", "x.weights", "x.pt.part"])
@pytest.mark.parametrize("form", FORMATS)
def test_what_everybody_calls_their_files_is_no_wrong_suffix(form: str, name: str, tmp_path: Path) -> None:
    assert notes(dumped(STATE, form), tmp_path / name) == []


@pytest.mark.parametrize(
    ("form", "name"), [("safetensors", "x.safetensors"), ("torch-zip", "x.pt"), ("torch-legacy", "x.pt")]
)
def test_a_right_suffix_is_no_wrong_one(form: str, name: str, tmp_path: Path) -> None:
    assert notes(dumped(STATE, form), tmp_path / name) == []


def test_bytes_have_no_suffix() -> None:
    with compat.open(dumped(STATE)) as checkpoint:
        assert checkpoint.notes == []


def test_inspect_says_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(dumped(STATE, "safetensors"))
    shown = CliRunner().invoke(main, ["inspect", str(path)]).output
    assert "note: named .pt, but its content is safetensors: torch.load" in shown
    found = json.loads(CliRunner().invoke(main, ["inspect", str(path), "--json"]).output)
    assert found["notes"][0].startswith("named .pt")
    made = compat.convert(path, tmp_path / "y.safetensors")
    assert made.notes == found["notes"]


def test_the_command_of_the_note_mends_it(tmp_path: Path) -> None:
    path = tmp_path / "my model.pt"
    (note,) = notes(dumped(STATE, "safetensors"), path)
    subprocess.run(["sh", "-c", f"mv 'my model.pt' {note.rpartition(': ')[2]}"], check=True, cwd=tmp_path)
    with compat.open(tmp_path / "my model.safetensors") as checkpoint:
        assert checkpoint.notes == []


@pytest.mark.filterwarnings("ignore")
def test_what_the_note_says_of_torch_is_true(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(dumped(STATE, "safetensors"))
    with pytest.raises(Exception, match=r"invalid load key|Weights only load failed"):
        torch.load(path)


def test_real_files_are_called_what_they_are() -> None:
    if not REAL.is_dir():
        pytest.skip("no ../shared/real here")
    for path in REAL.iterdir():
        if path.suffix != ".md":
            with compat.open(path) as checkpoint:
                assert not [note for note in checkpoint.notes if note.startswith("named")]
