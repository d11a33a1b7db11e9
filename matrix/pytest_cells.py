"""Cells as pytest items, loaded by `pytest --compat` alone: collection, failures as people read them, the report."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from matrix.cells import Cell, UnknownCellError
from matrix.examples import ExampleError, from_factory
from matrix.expectations import KnownError
from matrix.outcomes import VERDICTS
from matrix.pytest_report import Record
from matrix.report import CellLine
from matrix.report.entries import entry
from matrix.report.stories import expected, known_id, seen
from matrix.runner import PROFILES, Run, Settings, content_of, versions
from matrix.workbench import Workbench

# The first part of every node id; no folder that a project is likely to have.
NAME: Final = "compat-matrix"
_WORDS: Final = {"broken": "it", "changed": "what it shows now", "healed": "that"}


class CellFailure(Exception):  # noqa: N818 - it names what pytest shows as the error
    """A cell that is not as expected."""

    def __init__(self, line: CellLine) -> None:
        super().__init__(f"{line.verdict}: {seen(line)}")
        self.line = line


class CellCollector(pytest.Collector):
    """The cells of the matrix, as a file of tests is the collector of its own."""

    plugin: CellPlugin

    def collect(self) -> Iterator[CellItem]:
        """One item per cell; those of one content follow each other, for they share its examples."""
        for cell in sorted(self.plugin.run.cells, key=content_of):
            yield CellItem.from_parent(self, name=cell.id, cell=cell)


class CellItem(pytest.Item):
    """One cell as a test."""

    def __init__(self, *, cell: Cell, **options: Any) -> None:
        super().__init__(**options)
        self.cell = cell
        self.add_marker(pytest.mark.compat(check=cell.check, **dict(cell.values)))

    @property
    def plugin(self) -> CellPlugin:
        """The plugin that runs the cell."""
        collector = self.parent
        assert isinstance(collector, CellCollector)  # noqa: S101 - a cell has no other parent
        return collector.plugin

    def runtest(self) -> None:
        """Judge the cell; a known difference that happened as recorded is an expected failure."""
        judged = self.plugin.workbench.judge(self.cell)
        facts = {**judged.line.to_json(), "mismatches": judged.mismatches}
        # As ASCII, for what a file names need not be text that can travel between processes.
        self.stash[_LINE] = json.dumps(facts)
        line = judged.line
        if line.failed:
            raise CellFailure(line)
        if line.verdict == "skipped":
            pytest.skip(line.outcome.message or "no reason given")
        if line.verdict == "known":
            pytest.xfail(f"{known_id(line)}: {line.expectation.reason}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What a failure shows: what differed, the entry that would record it, and how to see it again."""
        if isinstance(excinfo.value, CellFailure):
            return failure_text(excinfo.value.line, self.plugin.again(excinfo.value.line))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, None, str]:
        """Where a cell stands in the lists of tests."""
        return NAME, None, self.name


_LINE: Final = pytest.StashKey[str]()


def failure_text(line: CellLine, again: str) -> str:
    """The text of a failure."""
    parts = [
        # The first line is what pytest shows in its list of failures.
        f"{line.verdict}: {seen(line)}",
        "",
        f"cell:     {line.id}",
        f"means:    {VERDICTS[line.verdict][1]}",
        f"expected: {expected(line)}",
    ]
    if line.outcome.facets:
        parts.append(f"differs:  {', '.join(line.outcome.facets)}")
    if known_id(line):
        parts.append(f"known:    {known_id(line)} {line.expectation.link}".rstrip())
    wanted = entry(line)
    if wanted:
        parts += ["", f"to record {_WORDS[line.verdict]} as a known difference:", "", *_indented(wanted)]
    if line.failure:
        what = "the smallest example that was found" if line.failure.get("shrunk") else "an example"
        parts += ["", f"to see {what}: python {line.failure['reproducer']}"]
    return "\n".join([*parts, f"to run it again: {again}"])


def _indented(text: str) -> list[str]:
    return [f"    {part}" for part in text.splitlines()]


