"""The pytest plugin, as people call it: each test is a project of its own with a pytest of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from matrix.report import CutReport, Report

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
PLAIN = "roundtrip:npz:*:plain"
ONE = "roundtrip:npz:compat>compat:wo:plain"
# Installed, it is found by itself; from a mere checkout it is named.
INSTALLED = any(found.value == "matrix.plugin" for found in entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "matrix.plugin")
# A reader that loses the last key, where the environment says so.
BROKEN = """
    import os
    if os.environ.get("BREAK"):
        from dataclasses import replace
        import matrix.runner
        good = matrix.runner.IMPLEMENTATIONS["compat"]
        def read(path, mode):
            found = good.read(path, mode)
            found.popitem()
            return found
        made = {**matrix.runner.IMPLEMENTATIONS, "compat": replace(good, read=read)}
        matrix.runner.IMPLEMENTATIONS = made
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("PYTEST_ADDOPTS", "BREAK", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeconftest(BROKEN)
    pytester.makepyfile(test_own="def test_own(): pass")
    return pytester


def call(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess(*PLUGIN, *arguments, timeout=120)


def lines(result: pytest.RunResult, beginning: str) -> list[str]:
    return [line for line in result.outlines if line.startswith(beginning)]


def read(project: pytest.Pytester, folder: str) -> Report:
    return Report.read(project.path / folder / "report.jsonl")


def test_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import matrix.plugin;"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "['matrix']"


def test_profiles_are_those_of_the_runner() -> None:
    from matrix.plugin import _PROFILES
    from matrix.runner import PROFILES

    assert tuple(PROFILES) == _PROFILES


def test_without_the_option_there_are_no_cells(project: pytest.Pytester) -> None:
    result = call(project, "--strict-markers")
    result.assert_outcomes(passed=1)
    lines = [line for line in result.outlines if not line.startswith("plugins:")]
    assert not [line for line in lines if "compat-matrix" in line]
    assert "--compat-cells=PATTERN" in call(project, "--help").stdout.str()
    assert "@pytest.mark.compat(check, format, writer" in call(project, "--markers").stdout.str()


def test_cells_run_beside_a_project_s_own_tests(project: pytest.Pytester) -> None:
    known = "roundtrip:torch-legacy:torch>torch:wo:dtype-uint16"
    result = call(project, "--compat", "--compat-cells", ONE, "--compat-cells", known, "-rA", "-W", "error")
    result.assert_outcomes(passed=2, xfailed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "compat-matrix: 2 cells, profile quick, seed 0, compat *, torch *",
            f"PASSED compat-matrix::{ONE}",
            f"XFAIL compat-matrix::{known} - torch-legacy-new-dtypes: torch writes dtypes without*",
        ]
    )


def test_a_failure_says_what_differed_and_how_to_record_and_to_see_it(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BREAK", "1")
    result = call(project, "--compat", "--compat-cells", ONE, "--compat-report", "out", "--compat-seed", "3")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "broken: mismatch at compare: *: structure: expected tensor (*), seen no such key",
            f"cell:     {ONE}",
            "means:    something is wrong that no one recorded",
            "expected: ok",
            "differs:  structure",
            "    [[][[]known]]",
            f'    cells = [[]"{ONE}"[]]',
            '    facets = [[]"structure"[]]',
            "to see *: python */out/reproducers/*.py",
            f"to run it again: pytest --compat -m compat --compat-cells '{ONE}' --compat-profile quick --compat-seed 3",
            "report: */out/report.jsonl",
            "report: */out/report.html",
            f"FAILED compat-matrix::{ONE} - broken: mismatch*",
        ]
    )
    report = read(project, "out")
    assert [cell.verdict for cell in report.cells] == ["broken"]
    assert report.header["seed"] == 3
    assert "1 cell is not as expected" in (project.path / "out" / "report.html").read_text(encoding="utf-8")
    script = str((report.cells[0].failure or {})["reproducer"])
    assert Path(script).is_file()


