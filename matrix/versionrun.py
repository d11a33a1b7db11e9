"""Run the check `version`: peers write and read, everyone reads the golden files, and the report says what came."""

from __future__ import annotations

import contextlib
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from matrix import examples
from matrix.cells import Cell, UnknownCellError
from matrix.limits import scratch
from matrix.outcomes import Outcome, judge
from matrix.peers import Made, Peers, PeersError
from matrix.releases import TORCH
from matrix.report import CellLine, ReportWriter
from matrix.runner import versions
from matrix.talking import Peer, PeerFailed, PeerLost
from matrix.versionknown import VersionKnowns, load
from matrix.versions import COMPAT, File, Reader, draw_files, drawn, golden_files, make_cell, this_release

# Drawn for every writer that is here. Modules are left to the golden files, but for those that tie and that count.
_LARGE: Final = ("big-tensor", "many")
_MODULES: Final = ("module-batchnorm", "module-tied")


def contents() -> tuple[str, ...]:
    """What is drawn for each writer."""
    states = (name for name in examples.contents() if not name.startswith(examples.MODULE_PREFIX))
    return (*(name for name in states if name not in _LARGE), *_MODULES)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSettings:
    """What a run does.

    Attributes:
        peers: the names of peers; all that are there where it is empty.
        cache: where peers are; None for the usual place.
        all_writers: whether the golden files of every release are read, not only of those that are named.
        patterns: which cells; all of them where there is none.
        seed: what states are drawn with; out: where the report goes.
        seconds: how long an answer may take.
    """

    peers: tuple[str, ...] = ()
    cache: Path | None = None
    all_writers: bool = False
    patterns: tuple[str, ...] = ()
    seed: int = 0
    out: Path = Path("matrix-report")
    seconds: float = 60.0