class CellPlugin:
    """What pytest does with cells.

    Raises:
        pytest.UsageError: a pattern matches no cell, the profile or the seed is none, or the factory gives no
            module; in one message.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.model = self._asked("model")
        self.report = self._report()
        try:
            self.run = Run(self._settings())
        except (UnknownCellError, ExampleError, KnownError) as error:
            raise pytest.UsageError(f"--compat: {error}") from error
        self._workbench: Workbench | None = None
        # The processes of pytest-xdist send their reports to the one that started them.
        self.record = None if hasattr(config, "workerinput") else Record(self.run, self.report)

    def _asked(self, name: str) -> Any:
        given = self.config.getoption(f"compat_{name}")
        return self.config.getini(f"compat_{name}") if given is None else given

    def _report(self) -> Path | None:
        """Where the report goes: an option is relative to where pytest was called, an ini key to its root."""
        given = self.config.getoption("compat_report")
        if given:
            return Path(self.config.invocation_params.dir, given)
        noted = self.config.getini("compat_report")
        return Path(self.config.rootpath, noted) if noted else None

    def _settings(self) -> Settings:
        profile = self._asked("profile") or "quick"
        if profile not in PROFILES:
            raise pytest.UsageError(f"--compat-profile is {profile!r}; expected one of {', '.join(PROFILES)}")
        seed = self._asked("seed") or "0"
        if not seed.lstrip("-").isdecimal():
            raise pytest.UsageError(f"--compat-seed is {seed!r}; expected a whole number")
        given = from_factory(self.model, int(seed)) if self.model else None
        patterns = tuple(self._asked("cells") or ())
        out = self.report or self._own_folder()
        return Settings(profile=profile, patterns=patterns, seed=int(seed), given=given, out=out)

    def _own_folder(self) -> Path:
        """Where the scripts of failures go when no one said where: pytest's cache, if it has one."""
        cache = getattr(self.config, "cache", None)
        return Path(tempfile.gettempdir(), NAME) if cache is None else Path(cache.mkdir(NAME))

    @property
    def workbench(self) -> Workbench:
        """Where cells are judged."""
        if self._workbench is None:
            seconds = PROFILES[self.run.settings.profile].seconds
            self._workbench = Workbench(self.run, seconds / max(len(self.run.cells), 1))
        return self._workbench

    def again(self, line: CellLine) -> str:
        """The command that runs a cell again as it ran here."""
        settings = self.run.settings
        parts = ["pytest", "--compat", "-m", "compat", "--compat-cells", line.id, "--compat-profile", settings.profile]
        parts += ["--compat-seed", str(settings.seed)]
        return shlex.join([*parts, *(["--compat-model", self.model] if self.model else [])])

    def pytest_report_header(self) -> str:
        """Say what is run, and with what."""
        settings = self.run.settings
        with_ = ", ".join(f"{name} {text}" for name, text in versions().items() if name != "python")
        cells = f"{len(self.run.cells):,} cell{'s' if len(self.run.cells) != 1 else ''}"
        return f"{NAME}: {cells}, profile {settings.profile}, seed {settings.seed}, {with_}"

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Put the cells beside the files that the session collects."""
        report = yield
        if isinstance(collector, pytest.Session) and report.passed:
            cells: CellCollector = CellCollector.from_parent(collector, name=NAME, nodeid=NAME)
            cells.plugin = self
            report.result.append(cells)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Send a cell's line along with its report."""
        report = yield
        if report.when == "call" and _LINE in item.stash:
            report.compat_line = item.stash[_LINE]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a cell's line."""
        if self.record is not None and hasattr(report, "compat_line"):
            self.record.add(json.loads(report.compat_line))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Close the bench and the report; a known difference that was seen nowhere fails the session."""
        if self._workbench is not None:
            self._workbench.close()
        if self.record is None:
            return
        # After -x, or an interrupt, the report has no footer: it holds what was run until then.
        cut = bool(session.shouldstop or session.shouldfail) or session.exitstatus not in (0, 1, 5)
        self.record.finish(cut=cut)
        if self.record.healed and session.exitstatus in (0, 5):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was healed, and where the report is."""
        if self.record is None:
            return
        self._tell(terminalreporter, self.record.healed, self.record.files)

    @staticmethod
    def _tell(terminal: pytest.TerminalReporter, healed: Sequence[str], files: Sequence[Path]) -> None:
        if healed:
            terminal.section("healed known differences", red=True, bold=True)
            for name in healed:
                terminal.line(f"{name} was seen in none of its cells: remove its entry, or bind it to releases")
        if files:
            terminal.section(NAME)
            for path in files:
                terminal.line(f"report: {path}")
