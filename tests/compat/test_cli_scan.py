"""`compat scan`: what it prints for people, for programs and for code hosts, and what it exits with."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import compat
from compat.cli import main
from tests.compat.making import torch_dumped


class Shell:
    """Reduces to a call of os.system."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["scan", *map(str, arguments)])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of files: good, unknown, dangerous, broken, and no checkpoint."""
    (tmp_path / "good.pt").write_bytes(torch_dumped({"a": torch.ones(2)}))
    (tmp_path / "module.pt").write_bytes(torch_dumped({"epoch": 1, "model": torch.nn.ReLU()}))
    (tmp_path / "evil.pt").write_bytes(torch_dumped({"a": torch.ones(2), "b": [Shell()]}))
    (tmp_path / "broken.pkl").write_bytes(pickle.dumps(Shell(), 2)[:-1])
    (tmp_path / "readme.txt").write_text("What these files are.\n" * 3)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["good.pt"], 0),
        (["module.pt"], 1),
        (["evil.pt"], 1),
        (["good.pt", "evil.pt"], 1),
        (["broken.pkl"], 2),
        (["evil.pt", "broken.pkl"], 2),
        (["readme.txt"], 2),
        (["none.pt"], 2),
        (["good.pt", "none.pt"], 2),
        (["."], 2),
    ],
)
def test_the_exit_code_is_that_of_the_worst_file(names: list[str], code: int, files: Path) -> None:
    for form in ([], ["--json"], ["--sarif"]):
        assert call(*form, *(files / name for name in names)).exit_code == code


def test_people_are_told_what_would_run_and_what_to_do(files: Path) -> None:
    path = files / "evil.pt"
    offset = path.read_bytes().index(b"cposix")
    found = compat.scan(path).executed[0]
    assert found.file_offset == offset
    assert call(path).output == (
        f"{path}: torch-zip, 1 of its 4 names would be executed\n"
        "  error: posix.system runs programs\n"
        f"    at byte {found.offsets[0]} of archive/data.pkl, in b.0\n"
        f"  load it with: compat.load('{path}', on_unknown=\"keep\")\n"
        "  not without compat: it names what is known to do harm: do not let torch unpickle it\n"
    )


def test_a_harmless_file_is_said_to_be_one(files: Path) -> None:
    path = files / "good.pt"
    lines = call(path).output.splitlines()
    assert lines == [
        f"{path}: torch-zip, nothing would be executed: its 3 names only make values",
        f"  load it with: compat.load('{path}')",
        "  or, without compat (torch 1.13 or newer):",
        "    import torch",
        f"    torch.load('{path}', weights_only=True)",
    ]
    assert "  ok: torch.FloatStorage only makes values" in call("--all", path).output.splitlines()


def test_a_broken_file_lists_what_was_found(files: Path) -> None:
    output = call(files / "broken.pkl").output
    assert "error: posix.system runs programs" in output
    assert "cannot be read to its end:" in output
    assert "ends before its STOP opcode" in output


def test_folders_are_searched_and_what_is_no_checkpoint_is_skipped(files: Path) -> None:
    deep = files / "deep" / "er"
    deep.mkdir(parents=True)
    (files / "evil.pt").rename(deep / "evil.pt")
    found = json.loads(call("--json", files).output)
    assert [Path(one["file"]).name for one in found["files"]] == ["broken.pkl", "evil.pt", "good.pt", "module.pt"]
    assert [Path(name).name for name in found["skipped"]] == ["readme.txt"]


def test_a_folder_without_checkpoints_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here to load, only text\n")
    result = call(tmp_path)
    assert result.exit_code == 2
    assert "there is no checkpoint in it" in result.output


def test_programs_get_everything(files: Path) -> None:
    found = json.loads(call("--json", files / "evil.pt", files / "none.pt").output)
    assert (found["kind"], found["schema"], [error["error"] for error in found["unread"]]) == (
        "scan",
        1,
        ["unreadable"],
    )
    (one,) = found["files"]
    assert (one["format"], one["streams"], one["executes"], one["complete"]) == ("torch-zip", 1, True, True)
    worst = next(entry for entry in one["globals"] if entry["severity"] == "error")
    assert {name: worst[name] for name in ("name", "stream", "paths", "uses", "count", "allowed_since")} == {
        "name": "posix.system",
        "stream": "archive/data.pkl",
        "paths": ["b.0"],
        "uses": ["called"],
        "count": 1,
        "allowed_since": "",
    }
    assert one["load"]["compat"].startswith("compat.load(")


