"""Peers below a cache: made whole or not at all, found, locked, removed; errors name the step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from matrix.cli import main
from matrix.peers import Peers, PeersError, default_cache
from matrix.releases import ReleaseError, interpreter, others, release, torch_releases


def version() -> str:
    import torch

    return str(torch.__version__).partition("+")[0]


def put(cache: Path, name: str, module: str = "by_torch") -> Path:
    """A peer that is there, whose interpreter is this one."""
    python = cache / name / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    facts = {"module": module, "packages": [], "versions": {"torch": name}}
    (cache / name / "peer.json").write_text(json.dumps(facts), encoding="utf-8")
    return cache / name


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["peers", *arguments])


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "compat-matrix" / "peers"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "compat-matrix" / "peers"


def test_a_peer_is_found_asked_and_removed(tmp_path: Path) -> None:
    put(tmp_path, version())
    listed = command("list", "--json", "--cache", str(tmp_path))
    assert [peer["name"] for peer in json.loads(listed.stdout)["peers"]] == [version()]
    checked = command("check", "--cache", str(tmp_path))
    assert (checked.exit_code, "reads torch-legacy, torch-zip" in checked.stdout) == (0, True)
    assert command("remove", version(), "--cache", str(tmp_path)).exit_code == 0
    assert Peers(tmp_path).all() == []


def test_releases_are_in_the_order_of_versions(tmp_path: Path) -> None:
    put(tmp_path, "numpy", "by_numpy")
    for name in ("2.10.0", "2.9.1", "1.13.1"):
        put(tmp_path, name)
    assert [peer.name for peer in Peers(tmp_path).all()] == ["1.13.1", "2.9.1", "2.10.0", "numpy"]


def test_a_peer_of_another_release_than_its_name_is_no_answer(tmp_path: Path) -> None:
    put(tmp_path, "1.6.0")
    checked = command("check", "--cache", str(tmp_path))
    assert checked.exit_code == 1
    assert f"the peer 1.6.0 has torch {version()}; make it anew under its own name" in checked.stdout


def test_a_folder_that_was_never_finished_is_no_peer(tmp_path: Path) -> None:
    (put(tmp_path, "1.6.0") / "peer.json").unlink()
    assert Peers(tmp_path).all() == []
    with pytest.raises(PeersError, match=r"there is no peer 1\.6\.0; .* Make it: matrix peers add 1\.6\.0"):
        Peers(tmp_path).get("1.6.0")
    assert command("remove", "1.6.0", "--cache", str(tmp_path)).exit_code == 0
    assert not (tmp_path / "1.6.0").exists()


def test_facts_that_are_damaged_are_named(tmp_path: Path) -> None:
    (put(tmp_path, "1.6.0") / "peer.json").write_text("{", encoding="utf-8")
    found = command("list", "--cache", str(tmp_path))
    assert found.exit_code == 2
    assert "the peer 1.6.0 has no readable peer.json" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "two"], "'two' is no release of torch; expected a version such as 2.6.0, or one of tinygrad, numpy"),
        (["add", "2.6.0", "--python", "3.0"], "no python3.0 on PATH or below"),
        (["add", "2.6.0", "--python", "/nowhere/python"], "/nowhere/python is no interpreter"),
        (["add", "../2.6.0"], "is no name of a peer"),
        (["remove", "2.6.0"], "there is no peer 2.6.0; there are: none. Make it: matrix peers add 2.6.0"),
        (["check", "2.6.0"], "there is no peer 2.6.0"),
    ],
)
def test_a_wrong_name_is_one_message_and_exit_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    found = command(*arguments, "--cache", str(tmp_path))
    assert (found.exit_code, said in found.stderr, found.stderr.count("\n")) == (2, True, 1), found.stderr
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_an_install_that_fails_leaves_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = ["add", "2.6.0", "--python", sys.executable, "--index-url", empty.as_uri()]
    found = command(*arguments, "--cache", str(tmp_path / "cache"))
    assert found.exit_code == 2
    assert "the peer 2.6.0 cannot be made: " in found.stderr.splitlines()[-1]
    assert not (tmp_path / "cache" / "2.6.0").exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PeersError, match="the cache of peers cannot be written"):
        Peers(tmp_path / "file" / "cache").add("2.6.0", python=sys.executable)


def test_a_peer_in_use_is_not_removed(tmp_path: Path) -> None:
    put(tmp_path, "1.6.0")
    # The lock of another process: those of one process may be shared.
    script = f"""
import sys
from pathlib import Path
from matrix.peers import Peers
with Peers(Path({str(tmp_path)!r})).using(["1.6.0"]):
    print("using", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"using\n"
        refused = command("remove", "1.6.0", "--cache", str(tmp_path))
        other.stdin.close()
    assert (refused.exit_code, "the peer 1.6.0 is in use" in refused.stderr) == (2, True)
    assert command("remove", "1.6.0", "--cache", str(tmp_path)).exit_code == 0


def test_a_release_that_is_not_listed_is_installed_as_the_one_before_it() -> None:
    assert release("2.6.1").python == release("2.6.0").python
    assert release("1.5.0").packages == ("torch==1.5.0", "numpy<1.20")
    assert release("0.4.1").python == torch_releases()[0].python
    with pytest.raises(ReleaseError):
        release("")


def test_every_release_that_is_listed_is_one(tmp_path: Path) -> None:
    names = [found.name for found in torch_releases()]
    assert names == [str(found.version) for found in sorted(torch_releases(), key=lambda one: one.version or 0)]
    assert set(others()) == {"numpy", "tinygrad"}
    with pytest.raises(ReleaseError, match="is no interpreter"):
        interpreter(str(tmp_path / "python"))
