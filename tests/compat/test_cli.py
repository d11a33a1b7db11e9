"""Commands that the tests of promises do not hold: what they print, and that they stop cleanly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import compat
from compat.cli import COMMANDS, main
from tests.compat.making import FORMATS, dumped, header, name, number, zipped

PROGRAM = [sys.executable, "-c", "from compat.cli import main; main()"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False, encoding="utf-8", timeout=60
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    base = torch.arange(6.0)
    state = {"w": torch.nn.Parameter(base.reshape(2, 3)), "t": base.reshape(2, 3).t(), "epoch": 3, "lr": [0.1]}
    compat.save(state, path)
    return path


@pytest.mark.parametrize("form", FORMATS)
def test_inspect_says_everything_as_json(form: str, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "x"
    compat.convert(model, target, to=form)
    found = json.loads(call("inspect", target, "--json").output)
    assert (found["kind"], found["schema"], found["format"], found["bytes"]) == ("inspect", 1, form, 24)
    w, t = found["tensors"]
    assert (w["name"], w["dtype"], w["shape"], w["kind"], w["requires_grad"]) == (
        "w",
        "float32",
        [2, 3],
        "parameter",
        True,
    )
    assert (t["stride"], t["storage"], w["storage"]) == ([1, 3], "0", "0")
    assert found["values"] == [{"path": "epoch", "value": "int 3"}, {"path": "lr.0", "value": "float 0.1"}]


def test_inspect_says_the_same_to_people(model: Path) -> None:
    shown = call("inspect", model).output
    assert "model.pt: torch-zip" in shown
    assert "2 tensors in 24 B, 1 of them shares storage with another" in shown
    assert "parameter, requires_grad" in shown
    assert "stride [1, 3]" in shown
    assert "epoch  int 3" in shown


def test_a_long_list_is_cut_and_shown_whole_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    compat.save({f"layer.{n}": torch.zeros(1) for n in range(100)}, path)
    assert "and 70 more (--all shows them)" in call("inspect", path).output
    assert "layer.99" in call("inspect", path, "--all").output


def test_convert_says_everything_as_json(model: Path, tmp_path: Path) -> None:
    found = json.loads(call("convert", model, tmp_path / "x.safetensors", "--json").output)
    assert (found["kind"], found["target_format"], found["tensors"], found["verified"]) == (
        "convert",
        "safetensors",
        2,
        True,
    )
    assert set(found["carried"]) == {"extras", "requires_grad", "aliasing", "strides"} & set(found["carried"]) | {
        "extras"
    }


def test_options_do_what_they_say(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    assert call("convert", model, target, "--to", "torch-legacy", "--no-verify").exit_code == 0
    assert call("convert", model, target, "--to", "torch-legacy").exit_code == 2
    assert call("convert", model, target, "--to", "safetensors", "--overwrite").exit_code == 0
    with compat.open(target) as checkpoint:
        assert checkpoint.format == "safetensors"
    assert call("convert", model, target, "--to", "nothing", "--overwrite").exit_code == 2
    assert call("convert", model).exit_code == 2
    assert call("nonsense").exit_code == 2


def test_real_processes_have_the_same_exit_codes(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    compat.save({"w": torch.ones(1)}, other)
    for arguments, code in (
        (("inspect", model), 0),
        (("diff", model, model), 0),
        (("diff", model, other), 1),
        (("diff", model, tmp_path / "nothing"), 2),
        (("inspect", tmp_path), 2),
        (("convert", model, other), 2),
    ):
        done = run(*arguments)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr + done.stdout


ODD: dict[str, bytes] = {
    "a number without end": zipped(number(1 << 100_000)),
    "names that no terminal shows": dumped({"\x1b[2J\ud800\n": torch.ones(1), "\x07": "\x00"}),
    "unknown objects": zipped(b"}" + name("m.C") + b")RK\x01s"),
    "no tensors": dumped([]),
    "an empty header": header({}),
    "a meta tensor": dumped(torch.empty(1 << 40, device="meta")),
    "metadata of others": header('{"__metadata__":{"\\u001b":"\\ud800"}}'),
}


@pytest.mark.parametrize("command", ["inspect", "diff", "convert"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_content_ends_in_words(odd: str, command: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(ODD[odd])
    second: list[object] = {"inspect": [], "diff": [path], "convert": [tmp_path / "y.safetensors"]}[command]  # type: ignore[assignment]  # mixed
    done = call(command, path, *second)
    assert done.exit_code in (0, 2)
    assert isinstance(done.exception, (SystemExit, type(None)))
    assert not [c for c in done.output if not c.isprintable() and c != "\n"]
    as_json = call(command, path, *second, "--json")
    assert json.loads(as_json.output)["schema"] == 1


def test_a_closed_pipe_is_no_traceback(model: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*PROGRAM, "inspect", str(model)], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert "Traceback" not in done.stderr


def test_no_command_imports_torch_to_help_itself() -> None:
    code = (
        "import sys, contextlib\nfrom compat.cli import main\nwith contextlib.suppress(SystemExit): main(['--help'])\n"
    )
    code += "assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    listed: Any = call("--help").output
    assert all(command in listed for command in COMMANDS)
