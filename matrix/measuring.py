"""The measurement: every release of torch reads what every release wrote, with two environments at a time.

Files travel, so writing and reading are separate passes. A first pass over the releases writes the drawn states; a
second, in the other order, reads them and the golden files of the corpus. The peer of the next step is made while
one is asked; a peer that was made for the measurement is removed after its step. What is in the folder is not
measured again, so a measurement that was ended goes on where it was.

The folder holds `drawn.json`, the states; `files/NAME/`, what a release made of them, with `index.json` written last;
and `NAME.jsonl`, the report of a reader.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matrix.cells import Cell
from matrix.outcomes import Outcome
from matrix.peers import Made, Peers
from matrix.releases import TORCH
from matrix.report import Report, ReportError
from matrix.spec import CheckpointSpec
from matrix.talking import Peer
from matrix.versionknown import VersionKnowns
from matrix.versionrun import VersionRun, VersionSettings, contents
from matrix.versions import (
    COMPAT,
    DRAWN,
    File,
    Reader,
    draw_files,
    drawn,
    drawn_file,
    golden_files,
    make_cell,
    this_release,
)

_INDEX: Final = "index.json"
_SECONDS: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """One thing to do with one peer: `write` or `read`."""

    do: str
    name: str


class Measurement:
    """One measurement, in a folder of its own.

    Args:
        folder: where it is kept; made when it is not there.
        releases: what is measured, beside compat: the names of peers.
        cache: where peers are; None for the usual place.
        drawn: what is drawn for every writer.
        writers: whose golden files are read; None for all.
        say: told of each step.
    """

    def __init__(
        self,
        folder: Path,
        releases: Sequence[str],
        *,
        cache: Path | None = None,
        drawn: Sequence[str] | None = None,
        writers: Sequence[str] | None = None,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.folder = folder
        self.names = (COMPAT, *releases)
        self.drawn = contents() if drawn is None else drawn
        self.writers = writers
        self.peers = Peers(cache, say)
        self.say = say

    def run(self) -> None:
        """Do every step that is not done.

        Raises:
            PeersError: a peer cannot be made or does not answer; what was measured before stays.
        """
        (self.folder / "files").mkdir(parents=True, exist_ok=True)
        specs = self._specs()
        steps = self._steps()
        kept = {made.name for made in self.peers.all()}
        with ThreadPoolExecutor(1) as pool:
            ahead = self._ahead(pool, steps[:1])
            for number, step in enumerate(steps):
                made = ahead.result()
                ahead = self._ahead(pool, steps[number + 1 : number + 2])
                with self._met(step.name, made) as reader:
                    self.say(f"{step.name}: {step.do}")
                    (self._write if step.do == "write" else self._read)(reader, specs)
                following = steps[number + 1].name if number + 1 < len(steps) else ""
                if made is not None and made.name not in kept | {following}:
                    self.peers.remove(made.name)

    def _steps(self) -> list[_Step]:
        written = [name for name in self.names if not self._is_torch(name) or self._index(name).is_file()]
        read = [name for name in self.names if self._is_read(name)]
        first = [_Step(do="write", name=name) for name in self.names if name not in written]
        return first + [_Step(do="read", name=name) for name in reversed(self.names) if name not in read]

    @staticmethod
    def _is_torch(name: str) -> bool:
        return name == COMPAT or name[0].isdigit()

    def _index(self, name: str) -> Path:
        return self.folder / "files" / name / _INDEX

    def _is_read(self, name: str) -> bool:
        try:
            Report.read(self.folder / f"{name}.jsonl")
        except ReportError:
            return False
        return True

    def _ahead(self, pool: ThreadPoolExecutor, steps: Sequence[_Step]) -> Future[Made | None]:
        return pool.submit(lambda: self._made(steps[0].name) if steps else None)

    def _made(self, name: str) -> Made | None:
        """The peer of a name; None for compat and for this torch, which are here."""
        return None if name in (COMPAT, this_release()[0]) else self.peers.add(name)

    @contextlib.contextmanager
    def _met(self, name: str, made: Made | None) -> Iterator[Reader]:
        if name == COMPAT:
            yield Reader(name=COMPAT, hello={})
            return
        python = this_release()[1]
        with contextlib.ExitStack() as stack:
            if made is not None:
                stack.enter_context(self.peers.using((name,)))
            peer = Peer(name, python=python, seconds=_SECONDS) if made is None else made.talk(_SECONDS)
            yield Reader.meet(name, stack.enter_context(peer), TORCH if made is None else made.module)

    def _specs(self) -> dict[str, CheckpointSpec]:
        """What is drawn: once for the whole measurement, whatever is drawn by then."""
        path = self.folder / "drawn.json"
        if not path.is_file():
            path.write_text(json.dumps({name: spec.to_json() for name, spec in drawn(self.drawn).items()}), "utf-8")
        return {name: CheckpointSpec.from_json(spec) for name, spec in json.loads(path.read_text("utf-8")).items()}

    def _write(self, reader: Reader, specs: dict[str, CheckpointSpec]) -> None:
        folder = self._index(reader.name).parent
        folder.mkdir(exist_ok=True)
        files: list[dict[str, str]] = []
        failed: list[dict[str, Any]] = []
        for found in draw_files({reader.name: reader.peer}, specs, folder):
            if isinstance(found, File):
                content = found.what.removeprefix(DRAWN)
                files.append({"name": found.path.name, "format": found.format, "content": content})
            else:
                cell, outcome = found
                failed.append({"axes": dict(cell.values), "outcome": outcome.to_json()})
        unfinished = folder / f"{_INDEX}.new"
        unfinished.write_text(json.dumps({"files": files, "failed": failed}), encoding="utf-8")
        unfinished.replace(folder / _INDEX)

    def _read(self, reader: Reader, specs: dict[str, CheckpointSpec]) -> None:
        files = list(golden_files(self.writers))
        failures: list[tuple[Cell, Outcome]] = []
        for path in sorted((self.folder / "files").glob(f"*/{_INDEX}")):
            index = json.loads(path.read_text(encoding="utf-8"))
            files += [_file(path.parent, row, specs) for row in index["files"]]
            if path.parent.name == reader.name:
                failures = [_failure(row) for row in index["failed"]]
        # Nothing is expected of a measurement, so that what is known can be made of it.
        run = VersionRun(VersionSettings(), known=VersionKnowns((), ()))
        run.report(self.folder / f"{reader.name}.jsonl", [reader], files, failures)


def _file(folder: Path, row: dict[str, str], specs: dict[str, CheckpointSpec]) -> File:
    content = row["content"]
    return drawn_file(folder.name, row["format"], content, folder / row["name"], specs[content])


def _failure(row: dict[str, Any]) -> tuple[Cell, Outcome]:
    outcome = {**row["outcome"], "facets": tuple(row["outcome"].get("facets", ()))}
    return make_cell(**row["axes"]), Outcome(**outcome)
