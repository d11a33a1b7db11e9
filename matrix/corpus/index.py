"""The golden files that are there, and what each of them must read back as."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from matrix.spec import CheckpointSpec

ROOT: Final = Path(__file__).parent
INDEX: Final = "index.json"
PROVENANCE: Final = "PROVENANCE"
_VERSION: Final = 1


class CorpusError(ValueError):
    """The corpus contradicts itself: a file is missing, changed, or not listed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """One golden file, or one golden folder.

    Attributes:
        release: the folder of the release that wrote it, such as `torch-1.4.0`.
        name: its name in that folder.
        format: the format it must be recognised as.
        holds: what is compared: the whole `tree`, the state of a `module` or a `script`, … (see `judging`).
        spec: the name of the spec it must read back as.
        key: where in the file it is, for a module inside a dict.
        writer_reads: what the release that wrote it read from it: `the same`, or what went wrong.
    """

    release: Release
    name: str
    format: str
    holds: str
    spec: str
    key: str | None = None
    writer_reads: str | None = None

    @property
    def id(self) -> str:
        """Its name in the corpus."""
        return f"{self.release.name}/{self.name}"

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.release.folder / self.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, or those of the folder."""
        if self.path.is_dir():
            return tuple(sorted(path for path in self.path.rglob("*") if path.is_file()))
        return (self.path,)

    @property
    def truth(self) -> CheckpointSpec:
        """What it must read back as."""
        return CheckpointSpec.from_json(self.release.index["specs"][self.spec])


@dataclass(frozen=True)
class Release:
    """The folder of one release."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @cached_property
    def index(self) -> dict[str, Any]:
        """The index: `files`, `absent`, `specs`.

        Raises:
            CorpusError: there is none, or one of another version.
        """
        try:
            index: dict[str, Any] = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CorpusError(f"{self.name} has no {INDEX} that can be read: {error}") from error
        if index.get("version") != _VERSION:
            raise CorpusError(f"{self.name}/{INDEX} has version {index.get('version')!r}, expected {_VERSION}")
        return index

    @property
    def goldens(self) -> tuple[Golden, ...]:
        """Its files, in the order in which they were written."""
        return tuple(Golden(release=self, name=name, **facts) for name, facts in self.index["files"].items())

    @property
    def absent(self) -> dict[str, str]:
        """What this release could not write, and why."""
        return dict(self.index["absent"])

    @property
    def facts(self) -> dict[str, str]:
        """Who wrote the folder: versions, platform, date, command."""
        head, _, _ = self._provenance()
        return dict(line.split(": ", 1) for line in head.splitlines())

    @property
    def sums(self) -> dict[str, str]:
        """The SHA-256 of every file, by its name in the folder."""
        _, _, tail = self._provenance()
        return {name: total for total, name in (line.split("  ", 1) for line in tail.splitlines())}

    def _provenance(self) -> tuple[str, str, str]:
        try:
            return (self.folder / PROVENANCE).read_text(encoding="utf-8").partition("\n\nsha256:\n")
        except OSError as error:
            raise CorpusError(f"{self.name} has no {PROVENANCE}: {error}") from error


def releases() -> tuple[Release, ...]:
    """Every release's folder, by name."""
    return tuple(Release(path) for path in sorted(ROOT.glob("torch-*")) if path.is_dir())


def goldens() -> Iterator[Golden]:
    """Every golden file."""
    for release in releases():
        yield from release.goldens