class VersionRun:
    """One run of the check `version`.

    Args:
        settings: what it does.
        progress: told how many files are done, and of how many.
        known: what is expected; None for the known differences.
    """

    def __init__(
        self,
        settings: VersionSettings,
        progress: Callable[[int, int], None] | None = None,
        known: VersionKnowns | None = None,
    ) -> None:
        self.settings = settings
        self.progress = progress or (lambda _done, _total: None)
        self.known = load() if known is None else known
        self.verdicts: Counter[str] = Counter()
        self.matched: set[str] = set()
        self.not_run = 0

    def execute(self) -> Counter[str]:
        """Ask every reader for every file, in each of its modes.

        Returns:
            How many cells got each verdict.

        Raises:
            PeersError: a peer is not there, or does not say who it is.
            UnknownCellError: a pattern matches no cell.
        """
        peers = Peers(self.settings.cache)
        names = self.settings.peers or tuple(made.name for made in peers.all())
        with contextlib.ExitStack() as stack:
            made = stack.enter_context(peers.using(tuple(dict.fromkeys(names))))
            readers = [self._meet(stack, peers, found) for found in made]
            readers = [self._compat(), *self._this(stack, names), *readers]
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="matrix-", dir=scratch())))
            self.settings.out.mkdir(parents=True, exist_ok=True)
            files, failures = self._files(readers, folder)
            return self.report(self.settings.out / "report.jsonl", readers, files, failures)

    def report(
        self, path: Path, readers: list[Reader], files: list[File], failures: list[tuple[Cell, Outcome]]
    ) -> Counter[str]:
        """Ask readers for files, and write what came of it.

        Args:
            path: the report.
            readers: who is asked, in each mode.
            files: for what.
            failures: what came of those that could not be written.
        """
        started = time.perf_counter()
        with ReportWriter(path, self._header(readers)) as writer:
            for done, total, line in self._lines(readers, files, failures):
                self.verdicts[line.verdict] += 1
                writer.cell(line)
                self.progress(done, total)
            self._refuse_unmatched()
            seconds = time.perf_counter() - started
            writer.finish(verdicts=dict(self.verdicts), pruned={}, not_run=self.not_run, seconds=seconds)
        return self.verdicts

    def _meet(self, stack: contextlib.ExitStack, peers: Peers, made: Made) -> Reader:
        peers.check(made)
        peer = stack.enter_context(made.talk(self.settings.seconds))
        return Reader.meet(made.name, peer, made.module)

    def _this(self, stack: contextlib.ExitStack, names: tuple[str, ...]) -> list[Reader]:
        """This torch, as a peer of its own, unless one of its version is named."""
        name, python = this_release()
        if name in names:
            return []
        peer = stack.enter_context(Peer(name, python=python, seconds=self.settings.seconds))
        try:
            return [Reader.meet(name, peer, TORCH)]
        except (PeerFailed, PeerLost) as error:
            raise PeersError(f"this torch does not answer as a peer: {error}") from error

    @staticmethod
    def _compat() -> Reader:
        return Reader(name=COMPAT, hello={})

    def _header(self, readers: list[Reader]) -> dict[str, object]:
        heard = {reader.name: dict(reader.hello.get("versions", {})) for reader in readers if reader.peer is not None}
        return {
            "profile": "version",
            "seed": self.settings.seed,
            "patterns": list(self.settings.patterns),
            "given": None,
            "versions": versions(),
            "peers": heard,
            "platform": platform.platform(),
        }

    def _lines(
        self, readers: list[Reader], files: list[File], failures: list[tuple[Cell, Outcome]]
    ) -> Iterator[tuple[int, int, CellLine]]:
        total = len(files) + len(failures)
        for done, (cell, outcome) in enumerate(failures, 1):
            if self._selected(cell):
                yield done, total, self._line(cell, outcome, 0.0)
        for done, file in enumerate(files, len(failures) + 1):
            for reader in readers:
                for mode in reader.modes(file):
                    cell = make_cell(
                        format=file.format, writer=file.writer, reader=reader.name, mode=mode, what=file.what
                    )
                    if not self._selected(cell):
                        continue
                    started = time.perf_counter()
                    outcome = reader.read(file, mode)
                    yield done, total, self._line(cell, outcome, time.perf_counter() - started)

    def _files(self, readers: list[Reader], folder: Path) -> tuple[list[File], list[tuple[Cell, Outcome]]]:
        """Every file that is read, and what came of those that could not be written."""
        writers = {reader.name: reader.peer for reader in readers if reader.module in ("", TORCH)}
        files = list(golden_files(None if self.settings.all_writers else tuple(writers)))
        failures: list[tuple[Cell, Outcome]] = []
        for found in draw_files(writers, drawn(contents(), self.settings.seed), folder):
            if isinstance(found, File):
                files.append(found)
            else:
                failures.append(found)
        return files, failures

    def _selected(self, cell: Cell) -> bool:
        found = {pattern for pattern in self.settings.patterns if fnmatchcase(cell.id, pattern)}
        self.matched |= found
        if self.settings.patterns and not found:
            self.not_run += 1
            return False
        return True

    def _refuse_unmatched(self) -> None:
        lacking = next((pattern for pattern in self.settings.patterns if pattern not in self.matched), None)
        if lacking is not None:
            raise UnknownCellError(
                f"no cell of the check version matches {lacking!r}; an id is "
                "version:FORMAT:WRITER>READER:MODE:WHAT, such as version:torch-zip:1.6.0>2.6.0:full:state"
            )

    def _line(self, cell: Cell, outcome: Outcome, seconds: float) -> CellLine:
        axes = dict(cell.values)
        expected = self.known.expected(axes, outcome)
        verdict = judge(outcome, expected)
        return CellLine(
            id=cell.id,
            axes=axes,
            outcome=verdict.outcome,
            expectation=verdict.expectation,
            verdict=verdict.name,
            examples=1,
            seconds=round(seconds, 6),
        )
