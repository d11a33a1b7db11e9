"""The measurement's result, merged and small: `data/measured.json`, cell by cell what every reader made of every file.

Rows of numbers, one per reader, stand for outcomes; equal rows are kept once. Only what a judgement needs is kept of
an outcome: its kind, the exception's class, the beginning of the message, and the facets of a mismatch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

from packaging.version import InvalidVersion, Version

from matrix.outcomes import Outcome
from matrix.report import Report, ReportError

PLACE: Final = Path("data") / "measured.json"
_SCHEMA: Final = 1
_SAID: Final = 160

# A group of cells: format, mode, what; and between whom: writer, reader.
Group = tuple[str, str, str]
Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured.

    Attributes:
        readers: who read, in order, with the versions of each.
        cells: group → pair → what happened.
    """

    readers: Mapping[str, Mapping[str, str]]
    cells: Mapping[Group, Mapping[Pair, Outcome]]

    def each(self) -> Iterator[tuple[dict[str, str], Outcome]]:
        """Every cell: its axes, and what happened."""
        for (format_, mode, what), pairs in self.cells.items():
            for (writer, reader), outcome in pairs.items():
                yield {"format": format_, "mode": mode, "what": what, "writer": writer, "reader": reader}, outcome

    @property
    def writers(self) -> tuple[str, ...]:
        """Who wrote, in order."""
        return tuple(in_order({writer for pairs in self.cells.values() for writer, _ in pairs}))


def in_order(names: set[str]) -> list[str]:
    """Names of releases by version, and then the others."""
    return sorted(names, key=_rank)


def _rank(name: str) -> tuple[bool, Version, str]:
    try:
        return False, Version(name), name
    except InvalidVersion:
        return True, Version("0"), name


def merge(paths: Sequence[Path]) -> Measured:
    """The result of reports of the check `version`, each of other readers.

    Raises:
        ReportError: a report is cut or of another check, or two of them disagree.
    """
    readers: dict[str, dict[str, str]] = {}
    cells: dict[Group, dict[Pair, Outcome]] = {}
    for path in paths:
        report = Report.read(path)
        if report.header.get("profile") != "version":
            raise ReportError(f"{path} is of the profile {report.header.get('profile')!r}; expected version")
        heard = report.header.get("peers") or {}
        for line in report.cells:
            axes = line.axes
            readers.setdefault(axes["reader"], dict(heard.get(axes["reader"], {})))
            pairs = cells.setdefault((axes["format"], axes["mode"], axes["what"]), {})
            outcome = _kept(line.outcome)
            if pairs.setdefault((axes["writer"], axes["reader"]), outcome) != outcome:
                raise ReportError(f"two reports disagree on {line.id}; measure it again")
    return Measured(readers={name: readers[name] for name in in_order(set(readers))}, cells=dict(sorted(cells.items())))


def _kept(outcome: Outcome) -> Outcome:
    """What is kept of an outcome: of a mismatch nothing that was seen, which may be memory that no one wrote."""
    said = outcome.message.partition(", seen ")[0] if outcome.kind == "mismatch" else outcome.message
    return replace(outcome, stage="", message=(said or outcome.error_type)[:_SAID])


def to_text(measured: Measured) -> str:
    """The result as text of JSON, one row or one group per line."""
    readers, writers = list(measured.readers), list(measured.writers)
    outcomes: dict[Outcome, int] = {}
    rows: dict[tuple[int | None, ...], int] = {}
    groups: list[Any] = []
    for group, pairs in measured.cells.items():
        found: dict[int, list[int]] = {}
        for number, writer in enumerate(writers):
            seen = [pairs.get((writer, reader)) for reader in readers]
            row = tuple(None if one is None else outcomes.setdefault(one, len(outcomes)) for one in seen)
            if any(one is not None for one in row):
                found.setdefault(rows.setdefault(row, len(rows)), []).append(number)
        groups.append([*group, [[row, numbers] for row, numbers in found.items()]])
    parts: dict[str, list[Any]] = {
        "readers": [[name, dict(versions)] for name, versions in measured.readers.items()],
        "writers": writers,
        "outcomes": [outcome.to_json() for outcome in outcomes],
        "rows": list(rows),
        "groups": groups,
    }
    lines = [f'"schema": {_SCHEMA}']
    for name, items in parts.items():
        listed = ",\n".join(json.dumps(item, separators=(",", ":")) for item in items)
        lines.append(f'"{name}": [\n{listed}\n]')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def parse(text: str) -> Measured:
    """The result that `to_text` wrote.

    Raises:
        ValueError: the text is of another schema.
    """
    data = json.loads(text)
    if data["schema"] != _SCHEMA:
        raise ValueError(f"the measurement has schema {data['schema']!r}; expected {_SCHEMA}")
    readers = [name for name, _ in data["readers"]]
    outcomes = [Outcome(**{**row, "facets": tuple(row.get("facets", ()))}) for row in data["outcomes"]]
    cells: dict[Group, dict[Pair, Outcome]] = {}
    for format_, mode, what, found in data["groups"]:
        pairs: dict[Pair, Outcome] = {}
        for row, numbers in found:
            for number in numbers:
                pairs |= {
                    (data["writers"][number], reader): outcomes[one]
                    for reader, one in zip(readers, data["rows"][row], strict=True)
                    if one is not None
                }
        cells[format_, mode, what] = pairs
    return Measured(readers=dict(data["readers"]), cells=cells)


def load() -> Measured:
    """The result that is committed."""
    return parse(resources.files("matrix").joinpath(str(PLACE)).read_text(encoding="utf-8"))
