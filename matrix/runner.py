"""Run cells: draw examples, push each through every cell of its content, judge, shrink what fails, record."""

from __future__ import annotations

import contextlib
import platform
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import compat
from compat import formats
from matrix import examples
from matrix.axes import Axes, Value, load_axes
from matrix.cells import Cell, Plan, plan, select
from matrix.checks import CHECKS, Bench
from matrix.claims import claims
from matrix.examples import Example
from matrix.expectations import Expectations, load_known
from matrix.exports import running as exporting
from matrix.features import dtypes, features
from matrix.implementations import IMPLEMENTATIONS, Implementation, torch_reads_safetensors
from matrix.limits import Profile, scratch, time_limit
from matrix.outcomes import Expectation, Outcome, Verdict, judge, judge_all, unless_lacking
from matrix.projections import bare_state
from matrix.recipes import RECIPES
from matrix.report import CellLine, ReportWriter
from matrix.shrinking import smallest
from matrix.trainings import OPTIMIZERS, SCHEDULERS
from matrix.transfers import MUTATIONS

# Contents that are not drawn: the user's own module, or a real file.
GIVEN: Final = ("model", "state")
GENERAL_MODULE: Final = "module-mixed"


PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        "quick": Profile(examples=2, seconds=10, exporting=None),
        "default": Profile(examples=12, seconds=100),
        "thorough": Profile(examples=200, seconds=1800, exporting=1800, every=True),
        "nightly": Profile(examples=2000, seconds=4 * 3600, exporting=4 * 3600, every=True),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run does.

    Attributes:
        patterns: which cells; all of them where there is none.
        seed: the first example's seed; the run is the same for the same one.
        given: the user's own example, in place of drawn ones.
        out: the folder for the report and the reproducers.
        cell_seconds: how long one example may take in one cell.
    """

    profile: str = "default"
    patterns: tuple[str, ...] = ()
    seed: int = 0
    given: Example | None = None
    out: Path = Path("matrix-report")
    cell_seconds: float = 30.0
    implementations: Mapping[str, Implementation] = field(default_factory=lambda: IMPLEMENTATIONS)


def make_axes(given: str | None = None) -> Axes:
    """The axes with compat's formats and everything that can be drawn, or the one given content."""
    axes = load_axes()
    rows = [
        Value(
            id=found.name,
            summary=found.summary,
            facts={
                "unpickles": found.unpickles,
                "mmap": found.capabilities.mmap,
                "written": found.writable,
                "hub": found.name == formats.DEFAULT,
            },
        )
        for found in formats.all_formats()
    ]
    if given is not None:
        drawn = [Value(id=given, summary="given by the user", facts={"general": [given]})]
    else:
        drawn = [Value(id=name, summary="drawn at random") for name in examples.contents()]
    given_to = {
        "format": rows,
        "via": rows,
        "content": drawn,
        "optimizer": [Value(id=name, summary="") for name in OPTIMIZERS],
        "scheduler": [Value(id=name, summary="") for name in SCHEDULERS],
        "mutation": [Value(id=name, summary="") for name in MUTATIONS],
        "recipe": [
            Value(id=name, summary=found.summary, facts={"by_torch": found.by_torch}) for name, found in RECIPES.items()
        ],
    }
    given_to |= exporting.axis_values(given=given is not None)
    given_to["reader"] = [_as_it_reads(reader) for reader in axes["reader"].values.values()]
    for name, values in given_to.items():
        axes = axes.with_values(name, values)
    return axes


def _as_it_reads(reader: Value) -> Value:
    """A reader with the formats that it has here."""
    if reader.id != "torch" or torch_reads_safetensors():
        return reader
    reads = [name for name in reader.facts["formats"] if name != "safetensors"]
    return replace(reader, facts={**reader.facts, "formats": reads})


def versions() -> dict[str, str]:
    """The releases that a run depends on."""
    found = {"python": platform.python_version(), "compat": compat.__version__}
    for name in ("torch", "safetensors", "numpy", "onnx", "onnxruntime"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name).partition("+")[0]
    return found


def expectations(*, strict_cells: Sequence[str] | None = None) -> Expectations:
    """What should happen with the installed releases.

    Args:
        strict_cells: all cell ids; a known difference that matches none of them is an error.
    """
    found = Expectations(load_known(), versions=versions(), claims=claims())
    if strict_cells is not None:
        found.verify(strict_cells)
    return found


# Whether a known mismatch that was expected somewhere was seen anywhere, by its source.
Shown = dict[str, bool]


