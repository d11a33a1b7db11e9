"""Write the golden corpus anew: `python -m matrix.corpus.generate [RELEASE…]`.

For each release, one after the other: a fresh virtual environment of the interpreter it needs, that torch in it,
the writer, and the environment is deleted again. A folder that exists is only replaced with `--overwrite`: golden
files do not change by themselves.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parent
_ROOT: Final = CORPUS.parents[1]
_PYTHON2: Final = "2.7"


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """One folder of the corpus.

    Attributes:
        torch: the release; python: the interpreter that has a wheel of it.
        beside: what else is installed.
        environment: variables that ask the writer for more.
    """

    torch: str
    python: str
    beside: tuple[str, ...] = ("numpy",)
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> str:
        """The folder's name."""
        return f"torch-{self.torch}" + ("-python2" if self.python == _PYTHON2 else "")


_OLD_NUMPY: Final = ("numpy<1.20",)
_NUMPY_1: Final = ("numpy<2",)
# By this one release, the files of torch's neighbours and those of several processes.
_NEIGHBOURS: Final = ("numpy", "safetensors", "huggingface_hub", "gguf", "onnx", "onnxscript")

RELEASES: Final = (
    Release(torch="1.0.1", python=_PYTHON2, beside=("numpy<1.17", "future", "typing")),
    Release(torch="1.0.1", python="3.6", beside=_OLD_NUMPY),
    Release(torch="1.2.0", python="3.7", beside=_OLD_NUMPY),
    Release(torch="1.3.1", python="3.7", beside=_OLD_NUMPY),
    Release(torch="1.4.0", python=_PYTHON2, beside=("numpy<1.17", "future", "typing")),
    Release(torch="1.4.0", python="3.8", beside=_OLD_NUMPY),
    Release(torch="1.5.1", python="3.8", beside=_OLD_NUMPY),
    Release(torch="1.6.0", python="3.8", beside=_OLD_NUMPY),
    Release(torch="1.8.1", python="3.9", beside=_NUMPY_1),
    Release(torch="1.10.2", python="3.9", beside=_NUMPY_1),
    Release(torch="1.12.1", python="3.10", beside=_NUMPY_1),
    Release(torch="1.13.1", python="3.11", beside=_NUMPY_1),
    Release(torch="2.0.1", python="3.11", beside=_NUMPY_1),
    Release(torch="2.1.2", python="3.11", beside=_NUMPY_1),
    Release(torch="2.2.2", python="3.11", beside=_NUMPY_1),
    Release(torch="2.3.1", python="3.11"),
    Release(torch="2.4.1", python="3.11"),
    Release(torch="2.5.1", python="3.11"),
    Release(torch="2.6.0", python="3.11"),
    Release(torch="2.7.1", python="3.11"),
    Release(torch="2.8.0", python="3.11"),
    Release(torch="2.9.1", python="3.11"),
    Release(torch="2.10.0", python="3.11"),
    Release(torch="2.11.0", python="3.11"),
    Release(torch="2.12.1", python="3.11"),
    Release(torch="2.13.0", python="3.11", beside=_NEIGHBOURS, environment=(("CORPUS_RANKS", "1"),)),
    Release(torch="2.15.0", python="3.11"),
)


def interpreter(version: str) -> str:
    """The path of an interpreter: on PATH, or of pyenv.

    Raises:
        FileNotFoundError: there is none.
    """
    found = shutil.which(f"python{version}")
    if found is not None and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:  # noqa: S603 - an interpreter
        return found
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in sorted(root.glob(f"{version}.*/bin/python"), reverse=True):
        return str(candidate)
    raise FileNotFoundError(f"no python{version} on PATH or below {root}; install it, for instance with pyenv")


def environment_of(release: Release, scratch: Path) -> tuple[str, dict[str, str]]:
    """Install a release; the interpreter to run and the variables to run it with."""
    python = interpreter(release.python)
    variables = {**os.environ, **dict(release.environment), "PYTHONPATH": str(_ROOT)}
    packages = [f"torch=={release.torch}", *release.beside]
    options = ["install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
    if release.python == _PYTHON2:
        # Python 2.7 has no venv.
        _run([python, "-m", "pip", *options, "--target", str(scratch / "packages"), *packages], variables)
        return python, {**variables, "PYTHONPATH": str(scratch / "packages")}
    _run([python, "-m", "venv", str(scratch / "venv")], variables)
    python = str(scratch / "venv" / "bin" / "python")
    _run([python, "-m", "pip", *options, *packages], variables)
    return python, variables


def _run(command: Sequence[str], variables: dict[str, str]) -> None:
    subprocess.run(command, cwd=_ROOT, env=variables, check=True)  # noqa: S603 - interpreters of the table above


def write(release: Release, target: Path) -> None:
    """Write one release's folder, which is complete or not there at all."""
    with tempfile.TemporaryDirectory(prefix="corpus-") as place:
        scratch = Path(place)
        python, variables = environment_of(release, scratch)
        made = scratch / release.folder
        script = [str(CORPUS / "python2.py")] if release.python == _PYTHON2 else ["-m", "matrix.corpus.writer"]
        _run([python, *script, str(made)], variables)
        if target.exists():
            shutil.rmtree(target)
        shutil.move(made, target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the releases that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", help="names such as torch-1.4.0; all of them when none is named")
    parser.add_argument("--overwrite", action="store_true", help="replace folders that are there")
    chosen = parser.parse_args(arguments)
    known = {release.folder: release for release in RELEASES}
    unknown = sorted(set(chosen.folders) - set(known))
    if unknown:
        parser.error(f"no release {', '.join(unknown)}; expected some of {', '.join(known)}")
    failed = 0
    for name in chosen.folders or known:
        target = CORPUS / name
        if target.exists() and not chosen.overwrite:
            print(f"{name} is there; --overwrite replaces it")  # noqa: T201 - a command
            continue
        print(f"== {name}", flush=True)  # noqa: T201 - a command
        try:
            write(known[name], target)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} could not be written: {error}")  # noqa: T201 - a command
            failed = 2
    return failed


if __name__ == "__main__":
    sys.exit(main())
