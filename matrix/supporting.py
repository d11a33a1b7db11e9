"""What the measurement says of traits of files, so that a file that was never measured can be judged by its traits.

A release loads a file when it can do with each of its traits. It can with every trait of a file that it loaded. Of
the others, a trait is to blame that stands alone in a file that was not loaded; where several stand there and none is
to blame yet, the one is that most such files have. What is left was only ever seen beside one that is to blame, and
is not known.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from compat.sources import open_source
from compat.streams import search
from compat.traits import traits
from matrix.limits import scratch
from matrix.measured import Measured, Pair, in_order
from matrix.outcomes import KINDS, Outcome
from matrix.versionknown import VersionKnown
from matrix.versionrun import contents
from matrix.versions import COMPAT, File, draw_files, drawn, golden_files

# Mode of the table → how a reader is asked, the first of these that it has.
ASKED: Final[Mapping[str, tuple[str, ...]]] = {"weights_only": ("wo",), "unrestricted": ("full", "default", "own")}
# One letter per outcome in the table; `?` for what is not known.
LETTERS: Final[Mapping[str, str]] = {"ok": "o", "mismatch": "w", "refused": "r", "crashed": "c", "timeout": "c"}
FORMATS: Final = ("torch-legacy", "torch-zip", "torchscript", "torch-export")
_FILES: Final = frozenset(FORMATS)

_MET: Final = ("format", "archive", "schema", "records", "below", "protocol", "opcode", "name", "call")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One measured file: its place in the measurement, and its traits."""

    writer: str
    format: str
    what: str
    traits: frozenset[str]

    def outcome(self, found: Measured, reader: str, mode: str) -> Outcome | None:
        """What a reader made of it; None where it was not asked."""
        for asked in ASKED[mode]:
            outcome = found.cells.get((self.format, asked, self.what), {}).get((self.writer, reader))
            if outcome is not None and outcome.kind != "skipped":
                return outcome
        return None


def samples() -> Iterator[Sample]:
    """Every golden file that torch may be asked for, and what compat makes of drawn states."""
    yield from (_sample(file) for file in golden_files() if file.format in _FILES)
    with tempfile.TemporaryDirectory(prefix="matrix-", dir=scratch()) as folder:
        for found in draw_files({COMPAT: None}, drawn(contents()), Path(folder)):
            if isinstance(found, File) and found.format in _FILES:
                yield _sample(found)


def _sample(file: File) -> Sample:
    with open_source(file.path) as source:
        return Sample(writer=file.writer, format=file.format, what=file.what, traits=traits(search(source), source))


@dataclass(kw_only=True, slots=True)
class _Judged:
    """What one reader, asked in one mode, makes of the traits of one format."""

    best: dict[str, str] = field(default_factory=dict)
    blamed: dict[str, Counter[str]] = field(default_factory=dict)


def _judge(rows: list[tuple[frozenset[str], Outcome, str]]) -> _Judged:
    """Judge traits by files: their traits, what came of each, and the difference that explains it."""
    made = _Judged()
    for held, outcome, _ in rows:
        for trait in held:
            made.best[trait] = max(made.best.get(trait, "crashed"), outcome.kind, key=KINDS.index)
    failed = [
        (frozenset(trait for trait in held if made.best[trait] != "ok"), why)
        for held, outcome, why in rows
        if outcome.kind != "ok"
    ]
    blamed = {next(iter(suspects)) for suspects, _ in failed if len(suspects) == 1}
    while left := [suspects for suspects, _ in failed if suspects and not suspects & blamed]:
        counted = Counter(trait for suspects in left for trait in suspects)
        blamed.add(min(counted, key=lambda trait: (-counted[trait], _rank(trait), trait)))
    for suspects, why in failed:
        for trait in suspects & blamed:
            made.blamed.setdefault(trait, Counter())[why] += 1
    return made


def _rank(trait: str) -> int:
    """How late a reader of a file meets a trait: of those that are always seen together, the first is to blame."""
    return next((number for number, word in enumerate(_MET) if word in trait), len(_MET))


def table(found: Measured, cells: Mapping[Any, Mapping[Pair, VersionKnown]]) -> dict[str, Any]:
    """The table of traits, as JSON values; `compat.support` says what it means."""
    listed = list(samples())
    readers = [name for name in found.readers if name[0].isdigit()]
    reasons: dict[str, int] = {}
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for format_ in FORMATS:
        held = [sample for sample in listed if sample.format == format_]
        names = sorted({trait for sample in held for trait in sample.traits})
        rows[format_] = {name: {"since": _since(name, held)} for name in names}
        for mode in ASKED:
            judged = [_judge(_rows(found, cells, held, reader, mode)) for reader in readers]
            for name in names:
                rows[format_][name][mode] = "".join(_letter(one, name) for one in judged)
                whys = [one.blamed.get(name, Counter()).most_common(1) for one in judged]
                numbers = [reasons.setdefault(why[0][0], len(reasons)) if why else -1 for why in whys]
                if max(numbers, default=-1) >= 0:
                    rows[format_][name][f"{mode} because"] = _runs(numbers)
    texts = {entry.id: entry.reason for pairs in cells.values() for entry in pairs.values()}
    return {"schema": 1, "releases": readers, "reasons": [texts[name] for name in reasons], "traits": rows}


def text(made: Mapping[str, Any]) -> str:
    """The table as text of JSON, one trait per line."""
    lines = [f'"schema": {made["schema"]}', f'"releases": {json.dumps(made["releases"])}']
    lines.append(f'"reasons": [\n{_listed(made["reasons"])}\n]')
    formats = [
        f"{json.dumps(format_)}: {{\n"
        + ",\n".join(f"{json.dumps(name)}: {_compact(row)}" for name, row in rows.items())
        + "\n}"
        for format_, rows in made["traits"].items()
    ]
    lines.append('"traits": {\n' + ",\n".join(formats) + "\n}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _listed(items: list[str]) -> str:
    return ",\n".join(json.dumps(item) for item in items)


def _compact(row: Any) -> str:
    return json.dumps(row, separators=(",", ":"))


def _rows(
    found: Measured, cells: Mapping[Any, Mapping[Pair, VersionKnown]], held: list[Sample], reader: str, mode: str
) -> list[tuple[frozenset[str], Outcome, str]]:
    rows = []
    for sample in held:
        outcome = sample.outcome(found, reader, mode)
        if outcome is None:
            continue
        pair = (sample.writer, reader)
        entries = [cells.get((sample.format, asked, sample.what), {}).get(pair) for asked in ASKED[mode]]
        rows.append((sample.traits, outcome, next((entry.id for entry in entries if entry is not None), "")))
    return rows


def _letter(judged: _Judged, trait: str) -> str:
    kind = judged.best.get(trait)
    known = kind == "ok" or trait in judged.blamed
    return LETTERS[kind] if kind is not None and known else "?"


def _since(trait: str, held: list[Sample]) -> str:
    """The first release that wrote a file with this trait; empty where only compat did."""
    writers = in_order({sample.writer for sample in held if trait in sample.traits and sample.writer != COMPAT})
    return writers[0].removesuffix("-python2") if writers else ""


def _runs(numbers: list[int]) -> list[list[int]]:
    """Equal numbers that follow each other, as number and count."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][0] == number:
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return runs
