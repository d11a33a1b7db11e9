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
from tests.compat.making import FORMATS, dumped, header, name, number, raw, tensor, text, zipped

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


@pytest.mark.parametrize("arguments", [("inspect", "{}"), ("formats",), ("--help",), ("diff", "{}", "{}", "--json")])
def test_a_closed_pipe_ends_as_a_signal_would(arguments: tuple[str, ...], model: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*PROGRAM, *(argument.format(model) for argument in arguments)],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [("inspect", "{}"), ("formats",), ("--help",), ("diff", "{}", "{}", "--json")])
def test_a_full_disk_is_one_message(arguments: tuple[str, ...], model: Path) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [*PROGRAM, *(argument.format(model) for argument in arguments)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "compat: the output cannot be written: No space left on device\n"


def saved(path: Path, state: Any) -> Path:
    compat.save(state, path)
    return path


def moved(state: dict[str, torch.Tensor], device: str) -> bytes:
    return zipped(
        b"}(" + b"".join(text(key) + tensor(key=key, device=device) for key in state) + b"u",
        {f"data/{key}": raw(value) for key, value in state.items()},
    )


def test_what_may_differ_is_named_and_not_looked_at(tmp_path: Path) -> None:
    state = {f"t{n}": torch.full((4,), float(n)) for n in range(5)}
    left, right = tmp_path / "l.pt", tmp_path / "r.pt"
    left.write_bytes(moved(state, "cuda:0"))
    right.write_bytes(moved(state, "cpu"))
    done = call("diff", left, right)
    assert done.exit_code == 1
    assert "5 differences in tensors (0 tensors without any):\n" in done.output
    assert "  t0, t1, t2 and 2 more: device is cuda:0 on the left, cpu on the right\n" in done.output
    done = call("diff", left, right, "--ignore", "device", "--ignore", "stride")
    assert done.exit_code == 0
    assert "no difference in tensors: 5 tensors, equal in dtype, shape, sharing, every byte\n" in done.output
    assert "not compared, as asked: device, stride\n" in done.output
    found = json.loads(call("diff", left, right, "--ignore", "device", "--json").output)
    assert (found["same"], found["ignored"], found["equal_tensors"]) == (True, ["device"], 5)
    assert call("diff", left, right, "--ignore", "luck").exit_code == 2


def test_one_is_one(tmp_path: Path) -> None:
    left = saved(tmp_path / "l.pt", {"a": torch.ones(1), "n": 1})
    right = saved(tmp_path / "r.pt", {"a": torch.zeros(1), "n": 2})
    assert "\n1 tensor in 4 B\n" in call("inspect", left).output
    shown = call("diff", left, right).output
    assert "1 difference in tensors (0 tensors without any):" in shown
    assert "1 difference beside the tensors:" in shown
    assert "1 tensor, equal in" in call("diff", left, left).output
    assert "1 equal value" in call("diff", left, left).output
    assert "): 1 tensor, " in call("convert", left, tmp_path / "x.safetensors").output


def test_a_target_that_is_only_read_is_said_so(model: Path, tmp_path: Path) -> None:
    done = call("convert", model, tmp_path / "x.onnx")
    assert done.exit_code == 2
    assert "onnx can be read, not written" in done.output
    assert "expected one of .bin" in done.output


def test_an_empty_path_is_said_to_be_empty(model: Path) -> None:
    assert "the path is empty; expected the path of a checkpoint" in call("inspect", "").output
    done = call("convert", model, "")
    assert done.exit_code == 2
    assert "the path is empty; expected the name of a file to write" in done.output
    with pytest.raises(compat.Unreadable, match="the path is empty"):
        compat.save({}, "")


@pytest.mark.filterwarnings("ignore")
def test_what_stays_behind_is_said(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)  # type: ignore[no-untyped-call]  # torch's
    done = call("convert", path, tmp_path / "x.pt", "--to", "torch-zip")
    assert (
        "note: the code of the torchscript file stays behind: torch-zip holds its tensors and values only"
        in done.output
    )
    found = json.loads(call("convert", path, tmp_path / "y.safetensors", "--json").output)
    assert found["notes"] == [
        "the code of the torchscript file stays behind: safetensors holds its tensors and values only"
    ]
    again = compat.convert(tmp_path / "x.pt", tmp_path / "z.safetensors")
    assert again.notes == []


def test_inspect_of_a_folder_names_what_could_be_opened(model: Path, tmp_path: Path) -> None:
    done = call("inspect", tmp_path)
    assert done.exit_code == 2
    assert "is a directory, and no checkpoint of several files" in done.output
    assert f"It holds {model.name}; name one of them" in done.output


def test_no_command_imports_torch_to_help_itself() -> None:
    code = (
        "import sys, contextlib\nfrom compat.cli import main\nwith contextlib.suppress(SystemExit): main(['--help'])\n"
    )
    code += "assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    listed: Any = call("--help").output
    assert all(command in listed for command in COMMANDS)