@dataclass(slots=True, kw_only=True)
class Tally:
    """What happened in one cell so far.

    Attributes:
        cell: the cell; expect: what should happen there to an example.
        judged: what happened to each example, and what should have.
        worst: the smallest example that failed, with its size.
    """

    cell: Cell
    expect: Callable[[Cell, Example], Expectation]
    judged: list[tuple[Outcome, Expectation]] = field(default_factory=list)
    worst: tuple[int, Example] | None = None
    seconds: float = 0.0

    def add(self, outcome: Outcome, example: Example, seconds: float) -> None:
        """Count one example; of those that fail, the smallest is kept."""
        expectation = self.expect(self.cell, example)
        self.judged.append((outcome, expectation))
        self.seconds += seconds
        if judge_all([(outcome, expectation)]).failed:
            size = example.spec.size_bytes + sum(1 for _ in example.spec.tensors())
            if self.worst is None or size < self.worst[0]:
                self.worst = (size, example)

    def verdict(self) -> Verdict:
        """The judgement of all examples."""
        return judge_all(self.judged)

    def mismatches(self) -> dict[str, bool]:
        """The known mismatches that were expected here, and whether each was seen."""
        found: dict[str, bool] = {}
        for outcome, expectation in self.judged:
            if expectation.kind == "mismatch":
                # Where one of its cells was not tried, nobody knows whether it is gone.
                seen = judge(outcome, expectation).name in ("known", "skipped")
                found[expectation.source] = found.get(expectation.source, False) or seen
        return found


def with_healed(tallies: Sequence[Tally]) -> list[tuple[Tally, Verdict]]:
    """The verdicts of cells that expect known mismatches: one that was seen in none of them is healed."""
    shown: Shown = {}
    for tally in tallies:
        for source, seen in tally.mismatches().items():
            shown[source] = shown.get(source, False) or seen
    judged = []
    for tally in tallies:
        verdict = tally.verdict()
        gone = next((e for _, e in tally.judged if shown.get(e.source) is False), None)
        if verdict.name == "as-expected" and gone is not None:
            verdict = Verdict(name="healed", outcome=verdict.outcome, expectation=gone)
        judged.append((tally, verdict))
    return judged


def content_of(cell: Cell) -> str:
    """The content a cell tries, or its family of modules; empty for checks that make their own."""
    values = dict(cell.values)
    return values.get("content") or values.get("family", "")


def judged_as(cells: Iterable[Cell]) -> list[str]:
    """The ids that expectations are asked for: of all cells, and of what modules hold in those of whole states."""
    ids = {cell.id: None for cell in cells}
    held = sorted(content for content in examples.contents() if content.startswith("dtype-"))
    for cell in cells:
        if cell.check in ("device", "recipe"):
            ids |= {f"{cell.id.removesuffix(content_of(cell))}{feature}": None for feature in held}
    return list(ids)


