"""`compat load`: whether a checkpoint loads into the user's own module, tried out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import compat
from compat.cli import main
from tests.compat.test_modules import net

FACTORY = """
import torch
def net():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2))
class Fussy(torch.nn.Linear):
    def _load_from_state_dict(self, state, prefix, metadata, strict, missing, unexpected, errors):
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)
        errors.append("not on a Monday")
def fussy():
    return Fussy(2, 2)
"""


@pytest.fixture(autouse=True)
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "factory_of_test_cli_load.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "factory_of_test_cli_load", raising=False)


def load(*args: Any, into: str = "net") -> Result:
    command = ["load", *map(str, args), "--into", f"factory_of_test_cli_load:{into}"]
    return CliRunner().invoke(main, command)


def test_a_match(tmp_path: Path) -> None:
    compat.save({"state_dict": compat.add_prefix(net(1).state_dict(), "module.")}, tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()
    result = load(tmp_path / "a.pt")
    assert result.exit_code == 0
    assert result.output == "9 loaded, from 'state_dict', without the prefix 'module.'\nfile and module match\n"
    assert (tmp_path / "a.pt").read_bytes() == before


def test_what_differs_is_a_finding(tmp_path: Path) -> None:
    state: Any = net(1).state_dict()
    state["0.weight"] = torch.ones(3)
    state["2.bias"] = torch.ones(2, dtype=torch.int64)
    state["old.x"] = torch.ones(1)
    del state["0.bias"]
    compat.save(state, tmp_path / "a.pt")
    result = load(tmp_path / "a.pt")
    assert result.exit_code == 1
    for said in ("missing keys in source state_dict: 0.bias", "old.x", "[2, 1, 1, 1]", "int64", "do not match exactly"):
        assert said in result.output
    found = json.loads(load(tmp_path / "a.pt", "--json").output)
    assert (found["kind"], found["schema"], found["complete"]) == ("load", 1, False)
    assert found["mismatched_keys"] == [["0.weight", [2, 1, 1, 1], [3]]]
    assert found["mismatched_dtypes"] == [["2.bias", "float32", "int64"]]
    options = ["--exclude", "0.*", "--exclude", "old.*", "--casting", "unsafe"]
    assert load(tmp_path / "a.pt", *options).exit_code == 0
    assert load(tmp_path / "a.pt", "--include", "1.*").exit_code == 0
    assert load(tmp_path / "a.pt", "--rename", "^old=>1").exit_code == 1


def test_what_the_module_s_own_code_refuses_is_a_finding(tmp_path: Path) -> None:
    compat.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "a.pt")
    result = load(tmp_path / "a.pt", into="fussy")
    assert result.exit_code == 1
    assert "not on a Monday" in result.output


@pytest.mark.parametrize(
    ("content", "args", "said"),
    [
        ({"a": net(1).state_dict(), "b": net(1).state_dict()}, [], "several states: 'a', 'b'"),
        ({"a": net(1).state_dict()}, ["--key", "x"], "has no key 'x'"),
        (net(1).state_dict(), ["--include", "x.*"], "fits 'x.*'"),
    ],
)
def test_what_is_not_clear_is_no_finding(tmp_path: Path, content: Any, args: list[str], said: str) -> None:
    compat.save(content, tmp_path / "a.pt")
    result = load(tmp_path / "a.pt", *args)
    assert result.exit_code == 2
    assert said in result.output


def test_no_such_factory(tmp_path: Path) -> None:
    compat.save(net(1).state_dict(), tmp_path / "a.pt")
    assert load(tmp_path / "a.pt", into="nothing").exit_code == 2
