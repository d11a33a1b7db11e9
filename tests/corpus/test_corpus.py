"""The corpus itself: every file is there, unchanged and listed, and every release that it must cover."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from matrix.corpus.index import INDEX, PROVENANCE, ROOT, Release, goldens, releases
from matrix.releases import corpus_releases
from tests.corpus.expected import TORCH_READS_BY_LUCK, WRITER_CANNOT_READ, WRITER_READS_BY_LUCK, matching

FOLDERS = sorted({release.folder for release in corpus_releases()})
GOLDENS = list(goldens())
# The releases at which behaviour changed.
REQUIRED = (
    *("1.0.1", "1.2.0", "1.4.0", "1.5.1", "1.6.0", "1.8.1", "1.10.2", "1.12.1", "1.13.1"),
    *("2.0.1", "2.1.2", "2.3.1", "2.4.1", "2.6.0", "2.7.1", "2.9.1", "2.10.0", "2.12.1", "2.13.0", "2.15.0"),
)
PROVEN = ("torch", "python", "numpy", "platform", "date", "command")


def test_every_release_that_is_asked_for_is_there() -> None:
    assert {f"torch-{version}" for version in REQUIRED} <= set(FOLDERS)
    assert [release.name for release in releases()] == FOLDERS


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_listed_and_unchanged(folder: str) -> None:
    release = Release(ROOT / folder)
    there = {path.relative_to(release.folder).as_posix() for path in release.folder.rglob("*") if path.is_file()}
    sums = {name: hashlib.sha256((release.folder / name).read_bytes()).hexdigest() for name in there - {PROVENANCE}}
    assert sums == release.sums
    described = {path.relative_to(release.folder).as_posix() for golden in release.goldens for path in golden.files}
    assert described | {INDEX} == set(sums)


@pytest.mark.parametrize("folder", FOLDERS)
def test_its_provenance_says_who_wrote_it(folder: str) -> None:
    facts = Release(ROOT / folder).facts
    assert set(PROVEN) <= set(facts)
    assert f"torch-{facts['torch'].partition('+')[0]}" == folder.removesuffix("-python2")
    assert facts["command"].endswith(f"matrix/corpus/{folder}")


@pytest.mark.parametrize("folder", FOLDERS)
def test_its_specs_are_all_used(folder: str) -> None:
    release = Release(ROOT / folder)
    assert {golden.spec for golden in release.goldens} == set(release.index["specs"])


def test_the_corpus_is_small() -> None:
    sizes = {path: path.stat().st_size for path in ROOT.glob("torch-*/**/*") if path.is_file()}
    assert max(sizes.values()) < 250_000
    assert sum(sizes.values()) < 12_000_000


def test_a_changed_file_is_seen(tmp_path: Path) -> None:
    golden = GOLDENS[0]
    copy = tmp_path / golden.release.name
    copy.mkdir()
    (copy / PROVENANCE).write_bytes((golden.release.folder / PROVENANCE).read_bytes())
    (copy / golden.name).write_bytes(golden.path.read_bytes()[:-1] + b"?")
    assert hashlib.sha256((copy / golden.name).read_bytes()).hexdigest() != Release(copy).sums[golden.name]


@pytest.mark.parametrize("folder", FOLDERS)
def test_writers_read_back_what_they_wrote(folder: str) -> None:
    """The truth was told by the release itself: it read the same from the file as it had in memory."""
    by_luck = (*TORCH_READS_BY_LUCK, *WRITER_READS_BY_LUCK)
    for golden in Release(ROOT / folder).goldens:
        if golden.writer_reads is None or matching(golden, by_luck):
            continue
        (expected,) = [WRITER_CANNOT_READ[pattern] for pattern in matching(golden, WRITER_CANNOT_READ)] or ["the same"]
        assert golden.writer_reads.startswith(expected), (golden.id, golden.writer_reads)


def test_what_writers_cannot_read_is_there() -> None:
    for pattern in (*WRITER_CANNOT_READ, *WRITER_READS_BY_LUCK):
        assert any(matching(golden, [pattern]) for golden in GOLDENS), pattern


def test_what_is_absent_has_a_reason() -> None:
    for release in releases():
        assert all(": " in reason for reason in release.absent.values()), release.name
        assert not set(release.absent) & {golden.name for golden in release.goldens}


def test_every_kind_is_written_by_some_release() -> None:
    kinds = {golden.holds for golden in GOLDENS}
    assert kinds == {
        "tree",
        "module",
        "script",
        "constants",
        "export",
        "initializers",
        "tensors",
        "arrays",
        "folder",
    }
    forms = {golden.format for golden in GOLDENS}
    assert forms >= {"torch-zip", "torch-legacy", "torchscript", "torch-export", "safetensors", "onnx", "dcp", "npz"}
    assert json.dumps(sorted(forms))
