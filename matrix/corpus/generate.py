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
from pathlib import Path
from typing import Final

from matrix.releases import PYTHON2, Release, ReleaseError, corpus_releases, interpreter

CORPUS: Final = Path(__file__).parent
_ROOT: Final = CORPUS.parents[1]


def environment_of(release: Release, scratch: Path) -> tuple[str, dict[str, str]]:
    """Install a release; the interpreter to run and the variables to run it with."""
    python = interpreter(release.python)
    variables = {**os.environ, **dict(release.environment), "PYTHONPATH": str(_ROOT)}
    options = ["install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
    if release.python == PYTHON2:
        # Python 2.7 has no venv.
        _run([python, "-m", "pip", *options, "--target", str(scratch / "packages"), *release.packages], variables)
        return python, {**variables, "PYTHONPATH": str(scratch / "packages")}
    _run([python, "-m", "venv", str(scratch / "venv")], variables)
    python = str(scratch / "venv" / "bin" / "python")
    _run([python, "-m", "pip", *options, *release.packages], variables)
    return python, variables


def _run(command: Sequence[str], variables: dict[str, str]) -> None:
    subprocess.run(command, cwd=_ROOT, env=variables, check=True)  # noqa: S603 - interpreters of the table above


def write(release: Release, target: Path) -> None:
    """Write one release's folder, which is complete or not there at all."""
    with tempfile.TemporaryDirectory(prefix="corpus-") as place:
        scratch = Path(place)
        python, variables = environment_of(release, scratch)
        made = scratch / release.folder
        script = [str(CORPUS / "python2.py")] if release.python == PYTHON2 else ["-m", "matrix.corpus.writer"]
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
    known = {release.folder: release for release in corpus_releases()}
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
        except (OSError, ReleaseError, subprocess.CalledProcessError) as error:
            print(f"{name} could not be written: {error}")  # noqa: T201 - a command
            failed = 2
    return failed


if __name__ == "__main__":
    sys.exit(main())
