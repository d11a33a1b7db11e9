"""A project's own golden files: written once, and every way in which they or the project go wrong is a finding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from matrix.cli import main
from matrix.corpus.index import releases
from matrix.corpus.project import Finding, ProjectError, generate, verify

FACTORY = """
import torch

class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)

    def example_inputs(self):
        return (torch.ones(4, 3),)

    def forward(self, x):
        return {forward}

def head():
    return Head()
"""
RIGHT = "self.norm(self.linear(x))"
SCRIPT = """
import sys, torch
torch.save({"a": torch.arange(6).view(2, 3), "epoch": 3}, sys.argv[1] + "/a.pt")
"""
VERSION = str(torch.__version__).partition("+")[0]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a module, in the folder where commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, RIGHT)
    return tmp_path


def write(project: Path, forward: str, name: str = "headed") -> None:
    (project / f"{name}.py").write_text(FACTORY.format(forward=forward), encoding="utf-8")


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["corpus", *arguments])


def kinds(folder: Path, *released: str) -> list[str]:
    return [finding.kind for finding in verify(folder, released)]


def test_what_a_factory_makes_verifies(project: Path) -> None:
    done = command("generate", "golden", "--factory", "headed:head")
    assert done.exit_code == 0, done.output
    manifest = json.loads((project / "golden" / f"torch-{VERSION}" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["factory"] == "headed:head"
    assert set(manifest["files"]) == {"weights.pt"}
    assert manifest["versions"]["torch"] == VERSION
    checked = command("verify", "golden")
    assert (checked.exit_code, checked.stdout) == (0, "")


def test_golden_files_do_not_change_by_themselves(project: Path) -> None:
    generate(project / "golden", factory="headed:head")
    again = command("generate", "golden", "--factory", "headed:head")
    assert (again.exit_code, "--overwrite replaces it" in again.output) == (1, True)
    assert command("generate", "golden", "--factory", "headed:head", "--overwrite").exit_code == 0
    assert [path.name for path in (project / "golden").iterdir()] == [f"torch-{VERSION}"]


def test_a_module_that_computes_something_else_is_a_finding(project: Path) -> None:
    made = generate(project / "golden", factory="headed:head")
    write(project, RIGHT + " * 2", "doubled")
    manifest = json.loads((made / "manifest.json").read_text(encoding="utf-8"))
    (made / "manifest.json").write_text(json.dumps({**manifest, "factory": "doubled:head"}), encoding="utf-8")
    (finding,) = verify(project / "golden")
    assert finding.kind == "outputs"
    assert finding.message.startswith("the module computes something else: ")


def test_a_module_of_other_shapes_is_a_finding(project: Path) -> None:
    made = generate(project / "golden", factory="headed:head")
    text = FACTORY.format(forward=RIGHT).replace("Linear(3, 2)", "Linear(3, 2, bias=False)")
    (project / "biased.py").write_text(text, encoding="utf-8")
    manifest = json.loads((made / "manifest.json").read_text(encoding="utf-8"))
    (made / "manifest.json").write_text(json.dumps({**manifest, "factory": "biased:head"}), encoding="utf-8")
    (finding,) = verify(project / "golden")
    assert (finding.kind, "RuntimeError: Error(s) in loading state_dict" in finding.message) == ("unreadable", True)


def test_a_changed_a_missing_and_an_unlisted_artefact_are_findings(project: Path) -> None:
    made = generate(project / "golden", factory="headed:head")
    (made / "more.pt").write_bytes(b"")
    data = bytearray((made / "weights.pt").read_bytes())
    data[-1] ^= 1
    (made / "weights.pt").write_bytes(data)
    assert kinds(project / "golden") == ["unlisted", "changed"]
    (made / "weights.pt").unlink()
    assert kinds(project / "golden") == ["unlisted", "missing"]
    assert command("verify", "golden").exit_code == 1


def test_values_that_a_file_no_longer_gives_are_a_finding(project: Path) -> None:
    (project / "write.py").write_text(SCRIPT, encoding="utf-8")
    made = generate(project / "golden", script=project / "write.py")
    assert kinds(project / "golden") == []
    manifest = json.loads((made / "manifest.json").read_text(encoding="utf-8"))
    tensor = next(pair[1] for pair in manifest["files"]["a.pt"]["spec"]["tree"]["v"] if pair[1]["t"] == "tensor")
    tensor["shape"] = [3, 2]
    tensor["stride"] = [2, 1]
    (made / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (finding,) = verify(project / "golden")
    assert finding.kind == "values"
    assert finding.message.startswith("2 differences; the first: ['a']: shape: expected [3, 2]")


def test_a_released_version_without_golden_files_is_stale(project: Path) -> None:
    made = generate(project / "golden", factory="headed:head")
    assert list(verify(project / "golden", ["1.6.0"])) == [
        Finding(
            kind="stale",
            where="golden",
            message="there are no golden files of torch 1.6.0; write them under it: matrix corpus generate",
        )
    ]
    made.rename(made.with_name("torch-1.6.0"))
    assert kinds(project / "golden") == ["stale"]
    assert "stale: golden: there are no golden files of torch 1.6.0" not in command("verify", "golden").stdout


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("", "wrote nothing into the folder that it was given"),
        ("raise SystemExit('no model here')", "ended with exit code 1: no model here"),
        ("import sys; open(sys.argv[1] + '/a.txt', 'w').write('x')", "a.txt is no checkpoint that can be verified"),
    ],
)
def test_a_script_that_writes_no_checkpoint_leaves_nothing(project: Path, script: str, said: str) -> None:
    (project / "write.py").write_text(script, encoding="utf-8")
    with pytest.raises(ProjectError, match=said):
        generate(project / "golden", script=project / "write.py")
    assert list((project / "golden").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("generate", "golden"), 2, "give --factory or --script"),
        (("generate", "golden", "--script", "none.py"), 1, "none.py is no script"),
        (("generate", "golden", "--factory", "headed:none"), 2, "headed:none cannot be imported"),
        (("generate", "golden", "--factory", "headed:head", "--package", "nothing-such"), 1, "is not installed"),
        (("verify", "golden"), 2, "golden holds no manifest.json one level below"),
    ],
)
def test_wrong_usage_is_one_message(project: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert project.is_dir()
    done = command(*arguments)
    assert (done.exit_code, said in done.output) == (code, True), done.output


def test_a_manifest_that_is_damaged_is_named(project: Path) -> None:
    made = generate(project / "golden", factory="headed:head")
    for text, said in (("{", "cannot be read: JSONDecodeError"), ('{"schema": 9}', "has schema 9; expected 1")):
        (made / "manifest.json").write_text(text, encoding="utf-8")
        done = command("verify", "golden")
        assert (done.exit_code, said in done.output) == (2, True), done.output


def test_the_bundled_golden_files_verify() -> None:
    done = command("verify")
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    assert f"{sum(len(release.goldens) for release in releases())} golden files, 0 findings" in done.output
