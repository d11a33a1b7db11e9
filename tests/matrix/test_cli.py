"""The command `matrix`, as people call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from matrix.cli import COMMANDS, main


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = call(name, "--help")
    assert done.exit_code == 0
    assert "Usage:" in done.output


def test_run_ends_with_a_grid(tmp_path: Path) -> None:
    done = call("run", "--profile", "quick", "--cells", "roundtrip:*:wo:plain", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "writer > reader" in done.output
    assert "as-expected" in done.output
    assert (tmp_path / "report.jsonl").is_file()


def test_run_as_json(tmp_path: Path) -> None:
    done = call("run", "--cells", "inert:*", "--out", str(tmp_path), "--json")
    document = json.loads(done.output)
    assert document["kind"] == "run"
    assert document["failed"] == []


def test_list_shows_every_cell_and_what_is_expected() -> None:
    done = call("list", "--cells", "roundtrip:torch-legacy:torch>torch:wo:dtype-uint16")
    assert done.exit_code == 0
    assert "refused: torch writes dtypes without a storage class" in done.output
    cells = json.loads(call("list", "--json").output)["cells"]
    assert len(cells) > 5000


def test_list_says_why_combinations_are_no_cells() -> None:
    done = call("list", "--pruned")
    assert "the writer does not write this format" in done.output
    assert json.loads(call("list", "--pruned", "--json").output)["rules"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--cells", "roundtrip:nothing"], "no cell matches"),
        (["run", "--model", "nothing"], "expected package.module:factory"),
        (["run", "--state", "no-such-file"], "does not exist"),
        (["run", "--state", "."], "is a directory"),
        (["run", "--state", "x", "--model", "y"], "exclude each other"),
        (["run", "--profile", "slow"], "Invalid value"),
        (["list", "--cells", "nothing"], "no cell matches"),
        (["report", "no-such-run"], "cannot be read"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert "Traceback" not in done.output


def test_an_unwritable_folder_is_one_message(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    done = call("run", "--cells", "inert:*", "--out", str(blocked))
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_a_finished_run_is_shown_again_and_a_cut_one_too(tmp_path: Path) -> None:
    call("run", "--cells", "inert:*", "--out", str(tmp_path))
    assert call("report", str(tmp_path)).exit_code == 0
    assert "| format |" in call("report", str(tmp_path), "--markdown").output
    path = tmp_path / "report.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    cut = call("report", str(tmp_path))
    assert cut.exit_code == 2
    assert "writer > reader" in cut.output


def test_a_missing_library_is_one_message_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    done = call("list")
    assert done.exit_code == 2
    assert done.output.startswith("matrix: torch is not installed. Install it with: python -m pip install torch")