class Run:
    """One run over the matrix."""

    def __init__(self, settings: Settings, progress: Callable[[int, int], None] | None = None) -> None:
        self.settings = settings
        self.progress = progress or (lambda _done, _total: None)
        self.axes = make_axes(settings.given.content if settings.given else None)
        self.plan: Plan = plan(self.axes)
        self.cells = select(self.plan.cells, settings.patterns)
        ids = None if settings.given else judged_as(self.plan.cells)
        self.expected = expectations(strict_cells=ids)
        self.expecting: dict[tuple[str, ...], Expectation] = {}
        table = list(formats.all_formats())
        self.suffixes = {found.name: found.suffixes[0] for found in table}
        self.keeps_hidden = frozenset(f.name for f in table if f.capabilities.hidden_bytes)
        self.shrunk = 0
        self.left_out = exporting.left_out(self.cells, settings.patterns, PROFILES[settings.profile])
        self.projected = frozenset(f.name for f in table if f.capabilities.extras == "json")

    def execute(self) -> Counter[str]:
        """Run every selected cell; the report says the rest.

        Returns:
            How many cells got each verdict.
        """
        started = time.perf_counter()
        profile = PROFILES[self.settings.profile]
        groups = self._groups()
        exports = exporting.order(groups, self.left_out, self.settings)
        verdicts: Counter[str] = Counter()
        self.settings.out.mkdir(parents=True, exist_ok=True)
        done = 0
        waiting: list[Tally] = []
        with ReportWriter(self.settings.out / "report.jsonl", self.header()) as writer:
            for index, (content, cells) in enumerate(groups):
                left = profile.seconds - (time.perf_counter() - started)
                others = len(groups) - exports - index
                share = left / others if others > 0 else (profile.exporting or 0.0) / exports
                for tally in self.content(content, cells, profile.examples, share):
                    if self.settings.given is None and tally.mismatches():
                        # Only all cells of a known mismatch together say whether it is still there.
                        waiting.append(tally)
                    else:
                        self._record(tally, tally.verdict(), writer, verdicts)
                done += len(cells)
                self.progress(done, len(self.cells))
            for tally, verdict in with_healed(waiting):
                self._record(tally, verdict, writer, verdicts)
            writer.finish(
                verdicts=dict(verdicts),
                pruned=self.plan.pruned,
                not_run=len(self.plan.cells) - len(self.cells),
                seconds=time.perf_counter() - started,
            )
        return verdicts

    def header(self) -> dict[str, Any]:
        """What the run is, as its report says first."""
        return {
            "profile": self.settings.profile,
            "seed": self.settings.seed,
            "patterns": list(self.settings.patterns),
            "given": self.settings.given.content if self.settings.given else None,
            "versions": versions(),
            "platform": platform.platform(),
        }

    def _groups(self) -> list[tuple[str, list[Cell]]]:
        # Exports come last: they are worked on in the background meanwhile.
        ordered = sorted(self.cells, key=lambda cell: (cell.check == exporting.CHECK, content_of(cell)))
        return [(content, list(cells)) for content, cells in groupby(ordered, key=content_of)]

    def content(self, content: str, cells: list[Cell], count: int, seconds: float) -> list[Tally]:
        """Try examples of one content in its cells: one at least, `count` at most, while there is time."""
        tallies = [Tally(cell=cell, expect=self.expect) for cell in cells]
        started = time.perf_counter()
        for number, example in enumerate(self.examples(content, count)):
            if number and time.perf_counter() - started > seconds:
                break
            self.push(example, tallies)
        return tallies

    def examples(self, content: str, count: int) -> Iterable[Example]:
        """The examples of a content, each drawn when it is asked for."""
        if not content:
            return [examples.NOTHING]
        if self.settings.given is not None:
            return [self.settings.given]
        if content in exporting.FAMILIES:
            return exporting.drawn(content, self.settings.seed, count)
        return (examples.draw(content, self.settings.seed + number) for number in range(count))

    def expect(self, cell: Cell, example: Example) -> Expectation:
        """What should happen to an example in a cell: what should to each of the features it has."""
        content = content_of(cell)
        spec = example.spec
        if dict(cell.values).get("prefix", "plain") != "plain":
            spec = bare_state(spec) or spec
        if dict(cell.values).get("recipe") == "whole":
            spec = example.held()
        if content in GIVEN:
            shared = ("plain", GENERAL_MODULE, *features(spec))
        elif content.startswith(examples.MODULE_PREFIX):
            shared = (content, *features(spec))
        elif content:
            shared = (content, *dtypes(spec))
        else:
            return self.expected.for_cell(cell.id)
        twins = tuple(self._twin(cell, content, feature) for feature in dict.fromkeys(shared))
        if twins not in self.expecting:
            self.expecting[twins] = self.expected.combined(twins)
        return self.expecting[twins]

    @staticmethod
    def _twin(cell: Cell, content: str, feature: str) -> str:
        return cell.id if feature == content else f"{cell.id.removesuffix(content)}{feature}"

    def push(self, example: Example, tallies: Iterable[Tally]) -> None:
        """Push one example through cells."""
        with tempfile.TemporaryDirectory(prefix="matrix-", dir=scratch()) as folder, warnings.catch_warnings():
            # What torch and others warn of while they read and write is no verdict.
            warnings.simplefilter("ignore")
            bench = self.bench(example, Path(folder))
            for tally in tallies:
                started = time.perf_counter()
                outcome = self.attempt(tally.cell, bench)
                tally.add(outcome, example, time.perf_counter() - started)
            bench.close()

    def bench(self, example: Example, folder: Path) -> Bench:
        """The work on one example."""
        return Bench(
            example,
            folder,
            suffixes=self.suffixes,
            keeps_hidden=self.keeps_hidden,
            projected=self.projected,
            implementations=self.settings.implementations,
        )

    def attempt(self, cell: Cell, bench: Bench) -> Outcome:
        """What comes of one example in a cell; a hang and a lack of memory are outcomes too."""
        if cell.id in self.left_out:
            return exporting.LEFT_OUT
        # The workers of exports bound each stage; waiting for one of them is no hang.
        seconds = None if cell.check == exporting.CHECK else self.settings.cell_seconds
        try:
            with time_limit(seconds):
                return unless_lacking(CHECKS[cell.check](cell, bench))
        except TimeoutError as error:
            return Outcome(kind="timeout", message=str(error))
        except MemoryError:
            return Outcome(kind="crashed", error_type="MemoryError")

    def _record(self, tally: Tally, verdict: Verdict, writer: ReportWriter, verdicts: Counter[str]) -> None:
        verdicts[verdict.name] += 1
        writer.cell(self.line(tally, verdict))

    def line(self, tally: Tally, verdict: Verdict) -> CellLine:
        """The report's line on a cell; where it failed, with the smallest example that can be found."""
        failure: dict[str, Any] | None = None
        if verdict.failed and tally.worst is not None:
            failure = smallest(self, tally, verdict)
        return CellLine(
            id=tally.cell.id,
            axes=dict(tally.cell.values),
            outcome=verdict.outcome,
            expectation=verdict.expectation,
            verdict=verdict.name,
            examples=len(tally.judged),
            seconds=round(tally.seconds, 6),
            failure=failure,
        )
