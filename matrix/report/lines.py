"""`report.jsonl`: a header, one line per cell, a footer. A report without its footer was cut."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, final

from matrix.outcomes import VERDICTS, Expectation, Outcome

# Raised when a line changes its meaning; a reader of another schema refuses.
SCHEMA: Final = 1


class ReportError(ValueError):
    """A file that is no report, or one that contradicts itself."""


class CutReport(ReportError):  # noqa: N818 - it names what the file is, not what went wrong in reading
    """A report without a footer: the run was cut.

    Attributes:
        partial: what was readable.
    """

    def __init__(self, message: str, partial: Report) -> None:
        super().__init__(message)
        self.partial = partial


@dataclass(frozen=True, slots=True, kw_only=True)
class CellLine:
    """One cell's result.

    Attributes:
        id: the cell's; axes: its values.
        outcome: what happened; expectation: what should have; verdict: one of `VERDICTS`.
        examples: how many were tried; seconds: how long they took together.
        failure: for a failed cell, its smallest example and the script that shows it.
    """

    id: str
    axes: Mapping[str, str]
    outcome: Outcome
    expectation: Expectation
    verdict: str
    examples: int
    seconds: float
    failure: Mapping[str, Any] | None = None

    @property
    def failed(self) -> bool:
        """Whether the run fails by it."""
        return VERDICTS[self.verdict][0]

    def to_json(self) -> dict[str, Any]:
        """The line as JSON values."""
        wanted = self.expectation
        facts: dict[str, Any] = {
            "line": "cell",
            "id": self.id,
            "axes": dict(self.axes),
            "verdict": self.verdict,
            "outcome": self.outcome.to_json(),
            "expected": {
                name: sorted(value) if name == "facets" else value
                for name in ("kind", "reason", "link", "source", "message", "stage", "facets")
                if (value := getattr(wanted, name))
            },
            "examples": self.examples,
            "seconds": self.seconds,
        }
        if self.failure is not None:
            facts["failure"] = dict(self.failure)
        return facts

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CellLine:
        """The line that `to_json` wrote.

        Raises:
            ReportError: a field is missing or holds what no run writes.
        """
        try:
            return cls._from_json(data)
        except (KeyError, TypeError, ValueError) as error:
            what = f"has no {error}" if isinstance(error, KeyError) else str(error)
            raise ReportError(f"the cell {data.get('id')!r} is broken: {what}") from error

    @classmethod
    def _from_json(cls, data: Mapping[str, Any]) -> CellLine:
        if data["verdict"] not in VERDICTS:
            raise ValueError(f"the verdict is {data['verdict']!r}; expected one of {', '.join(VERDICTS)}")
        outcome, wanted = dict(data["outcome"]), dict(data["expected"])
        outcome["facets"] = tuple(outcome.get("facets", ()))
        wanted["facets"] = frozenset(wanted.get("facets", ()))
        return cls(
            id=data["id"],
            axes=data["axes"],
            outcome=Outcome(**outcome),
            expectation=Expectation(**wanted),
            verdict=data["verdict"],
            examples=data["examples"],
            seconds=data["seconds"],
            failure=data.get("failure"),
        )


@final
class ReportWriter:
    """Writes a report line by line, so that a cut run leaves what it had.

    Args:
        path: the file; header: what the run is: profile, seed, versions…
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self._path = path
        self._header = {
            "line": "header",
            "schema": SCHEMA,
            "run": secrets.token_hex(8),
            "started": _now(),
            **header,
        }
        self._file: IO[str] | None = None

    def __enter__(self) -> ReportWriter:
        self._file = self._path.open("w", encoding="utf-8")
        self._write(self._header)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            raise ReportError("the report is not open; use the writer as a context manager")
        self._file.write(json.dumps(line, ensure_ascii=True) + "\n")
        self._file.flush()

    def cell(self, line: CellLine) -> None:
        """Write one cell's result."""
        self._write(line.to_json())

    def finish(self, **footer: Any) -> None:
        """Write the footer: the run was not cut."""
        self._write({"line": "footer", "finished": _now(), **footer})


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report as read: its header, its cells in order, and its footer."""

    header: Mapping[str, Any]
    cells: tuple[CellLine, ...]
    footer: Mapping[str, Any]

    @property
    def failed(self) -> tuple[CellLine, ...]:
        """The cells by which the run failed."""
        return tuple(cell for cell in self.cells if cell.failed)

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read a report.

        Raises:
            CutReport: it has no footer; what was readable comes with the error.
            ReportError: it is no report, of another schema, names a cell twice, or contradicts its footer.
        """
        lines = _parsed(path)
        header = lines[0] if lines else {}
        if header.get("line") != "header":
            raise ReportError(f"{path} is no report: it does not begin with a header")
        if header.get("schema") != SCHEMA:
            raise ReportError(f"{path} has schema {header.get('schema')!r}; expected {SCHEMA}")
        footer = lines[-1] if lines[-1].get("line") == "footer" else None
        body = lines[1:] if footer is None else lines[1:-1]
        strange = [line.get("line") for line in body if line.get("line") != "cell"]
        if strange:
            raise ReportError(f"{path} has the line {strange[0]!r} among its cells; expected 'cell'")
        cells = tuple(CellLine.from_json(line) for line in body)
        doubled = [name for name, count in Counter(cell.id for cell in cells).items() if count > 1]
        if doubled:
            raise ReportError(f"{path} names the cell {doubled[0]} twice")
        report = cls(header=header, cells=cells, footer=footer or {})
        if footer is None:
            raise CutReport(f"{path} has no footer after {len(cells)} cells: the run was cut", report)
        counted, claimed = dict(Counter(cell.verdict for cell in cells)), footer.get("verdicts")
        if claimed is not None and claimed != counted:
            raise ReportError(f"{path} holds the verdicts {counted}; its footer says {claimed}")
        return report


def _parsed(path: Path) -> list[dict[str, Any]]:
    """The lines as JSON objects; a last line that was not finished is left out, for the run was cut there."""
    try:
        texts = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from error
    # A run that is killed while it writes leaves the beginning of an object, which is never JSON.
    if not _is_json(texts[-1]):
        texts.pop()
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ReportError(f"{path} is no report: line {number} is no JSON: {error}") from error
        if not isinstance(line, dict):
            raise ReportError(f"{path} is no report: line {number} is a {type(line).__name__}; expected an object")
        lines.append(line)
    return lines


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
