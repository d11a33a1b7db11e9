"""Cells judged one by one, as pytest asks for them; what neighbours share is made once all the same."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matrix.cells import Cell
from matrix.checks import Bench
from matrix.examples import Example
from matrix.limits import scratch
from matrix.report import CellLine
from matrix.runner import PROFILES, Run, Tally, content_of

# So many examples of one content stay on the bench with their files; of more, each is drawn again.
_KEPT: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What came of one cell.

    Attributes:
        line: the report's line on it.
        mismatches: the known mismatches that were expected there, and whether each was seen.
    """

    line: CellLine
    mismatches: dict[str, bool]


class Workbench:
    """Judges the cells of a run, in any order; those of one content are cheapest one after another.

    Args:
        run: the run; share: seconds that a cell may go on drawing examples, after its first.
    """

    def __init__(self, run: Run, share: float) -> None:
        self.run = run
        self.share = share
        self._count = PROFILES[run.settings.profile].examples
        self._content: str | None = None
        self._benches: list[tuple[Bench, tempfile.TemporaryDirectory[str]]] = []

    def judge(self, cell: Cell) -> Judged:
        """Try examples in a cell: one at least, as many as the profile says at most, while there is time."""
        content = content_of(cell)
        if content != self._content:
            self.close()
            self._content = content
        tally = Tally(cell=cell, expect=self.run.expect)
        started = time.perf_counter()
        with warnings.catch_warnings():
            # What torch and others warn of while they read and write is no verdict.
            warnings.simplefilter("ignore")
            for bench in self._each(content):
                if tally.judged and time.perf_counter() - started > self.share:
                    break
                began = time.perf_counter()
                outcome = self.run.attempt(cell, bench)
                tally.add(outcome, bench.example, time.perf_counter() - began)
            line = self.run.line(tally, tally.verdict())
        return Judged(line=line, mismatches={} if self.run.settings.given else tally.mismatches())

    def close(self) -> None:
        """Remove the files of what was tried."""
        for bench, folder in self._benches:
            bench.close()
            folder.cleanup()
        self._benches = []

    def _each(self, content: str) -> Iterator[Bench]:
        yield from [bench for bench, _ in self._benches]
        ready = len(self._benches)
        if ready == self._count:
            return
        for number, example in enumerate(self.run.examples(content, self._count)):
            if number < ready:
                continue
            bench, folder = self._bench(example)
            if len(self._benches) < _KEPT:
                self._benches.append((bench, folder))
                yield bench
                continue
            with folder:
                yield bench
                bench.close()

    def _bench(self, example: Example) -> tuple[Bench, tempfile.TemporaryDirectory[str]]:
        folder = tempfile.TemporaryDirectory(prefix="matrix-", dir=scratch())
        return self.run.bench(example, Path(folder.name)), folder
