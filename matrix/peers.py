"""Peers: interpreters with other releases of torch, or other implementations, below the user's cache.

A peer is a folder with a virtual environment and, written last, `peer.json`: a folder without it was never finished
and is no peer. A lock beside it is held exclusively while it is made or removed, and shared while it is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from matrix.releases import TORCH, Release, ReleaseError, interpreter, release
from matrix.talking import Peer, PeerFailed, PeerLost

_FACTS: Final = "peer.json"
_FIRST_SECONDS: Final = 180.0
_SAID: Final = 3


class PeersError(RuntimeError):
    """A peer that cannot be made, found or used; the message names the step and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A peer that is there.

    Attributes:
        name: what it is called; folder: where it is; python: its interpreter.
        module: the module of `matrix.serving` by which it answers.
        versions: what answered when it was made: implementation → version.
    """

    name: str
    folder: Path
    python: Path
    module: str
    versions: dict[str, str]

    def talk(self, seconds: float = 60.0) -> Peer:
        """A conversation with it; its process starts with the first question."""
        return Peer(self.name, python=self.python, implementation=self.module, seconds=seconds)


def default_cache() -> Path:
    """Where peers are: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "compat-matrix" / "peers"


class Peers:
    """The peers in one folder.

    Args:
        folder: where they are; made when the first one is added.
        say: told of each step that takes long.
    """

    def __init__(self, folder: Path | None = None, say: Callable[[str], None] = lambda _text: None) -> None:
        self.folder = default_cache() if folder is None else folder
        self.say = say

    def all(self) -> list[Made]:
        """Every peer that is there, releases of torch first and by version."""
        if not self.folder.is_dir():
            return []
        made = [self._read(path.parent) for path in self.folder.glob(f"*/{_FACTS}")]
        return sorted(made, key=lambda peer: (peer.module != TORCH, _order(peer.name)))

    def get(self, name: str) -> Made:
        """The peer of this name.

        Raises:
            PeersError: there is none; the message says how to make it.
        """
        folder = self._place(name)
        if not (folder / _FACTS).is_file():
            there = ", ".join(peer.name for peer in self.all()) or "none"
            raise PeersError(f"there is no peer {name}; there are: {there}. Make it: matrix peers add {name}")
        return self._read(folder)

    def _read(self, folder: Path) -> Made:
        try:
            facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            return Made(
                name=folder.name,
                folder=folder,
                python=_python_of(folder),
                module=str(facts["module"]),
                versions={str(name): str(text) for name, text in facts["versions"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PeersError(
                f"the peer {folder.name} has no readable {_FACTS}: {error}. "
                f"Make it anew: matrix peers remove {folder.name} && matrix peers add {folder.name}"
            ) from error

    def _place(self, name: str) -> Path:
        if not name or name.startswith((".", "-")) or {"/", "\\", os.sep} & set(name):
            raise PeersError(f"{name!r} is no name of a peer; expected a version such as 2.6.0, or tinygrad")
        return self.folder / name

    def add(self, name: str, *, python: str | None = None, index_url: str | None = None) -> Made:
        """Make a peer, unless it is there: a virtual environment, the packages, and a first conversation.

        Args:
            name: a version of torch, or another implementation.
            python: the interpreter, by version or path, where it is not to be the usual one.
            index_url: where packages come from, where not from where the user's pip is configured to.

        Raises:
            PeersError: a step failed; nothing is left of it.
        """
        folder = self._place(name)
        try:
            wanted = release(name)
            found = interpreter(python or wanted.python)
        except (ReleaseError, OSError, subprocess.TimeoutExpired) as error:
            raise PeersError(f"the peer {name} cannot be made: {error}") from error
        with self._lock(name, exclusive=True):
            if (folder / _FACTS).is_file():
                return self._read(folder)
            shutil.rmtree(folder, ignore_errors=True)  # what a run that was ended left half-made
            try:
                return self._make(folder, wanted, found, index_url)
            except BaseException as error:
                shutil.rmtree(folder, ignore_errors=True)
                if isinstance(error, OSError):
                    raise PeersError(f"the peer {name} cannot be made in {folder}: {error}") from error
                raise

    def _make(self, folder: Path, wanted: Release, python: str, index_url: str | None) -> Made:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.say(f"{wanted.name}: a virtual environment of {python}")
        venv = folder / "venv"
        with_uv = _prefers_uv()
        if with_uv:
            _run(["uv", "venv", "--quiet", "--python", python, str(venv)], "uv venv", wanted.name)
        else:
            _run([python, "-m", "venv", str(venv)], f"{python} -m venv", wanted.name)
        own = _python_of(folder)
        self.say(f"{wanted.name}: installing {', '.join(wanted.packages)}")
        options = ["--index-url", index_url] if index_url else []
        if with_uv:
            install = ["uv", "pip", "install", "--quiet", "--python", str(own)]
        else:
            install = [str(own), "-m", "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
        _run([*install, *options, *wanted.packages], "pip install", wanted.name)
        self.say(f"{wanted.name}: a first question")
        made = Made(name=folder.name, folder=folder, python=own, module=wanted.module, versions={})
        versions = self.check(made)["versions"]
        facts = {"module": wanted.module, "packages": list(wanted.packages), "versions": versions}
        unfinished = folder / f"{_FACTS}.new"
        unfinished.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(folder / _FACTS)
        return self._read(folder)

    def check(self, made: Made) -> dict[str, Any]:
        """Ask a peer who it is.

        Raises:
            PeersError: it does not answer, or is another release than its name says.
        """
        try:
            with made.talk(_FIRST_SECONDS) as peer:
                hello = peer.ask("hello")
        except PeerFailed as error:
            raise PeersError(f"the peer {made.name} cannot import its library: {error}") from error
        except PeerLost as error:
            last = "; ".join(error.stderr.strip().splitlines()[-_SAID:])
            raise PeersError(f"{made.name}: {error}{f' ({last})' if last else ''}") from error
        seen = str(hello.get("versions", {}).get("torch", "")).partition("+")[0]
        if made.module == TORCH and seen != made.name:
            raise PeersError(f"the peer {made.name} has torch {seen}; make it anew under its own name")
        return hello

    def remove(self, name: str) -> None:
        """Remove a peer, or what is left of one.

        Raises:
            PeersError: there is none, it is in use, or it cannot be removed.
        """
        folder = self._place(name)
        if not folder.is_dir():
            self.get(name)
        with self._lock(name, exclusive=True, wait=False):
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise PeersError(f"the peer {name} cannot be removed: {error}") from error

    @contextlib.contextmanager
    def using(self, names: Sequence[str]) -> Iterator[list[Made]]:
        """Hold peers for a run: they cannot be removed meanwhile.

        Raises:
            PeersError: one of them is not there.
        """
        with contextlib.ExitStack() as stack:
            for name in names:
                self.get(name)  # so that no lock is made for what is not there
                stack.enter_context(self._lock(name, exclusive=False))
            yield [self.get(name) for name in names]

    @contextlib.contextmanager
    def _lock(self, name: str, *, exclusive: bool, wait: bool = True) -> Iterator[None]:
        try:
            import fcntl
        except ImportError as error:
            raise PeersError("peers need file locks and pipes of POSIX; expected Linux or macOS") from error
        path = self.folder / f"{name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file: IO[bytes] = path.open("ab")
        except OSError as error:
            raise PeersError(f"the cache of peers cannot be written: {error}; choose another by --cache") from error
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        with file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except OSError as error:
                if not wait:
                    raise PeersError(f"the peer {name} is in use; try again when that run has ended") from error
                self.say(f"{name}: waiting for another run")
                fcntl.flock(file, kind)
            yield


def _order(name: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in name.replace("-", ".").split("."))


def _python_of(folder: Path) -> Path:
    return folder / "venv" / "bin" / "python"


def _prefers_uv() -> bool:
    """Whether uv installs: it is there, and the user's pip, whose settings uv does not read, has none."""
    if shutil.which("uv") is None:
        return False
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this interpreter
    return not listed.stdout.strip()


def _run(command: Sequence[str], step: str, name: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603 - an interpreter or uv
    except OSError as error:
        raise PeersError(f"the peer {name} cannot be made: {step} cannot be run: {error}") from error
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines
        said = "; ".join(errors[-_SAID:]) or f"exit code {done.returncode}"
        raise PeersError(f"the peer {name} cannot be made: {step} failed: {said}")
