"""The report of a pytest session: every cell's line as it comes, from whatever process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from matrix.report import CellLine, CutReport, Report, ReportWriter, render_html
from matrix.runner import Run


class Record:
    """What a session found out, written down while it goes on.

    Args:
        run: the run; folder: where report.jsonl and report.html go; None keeps the lines only as long as the
            session lasts, to see what was healed.

    Attributes:
        healed: the known differences that were seen in none of their cells; files: what was written.
    """

    def __init__(self, run: Run, folder: Path | None) -> None:
        self.run = run
        self.folder = folder
        self.healed: tuple[str, ...] = ()
        self.files: tuple[Path, ...] = ()
        self._started = time.perf_counter()
        self._verdicts: Counter[str] = Counter()
        self._waiting: list[tuple[CellLine, dict[str, bool]]] = []
        self._seen: set[str] = set()
        self._writer: ReportWriter | None = None

    def add(self, facts: Mapping[str, Any]) -> None:
        """Write down a cell; only all cells of a known mismatch together say whether it is still there."""
        line = CellLine.from_json(facts)
        # Plugins that run a failed test again report it again; its first verdict stands.
        if line.id in self._seen:
            return
        self._seen.add(line.id)
        mismatches = facts["mismatches"]
        if mismatches:
            self._waiting.append((line, mismatches))
        else:
            self._write(line)

    def _write(self, line: CellLine) -> None:
        self._verdicts[line.verdict] += 1
        if self.folder is None:
            return
        if self._writer is None:
            self._writer = self._open(self.folder)
        self._writer.cell(line)

    def _open(self, folder: Path) -> ReportWriter:
        folder.mkdir(parents=True, exist_ok=True)
        return ReportWriter(folder / "report.jsonl", self.run.header()).__enter__()

    def finish(self, *, cut: bool) -> None:
        """Write what waited, the footer unless the session was cut, and the page."""
        gone = self._gone()
        for line, mismatches in self._waiting:
            source = next((source for source in mismatches if source in gone), None)
            if line.verdict == "as-expected" and source is not None and not cut:
                wanted = next(e.expectation for e in self.run.expected.known if e.expectation.source == source)
                line = replace(line, verdict="healed", expectation=wanted)  # noqa: PLW2901 - the line's own verdict
            self._write(line)
        self.healed = () if cut else tuple(source.removeprefix("known:") for source in gone)
        if self.folder is None or self._writer is None:
            return
        if not cut:
            self._writer.finish(
                verdicts=dict(self._verdicts),
                pruned=self.run.plan.pruned,
                not_run=len(self.run.plan.cells) - self._verdicts.total(),
                seconds=time.perf_counter() - self._started,
            )
        self._writer.__exit__(None, None, None)
        self._page(self.folder)

    def _gone(self) -> list[str]:
        """The known mismatches that were expected and seen nowhere, of those whose every cell was run."""
        shown: dict[str, bool] = {}
        for _, mismatches in self._waiting:
            for source, seen in mismatches.items():
                shown[source] = shown.get(source, False) or seen
        covers = {entry.expectation.source: entry for entry in self.run.expected.known}
        return [
            source
            for source, seen in shown.items()
            if not seen
            and source in covers
            and all(cell.id in self._seen for cell in self.run.plan.cells if covers[source].covers(cell.id))
        ]

    def _page(self, folder: Path) -> None:
        path = folder / "report.jsonl"
        try:
            report = Report.read(path)
        except CutReport as error:
            report = error.partial
        page = folder / "report.html"
        page.write_text(render_html(report), encoding="utf-8")
        self.files = (path, page)
