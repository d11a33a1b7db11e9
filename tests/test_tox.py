"""tox.ini: its releases are those that are listed with their pins, and its commands are there."""

from __future__ import annotations

import configparser
import re
import runpy
from pathlib import Path

import pytest

from matrix.cli import COMMANDS
from matrix.releases import release, torch_releases

ROOT = Path(__file__).parents[1]


def settings() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "tox.ini", encoding="utf-8")
    return parser


def factors() -> list[str]:
    (found,) = re.findall(r"py311-torch\{([^}]+)\}", settings()["tox"]["env_list"])
    return str(found).split(",")


def test_every_environment_of_torch_installs_its_release_and_no_pin_stands_here() -> None:
    install = dict(re.findall(r"torch([\d.]+): python \.ci/install (\S+)", settings()["testenv"]["commands_pre"]))
    assert install == {name: name for name in factors()}
    text = (ROOT / "tox.ini").read_text(encoding="utf-8")
    assert "==" not in text
    assert "numpy<" not in text


@pytest.mark.parametrize("factor", factors())
def test_a_release_is_installed_with_what_it_is_listed_with(factor: str) -> None:
    requirements = runpy.run_path(str(ROOT / ".ci" / "install"))["requirements"](factor)
    name = requirements[0].removeprefix("torch==")
    assert name.rpartition(".")[0] == factor
    listed = release(name)
    assert listed.python == "3.11"
    assert name in [found.name for found in torch_releases()]
    # What the golden files of one release need beside it is no part of its pins.
    assert requirements == [f"torch=={name}", *[text for text in listed.packages[1:] if text.startswith("numpy")]]


def test_a_release_that_is_not_listed_is_one_message() -> None:
    with pytest.raises(SystemExit, match=r"torch 9\.9 is not listed; there are 1\.0\.1, "):
        runpy.run_path(str(ROOT / ".ci" / "install"))["requirements"]("9.9")


def test_its_commands_exist() -> None:
    text = (ROOT / "tox.ini").read_text(encoding="utf-8")
    assert set(re.findall(r"^    matrix (\w+)", text, flags=re.MULTILINE)) <= set(COMMANDS)