# Object → (what it must have, what it may have), from the schema of SARIF 2.1.0 at docs.oasis-open.org.
SARIF: dict[str, tuple[str, str]] = {
    "log": ("version runs", "$schema"),
    "runs": ("tool", "invocations results"),
    "tool": ("driver", ""),
    "driver": ("name", "version rules"),
    "rules": ("id", "name shortDescription defaultConfiguration"),
    "shortDescription": ("text", ""),
    "defaultConfiguration": ("", "level"),
    "invocations": ("executionSuccessful", "toolExecutionNotifications"),
    "toolExecutionNotifications": ("message", "level descriptor locations"),
    "descriptor": ("id", ""),
    "results": ("message", "ruleId ruleIndex level locations partialFingerprints"),
    "message": ("text", ""),
    "locations": ("", "physicalLocation logicalLocations"),
    "physicalLocation": ("artifactLocation", "region"),
    "artifactLocation": ("uri", ""),
    "region": ("byteOffset", "byteLength"),
    "logicalLocations": ("fullyQualifiedName", ""),
}


def check_sarif(kind: str, node: dict[str, Any]) -> None:
    required, allowed = (set(names.split()) for names in SARIF[kind])
    assert required <= set(node) <= required | allowed, kind
    assert node.get("level", "error") in ("none", "note", "warning", "error")
    for name, value in node.items():
        for part in value if isinstance(value, list) else [value]:
            if name in SARIF:
                check_sarif(name, part)


def test_code_hosts_get_sarif(files: Path) -> None:
    found = json.loads(call("--sarif", files, files / "none.pt").output)
    check_sarif("log", found)
    assert (found["version"], len(found["runs"])) == ("2.1.0", 1)
    (run,) = found["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
    listed = [(result["ruleId"], result["message"]["text"].partition(" ")[0]) for result in run["results"]]
    assert listed == [
        ("dangerous-global", "posix.system"),
        ("dangerous-global", "posix.system"),
        ("unknown-global", "torch.nn.modules.activation.ReLU"),
    ]
    place = run["results"][1]["locations"][0]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == (files / "evil.pt").as_uri()
    begin = place["physicalLocation"]["region"]["byteOffset"]
    assert (files / "evil.pt").read_bytes()[begin:].startswith(b"cposix\nsystem\n")
    assert place["logicalLocations"] == [{"fullyQualifiedName": "archive/data.pkl: b.0"}]
    (invocation,) = run["invocations"]
    assert not invocation["executionSuccessful"]
    assert [note["descriptor"]["id"] for note in invocation["toolExecutionNotifications"]] == ["corrupt", "unreadable"]


def test_relative_names_stay_relative_in_sarif(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    (files / "evil.pt").rename(files / "ev il.pt")
    (result,) = json.loads(call("--sarif", "ev il.pt").output)["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "ev%20il.pt"


def test_a_name_that_is_no_text_has_a_place_in_sarif(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    odd = os.fsdecode(b"odd\xff.pt")
    (files / "evil.pt").rename(files / odd)
    (result,) = json.loads(call("--sarif", odd).output)["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "odd%FF.pt"
    assert call(odd).exit_code == call("--json", odd).exit_code == 1


def test_two_forms_at_once_are_refused(files: Path) -> None:
    result = call("--json", "--sarif", files / "good.pt")
    assert (result.exit_code, "exclude each other" in result.output) == (2, True)


def test_nothing_of_a_file_is_imported_or_run(files: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Touch:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {marker}",)

    (files / "touch.pt").write_bytes(torch_dumped([Touch()]))
    code = (
        "import sys; from compat.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "scan", str(files / "touch.pt"), str(files / "module.pt")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr.strip(), marker.exists()) == (1, "[]", False)
