"""What README promises: nothing executed, nothing heavy imported, nothing half-written, one message for bad input."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import compat
from compat.cli import COMMANDS, main
from compat.errors import CompatError, Corrupt, TargetExists, UnsafeGlobals, Unsupported
from matrix import canary

FORMATS = ("torch-zip", "torch-legacy", "safetensors")
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1, -1]), "n": 3}


def saved(tmp_path: Path, name: str = "torch-zip", state: Any = None) -> Path:
    path = tmp_path / f"{name}.file"
    compat.save(STATE if state is None else state, path, format=name)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# Nothing executed


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("way", canary.WAYS)
def test_reading_leaves_no_trace(way: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(2), "x": canary.WAYS[way]()}, path, _use_new_zipfile_serialization=zipped)
    canary.clear()
    with compat.open(path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        assert any("matrix.canary" in name for name in checkpoint.globals)
    with pytest.raises(UnsafeGlobals) as caught:
        compat.load(path)
    assert any(path.startswith("x") for paths in caught.value.globals.values() for path in paths)
    kept = compat.load(path, on_unknown="keep")
    assert isinstance(kept["x"], compat.Opaque)
    compat.convert(path, tmp_path / "y.pt")
    compat.diff(path, tmp_path / "y.pt")
    assert call("inspect", path).exit_code == 0
    assert canary.TOUCHED == []
    torch.load(tmp_path / "y.pt", weights_only=False)
    assert canary.TOUCHED, "what was converted calls what the original called, when it is asked to"


def test_a_name_in_a_file_is_never_imported(tmp_path: Path) -> None:
    (tmp_path / "a_module_nobody_imported.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    stream = b"\x80\x02}X\x01\x00\x00\x00xca_module_nobody_imported\nthing\n)Rs."
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream)
        archive.writestr("archive/version", "3\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import compat\n"
        f"with compat.open({str(path)!r}) as c: print(c.globals)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "a_module_nobody_imported.thing" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",
        b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
        b"\x80\x02ctorch\nFloatStorage\n}X\x01\x00\x00\x00aK\x01sb.",
        b"\x80\x02ctorch\nSize\n)R}X\x01\x00\x00\x00aK\x01sb.",
        b"\x80\x02Nctorch._utils\n_rebuild_tensor_v2\n}X\x0c\x00\x00\x00__defaults__NNtR\x86b.",
    ],
)
def test_a_stream_cannot_change_what_its_names_stand_for(stream: bytes) -> None:
    from compat.pickles import read_pickle
    from compat.rebuild import MEANINGS

    with pytest.raises(Corrupt):
        read_pickle(stream, meanings=MEANINGS)


# Bounds


def deep(opcode: bytes, count: int) -> bytes:
    return b"\x80\x02)" + opcode * count


BOMBS: dict[str, bytes] = {
    "memo index": b"\x80\x02]r\xff\xff\xff\x7f.",
    "text memo index": b"]p99999999999\n.",
    "length of bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00.",
    "length of a bytearray": b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",
    "length of a frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\x00\x00\x00N.",
    "deep tuple as a key": b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.",
    "doubled tuple as a key": b"\x80\x02})\x85q\x00"
    + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60))
    + b"Ns.",
    "doubled tuple in a set": b"\x80\x02c__builtin__\nset\n])\x85q\x00"
    + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60))
    + b"a\x85R.",
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "doubled lists": b"\x80\x02]q\x00"
    + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60))
    + b".",
    "extension code": b"\x80\x02\x82\x01.",
    "no end": b"\x80\x02}",
    "underflow": b"\x80\x02a.",
    "no mark": b"\x80\x02u.",
    "unknown opcode": b"\x80\x02\xff.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_stream_costs_little(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", BOMBS[name])
    code = (
        "import resource, time; resource.setrlimit(resource.RLIMIT_AS, (600 << 20,) * 2); import compat\n"
        f"begun = time.process_time()\ntry:\n    c = compat.open({str(path)!r}); c.tensors; print('read')\n"
        "except compat.CompatError as error: print(type(error).__name__)\n"
        "assert time.process_time() - begun < 5\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-800:]
    assert done.stdout.strip() in {"Corrupt", "Unsupported"}, done.stdout


# Damage


def outcome(content: bytes) -> Any:
    """What comes of reading content: the values, or None for a CompatError; anything else fails the test."""
    try:
        loaded = compat.load(content, map_location="cpu", on_unknown="keep")
    except CompatError:
        return None
    return loaded


def same(a: Any, b: Any) -> bool:
    return not compat.diff(dumped(a), dumped(b))


def dumped(state: Any) -> bytes:
    buffer = io.BytesIO()
    compat.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_every_truncation_is_refused(name: str, tmp_path: Path) -> None:
    content = saved(tmp_path, name).read_bytes()
    for size in range(len(content)):
        assert outcome(content[:size]) is None, size


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_a_flipped_byte_gives_an_error_or_data(name: str, tmp_path: Path) -> None:
    content = saved(tmp_path, name).read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        loaded = outcome(bytes(damaged))
        # The zip format has sums of all records: whatever is read must be what was written.
        if name == "torch-zip" and loaded is not None:
            assert same(loaded, STATE), position


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return buffer.getvalue()


def test_deflated_records_are_read() -> None:
    plain = dumped(STATE)
    with zipfile.ZipFile(io.BytesIO(plain)) as source:
        packed = archive({name: source.read(name) for name in source.namelist()}, zipfile.ZIP_DEFLATED)
    assert len(packed) < len(plain)
    assert same(compat.load(packed), STATE)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_records_of_one_name_are_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for content in (b"N.", b"K\x01."):
            made.writestr("archive/data.pkl", content)
    with pytest.raises(Corrupt, match="two records are named"):
        compat.open(buffer.getvalue())


def header(tensors: dict[str, Any], data: bytes = b"\0" * 8) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "4 bytes follow"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, "begins at 4"),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, "8 bytes of tensors are missing"),
        ({"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}, "unknown dtype 'F33'"),
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, "has 8 bytes; expected 12"),
        ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, "list of natural numbers"),
        ({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 8]}}, "list of natural numbers"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "expected dtype, shape and data_offsets"),
        ({"__metadata__": {"x": 1}}, "an object of strings"),
        ({"__metadata__": {"compat.layout": "{}"}}, "carried layout is damaged"),
    ],
)
def test_a_wrong_safetensors_header_says_what_is_wrong(tensors: dict[str, Any], reason: str) -> None:
    with pytest.raises(Corrupt, match=reason):
        compat.open(header(tensors, b"\0" * 8 if "a" in tensors else b""))


def test_a_doubled_name_in_a_safetensors_header_is_refused() -> None:
    one = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    text = f"{{{one},{one}}}".encode()
    with pytest.raises(Corrupt, match="names 'a' twice"):
        compat.open(len(text).to_bytes(8, "little") + text + b"\0" * 8)


# Nothing half-written


@pytest.mark.parametrize("name", FORMATS)
def test_an_existing_target_is_left_alone(name: str, tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"precious")
    with pytest.raises(TargetExists):
        compat.save(STATE, target, format=name)
    with pytest.raises(TargetExists):
        compat.convert(saved(tmp_path), target, to=name)
    assert target.read_bytes() == b"precious"
    compat.save(STATE, target, format=name, overwrite=True)
    assert same(compat.load(target), STATE)


@pytest.mark.parametrize("name", FORMATS)
def test_a_state_that_cannot_be_held_is_refused_and_nothing_stays(name: str, tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"precious")
    unsaveable = {"a": torch.zeros(2), "b": object()}
    with pytest.raises(Unsupported, match=r"b is a builtins\.object"):
        compat.save(unsaveable, target, format=name, overwrite=True)
    assert target.read_bytes() == b"precious"
    assert names(tmp_path) == ["x"]


def test_a_dtype_that_safetensors_cannot_name_is_refused_or_carried_as_bits(tmp_path: Path) -> None:
    state = {"z": torch.tensor([1 + 2j, complex("nan")], dtype=torch.complex128)}
    source = saved(tmp_path, state=state)
    with pytest.raises(Unsupported, match="complex128, which the format cannot name"):
        compat.convert(source, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()
    done = compat.convert(source, tmp_path / "x.safetensors", allow_loss=["dtype"])
    assert done.carried["dtype"] == ["z"]
    assert not compat.diff(source, tmp_path / "x.safetensors")


def test_a_converter_that_writes_other_bytes_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compat.layout import _planning

    source = saved(tmp_path)
    monkeypatch.setattr(_planning, "element_chunks", lambda record: [bytes(record.nbytes)])
    with pytest.raises(compat.Mismatch, match="does not read back as the source"):
        compat.convert(source, tmp_path / "x.safetensors")
    assert names(tmp_path) == [source.name]


# Nothing heavy


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_importing_compat_imports_nothing_heavy() -> None:
    assert not modules_after("import compat") & {"torch", "numpy", "click", "rich", "pickle", "zlib"}


@pytest.mark.parametrize("name", FORMATS)
def test_inspecting_imports_neither_torch_nor_numpy(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path, name)
    code = (
        f"import sys; sys.argv = ['compat', 'inspect', {str(path)!r}]\nfrom compat.cli import main\n"
        "try: main()\nexcept SystemExit as done: assert done.code == 0"
    )
    assert not modules_after(code) & {"torch", "numpy", "rich"}


def test_converting_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    path = saved(tmp_path)
    code = f"import compat; compat.convert({str(path)!r}, {str(tmp_path / 'y.safetensors')!r})"
    assert not modules_after(code) & {"torch", "numpy"}


# Commands


def truncated(tmp_path: Path) -> Path:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def written(content: bytes) -> Callable[[Path], Path]:
    def make(tmp_path: Path) -> Path:
        path = tmp_path / "input"
        path.write_bytes(content)
        return path

    return make


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda tmp_path: tmp_path / "nothing.pt", "does not exist"),
    "directory": (lambda tmp_path: tmp_path, "is a directory"),
    "truncated": (truncated, "cut short"),
    "empty": (written(b""), "is empty"),
    "html": (written(b"<!DOCTYPE html><html>"), "is an HTML page"),
    "git-lfs": (written(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "gzip": (written(b"\x1f\x8b\x08rest"), "gunzip"),
    "unknown": (written(bytes(range(128, 200))), "is of no known format"),
    "other zip": (written(archive({"readme.txt": b"hello"})), "holds no checkpoint"),
}


@pytest.mark.parametrize("command", ["inspect", "convert", "diff"])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_and_exit_code_2(name: str, command: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    path = make(tmp_path)
    second = {"inspect": [], "convert": [tmp_path / "out.safetensors"], "diff": [path]}[command]
    before = names(tmp_path)
    done = call(command, path, *second)
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1, done.output
    assert names(tmp_path) == before
    as_json = json.loads(call(command, path, *second, "--json").output)
    assert (as_json["kind"], as_json["schema"]) == ("error", 1)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("nowhere/out.pt", [], "there is no folder"),
        ("out.docx", [], "says no format"),
        ("out.pt", ["--to", "nonsense"], "there is no format 'nonsense'"),
        (".", [], "is a directory"),
        ("/dev/null", ["--to", "torch-zip", "--overwrite"], "is a device or a pipe"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused(
    target: str, options: list[str], message: str, tmp_path: Path
) -> None:
    source = saved(tmp_path)
    done = call("convert", source, tmp_path / target, *options)
    assert done.exit_code == 2
    assert message in done.output
    assert names(tmp_path) == [source.name]


def test_diff_says_0_for_the_same_and_1_for_a_difference(tmp_path: Path) -> None:
    left = saved(tmp_path)
    right = saved(tmp_path, "safetensors")
    assert call("diff", left, right).exit_code == 0
    other = tmp_path / "other.pt"
    compat.save({**STATE, "a.bias": torch.tensor([1, 1])}, other)
    done = call("diff", left, other)
    assert done.exit_code == 1
    assert "a.bias: bytes is 0xff at byte 8 (element 1) on the left, 0x01 on the right" in done.output
    assert json.loads(call("diff", left, other, "--json").output)["same"] is False


def test_a_conversion_says_what_only_compat_gives_back(tmp_path: Path) -> None:
    source = saved(tmp_path)
    done = call("convert", source, tmp_path / "x.safetensors")
    assert done.exit_code == 0
    assert "extras kept beside the tensors, only compat restores it: n" in done.output
    assert "carries n (int 3) in its metadata" in call("diff", source, tmp_path / "x.safetensors").output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = call(name, "--help")
    assert done.exit_code == 0
    assert "Usage:" in done.output


def test_formats_are_listed_with_what_they_keep() -> None:
    listed = json.loads(call("formats", "--json").output)["formats"]
    assert {found["name"] for found in listed} >= set(FORMATS)
    assert "torch-legacy" in call("formats").output


def test_a_control_character_in_a_name_cannot_reach_the_terminal(tmp_path: Path) -> None:
    path = saved(tmp_path, state={"a\x1b[31m\n": torch.zeros(1)})
    assert "\x1b" not in call("inspect", path).output


def test_weights_only_false_is_the_one_door(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"x": canary.Reduced()}, path)
    canary.clear()
    assert compat.load(path, weights_only=False) == {"x": {"touched": "reduce"}}
    assert canary.TOUCHED == ["reduce"]


def test_a_plain_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert call("inspect", path).exit_code == 2
