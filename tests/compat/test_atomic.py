"""A file appears whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from compat.atomic import atomic_files, atomic_target
from compat.errors import TargetExists, Unreadable


def put(target: Path, content: bytes, *, overwrite: bool = False) -> None:
    with atomic_target(target, overwrite=overwrite) as file:
        file.write(content)


def test_it_appears_with_the_mode_of_any_new_file(tmp_path: Path) -> None:
    target, plain = tmp_path / "x", tmp_path / "plain"
    put(target, b"content")
    plain.touch()
    assert target.read_bytes() == b"content"
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")
    target.chmod(0o640)
    put(target, b"new", overwrite=True)
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"new", 0o640)


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    target = tmp_path / "x"
    with atomic_target(target, overwrite=False) as file:
        file.write(b"half")
        file.flush()
        assert not target.exists()


def test_who_comes_first_keeps_the_name(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target_is_free = atomic_target(target, overwrite=False)
    with pytest.raises(TargetExists), target_is_free:
        target.write_bytes(b"first")
    assert target.read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_error_leaves_no_trace(overwrite: bool, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_target(tmp_path / "x", overwrite=overwrite) as file:
        file.write(b"half" * (1 // 0))
    assert list(tmp_path.iterdir()) == []


def test_a_filesystem_without_hard_links_is_renamed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    put(tmp_path / "x", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    with pytest.raises(Unreadable, match="cannot be written: Permission denied"):
        put(tmp_path / "x", b"content")


def test_long_names_are_no_trouble(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 250)
    put(target, b"content")
    assert target.read_bytes() == b"content"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one_and_what_it_points_to_is_written(tmp_path: Path, *, there: bool) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "hop").symlink_to("x")
    (tmp_path / "link").symlink_to("far/hop")
    if there:
        (tmp_path / "far" / "x").write_bytes(b"old")
        with pytest.raises(TargetExists):
            put(tmp_path / "link", b"new")
    put(tmp_path / "link", b"new", overwrite=there)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "hop").is_symlink()
    assert (tmp_path / "far" / "x").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["far", "hop", "link", "x"]


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(Unreadable, match="leads in a circle"):
        put(tmp_path / "a", b"new")
    (tmp_path / "c").symlink_to("nothing/x")
    with pytest.raises(Unreadable, match=r"a symbolic link into .*nothing', which is not there"):
        put(tmp_path / "c", b"new")


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far")
    with atomic_files(tmp_path / "link", overwrite=False, folder=True) as staging:
        (staging / "x").write_bytes(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "x").read_bytes() == b"new"