def test_lf_k_m_and_junitxml_work_as_ever(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--compat", "--compat-cells", PLAIN)
    call(project, *arguments, "-k", "module and not cpu and wo", "--co", "-q").stdout.no_fnmatch_line("*:cpu:*")
    chosen = call(project, *arguments, "-m", "compat(map_location='cpu', prefix='module.')", "--co", "-q")
    assert lines(chosen, "compat-matrix::") == ["compat-matrix::roundtrip:npz:compat>compat:wo:cpu:module.:plain"]
    monkeypatch.setenv("BREAK", "1")
    broken = call(project, *arguments, "-k", "cpu or test_own", "--junitxml", "junit.xml")
    broken.assert_outcomes(passed=1, failed=5, deselected=25)
    monkeypatch.delenv("BREAK")
    call(project, *arguments, "--lf").assert_outcomes(passed=5, deselected=26)
    cases = list(ET.parse(project.path / "junit.xml").getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None]
    assert {(case.get("classname"), str(case.get("name")).split(":")[4]) for case in failed} == {
        ("compat-matrix", "cpu")
    }
    assert len(cases) == 6


def test_processes_share_the_cells_and_one_report(project: pytest.Pytester) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    cells = ("--compat-cells", PLAIN, "--compat-cells", "roundtrip:torch-legacy:torch>torch:wo:dtype-uint*")
    result = call(project, "--compat", *cells, "-n", "2", "--compat-report", "out")
    result.assert_outcomes(passed=32, xfailed=3)
    report = read(project, "out")
    assert len(report.cells) == 34
    assert report.footer["verdicts"] == {"as-expected": 31, "known": 3}


def test_what_ini_keys_say_holds_until_an_option_says_otherwise(project: pytest.Pytester) -> None:
    project.makefile(
        ".py",
        models="import torch\n\ndef make():\n    return torch.nn.Linear(3, 2)\n",
    )
    project.makeini(
        """
        [pytest]
        pythonpath = .
        addopts = --compat
        compat_cells =
            roundtrip:npz:compat>compat:wo:m*
            roundtrip:npz:compat>compat:wo:cpu:model
        compat_model = models:make
        compat_seed = 11
        compat_report = out
        """
    )
    call(project).assert_outcomes(passed=11)
    report = read(project, "out")
    assert (report.header["seed"], report.header["given"]) == (11, "model")
    call(project, "--compat-cells", "convert:npz>safetensors:model", "--compat-report", "other").assert_outcomes(
        passed=2
    )
    assert [cell.id for cell in read(project, "other").cells] == ["convert:npz>safetensors:model"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compat", "--compat-cells", "nonsense"], "--compat: no cell matches 'nonsense'; near it: "),
        (["--compat", "--compat-profile", "huge"], "--compat-profile is 'huge'; expected one of quick, default"),
        (["--compat", "--compat-seed", "one"], "--compat-seed is 'one'; expected a whole number"),
        (["--compat", "--compat-model", "nothing:at_all"], "nothing:at_all cannot be imported: ModuleNotFoundError"),
        (["--compat", "--compat-model", "os:getcwd"], "os:getcwd returned a str; expected a torch.nn.Module"),
        (["--compat", "--compat-model", "nothing"], "expected package.module:factory"),
        (["--compat-cells", "*"], "--compat-cells says what --compat runs; give --compat too"),
    ],
)
def test_wrong_usage_is_one_message(project: pytest.Pytester, arguments: list[str], message: str) -> None:
    result = call(project, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    errors = [line for line in result.errlines if line]
    assert len(errors) == 1, errors
    assert errors[0].startswith("ERROR: ")
    assert message in errors[0]
    assert result.outlines == []


def test_a_session_that_stops_early_leaves_a_report_that_says_so(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BREAK", "1")
    result = call(project, "--compat", "--compat-cells", PLAIN, "-x", "--compat-report", "out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    with pytest.raises(CutReport) as caught:
        read(project, "out")
    assert [cell.verdict for cell in caught.value.partial.cells] == ["broken"]
    assert "The run was cut" in (project.path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_known_mismatch_that_is_seen_nowhere_fails_the_session(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makepyfile(
        conftest="""
            import matrix.expectations, matrix.runner
            from matrix.expectations import parse
            entry = '''
                [[known]]
                id = "made-up"
                cells = ["roundtrip:npz:compat>compat:wo:plain", "roundtrip:npz:compat>compat:wo:cpu:plain"]
                outcome = "mismatch"
                facets = ["dtype"]
                reason = "said to be so"
                link = "https://example.org"
            '''
            known = matrix.expectations.load_known() + parse(entry, "made-up.toml")
            matrix.runner.load_known = lambda: known
        """
    )
    some = call(project, "--compat", "--compat-cells", ONE)
    assert some.ret == 0, "one cell does not speak for all of them"
    whole = call(project, "--compat", "--compat-cells", PLAIN, "--compat-report", "out")
    assert whole.ret == pytest.ExitCode.TESTS_FAILED
    whole.stdout.fnmatch_lines(
        ["*healed known differences*", "made-up was seen in none of its cells: remove its entry*"]
    )
    report = read(project, "out")
    assert [cell.id for cell in report.failed] == [ONE, ONE.replace("wo:", "wo:cpu:")]
    assert {cell.verdict for cell in report.failed} == {"healed"}


def test_fixtures_write_checkpoints_and_compare_them(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_fixtures="""
            import pytest, torch

            STATE = {"w": torch.arange(6.0).view(2, 3).T, "n": 3}

            def test_same(compat_roundtrip):
                loaded = compat_roundtrip(STATE, format="safetensors")
                assert list(loaded) == ["w", "n"]
                compat_roundtrip(STATE, writer="torch", reader="compat", weights_only=False)

            def test_file(compat_checkpoint):
                one, two = compat_checkpoint(STATE), compat_checkpoint(STATE, format="torch-legacy", writer="torch")
                assert one != two
                assert torch.load(two)["n"] == 3

            def test_different(compat_roundtrip):
                compat_roundtrip({"b": torch.tensor([-0.0]), "a": torch.ones(1)}, format="safetensors",
                                 writer="safetensors", reader="torch")

            def test_usage(compat_checkpoint):
                with pytest.raises(ValueError, match="'me' writes and reads nothing; expected one of torch, compat"):
                    compat_checkpoint(STATE, writer="me")
        """
    )
    result = call(project, "test_fixtures.py", "--tb=short")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E   AssertionError: safetensors as safetensors writes it and torch reads it is not what was there:",
            "E     the root: key-order: expected *'b'*, seen *'a'*",
        ]
    )
    assert "pytest_fixtures.py" not in re.sub(r"(?m)^E .*", "", result.stdout.str())


def test_a_bit_is_shown_as_hex_and_as_its_value(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREAK", "1")
    project.makeconftest(
        BROKEN.replace("found.popitem()", "[v.reshape(-1)[:1].neg_() for v in found.values() if v.is_floating_point()]")
    )
    cell = "roundtrip:npz:compat>compat:wo:dtype-float32"
    result = call(project, "--compat", "--compat-cells", cell)
    (seen,) = lines(result, "broken: ")
    assert re.search(
        r"\]: bytes: expected [0-9a-f]+ \(b?float\d+ [-\d.e+]+\) at byte \d+ of \d+, element \[[\d, ]*\], "
        r"seen [0-9a-f]+ \(b?float\d+ [-\d.e+]+\)",
        seen,
    ), seen


def test_a_missing_library_is_one_message(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import importlib.util
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "torch" else real(name, *more)
        """
    )
    result = call(project, "--compat")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (error,) = [line for line in result.errlines if line]
    assert error.startswith("ERROR: --compat: torch is not installed. Install it with: python -m pip install torch")


# The documentation


def test_the_page_on_pytest_names_every_option_and_no_other(project: pytest.Pytester) -> None:
    page = (ROOT / "docs" / "pytest.md").read_text(encoding="utf-8")
    shown = call(project, "--help").stdout.str()
    options = set(re.findall(r"--compat(?:-\w+)?", shown))
    assert set(re.findall(r"--compat(?:-\w+)?", page)) == options
    keys = set(re.findall(r"^  (compat_\w+) \(", shown, flags=re.MULTILINE))
    assert set(re.findall(r"`(compat_\w+)`", page)) == keys
    assert len(keys) == len(options) - 1


def test_the_example_of_the_page_passes(project: pytest.Pytester) -> None:
    page = (ROOT / "docs" / "pytest.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    project.makepyfile(test_example=example)
    call(project, "test_example.py").assert_outcomes(passed=2)


def test_the_ini_of_the_page_is_read(project: pytest.Pytester) -> None:
    page = (ROOT / "docs" / "pytest.md").read_text(encoding="utf-8")
    (ini,) = re.findall(r"```ini\n(.*?)```", page, flags=re.DOTALL)
    project.makeini(ini.replace("yourpackage.models:make_model", "torch.nn:Identity"))
    listed = lines(call(project, "--co", "-q", "--strict-config"), "compat-matrix::")
    assert {name.split("::")[1].split(":")[0] for name in listed} == {"roundtrip", "convert"}
