"""What is installed to run a release of torch, or another implementation: `data/releases.toml`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from packaging.version import InvalidVersion, Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The module of `matrix.serving` by which torch answers.
TORCH: Final = "by_torch"
PYTHON2: Final = "2.7"
_SECONDS: Final = 20


class ReleaseError(ValueError):
    """A name that stands for no release and no implementation, or an interpreter that is not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """One release of torch, or another implementation.

    Attributes:
        name: what it is called: `2.6.0`, `tinygrad`.
        python: the interpreter it needs; packages: what is installed in it.
        module: the module of `matrix.serving` by which it answers.
        environment: variables that ask the writer of its golden files for more.
        folder: where its golden files are; empty for what has none.
    """

    name: str
    python: str
    packages: tuple[str, ...]
    module: str = TORCH
    environment: tuple[tuple[str, str], ...] = ()
    folder: str = ""

    @property
    def version(self) -> Version | None:
        """Its version, for releases of torch."""
        return Version(self.name) if self.module == TORCH else None


@cache
def _table() -> Mapping[str, Any]:
    text = resources.files("matrix").joinpath("data/releases.toml").read_text(encoding="utf-8")
    return MappingProxyType(tomllib.loads(text))


def torch_releases() -> tuple[Release, ...]:
    """The measured releases of torch, oldest first, as their golden files are written."""
    return tuple(_torch(row, row["release"]) for row in _table()["torch"])


def corpus_releases() -> tuple[Release, ...]:
    """Every folder of golden files: the releases, and those of them that ran under Python 2.7 too."""
    found = []
    for row in _table()["torch"]:
        if "python2" in row:
            packages = (f"torch=={row['release']}", *row["python2"])
            folder = f"torch-{row['release']}-python2"
            found.append(Release(name=row["release"], python=PYTHON2, packages=packages, folder=folder))
        found.append(_torch(row, row["release"], beside=row.get("neighbours")))
    return tuple(found)


def _torch(row: Mapping[str, Any], name: str, beside: list[str] | None = None) -> Release:
    return Release(
        name=name,
        python=row["python"],
        packages=(f"torch=={name}", *(row.get("beside", ["numpy"]) if beside is None else beside)),
        environment=tuple(row.get("environment", {}).items()),
        folder=f"torch-{name}",
    )


def others() -> Mapping[str, str]:
    """The implementations beside torch, with what each is."""
    return MappingProxyType({name: row["summary"] for name, row in _table()["other"].items()})


def ignores(name: str) -> frozenset[str]:
    """The facets of a comparison that an implementation's own data model has no place for."""
    return frozenset(_table()["other"].get(name, {}).get("ignores", ()))


def release(name: str) -> Release:
    """The release of torch with this version, listed or not, or the other implementation of this name.

    Raises:
        ReleaseError: the name is neither.
    """
    if name in _table()["other"]:
        row = _table()["other"][name]
        return Release(name=name, python=row["python"], packages=tuple(row["packages"]), module=row["module"])
    try:
        wanted = Version(name)
    except InvalidVersion as error:
        expected = f"a version such as 2.6.0, or one of {', '.join(_table()['other'])}"
        raise ReleaseError(f"{name!r} is no release of torch; expected {expected}") from error
    rows = [row for row in _table()["torch"] if Version(row["release"]) <= wanted]
    return _torch(rows[-1] if rows else _table()["torch"][0], name)


def interpreter(version: str) -> str:
    """The path of an interpreter: on PATH, or of pyenv.

    Raises:
        ReleaseError: there is none.
    """
    if os.sep in version:
        if not os.access(version, os.X_OK):
            raise ReleaseError(f"{version} is no interpreter; expected the path of one, or a version such as 3.11")
        return version
    found = shutil.which(f"python{version}")
    if found is not None and _runs(found):
        return found
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in sorted(root.glob(f"{version}.*/bin/python"), reverse=True):
        return str(candidate)
    raise ReleaseError(f"no python{version} on PATH or below {root}; install it, for instance with pyenv")


def _runs(path: str) -> bool:
    # A shim of pyenv is on PATH even where its version is not selected.
    command = [path, "--version"]
    return subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS).returncode == 0  # noqa: S603 - an interpreter
