"""`report.jsonl`: a header, one line per cell, a footer. A report without its footer was cut."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from matrix.outcomes import VERDICTS, Expectation, Outcome

# Raised when a line changes its meaning; a reader of another schema refuses.
SCHEMA: Final = 1


class ReportError(ValueError):
    """A file that is no report, or one that contradicts itself."""


class CutReport(ReportError):
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
        """The line that `to_json` wrote."""
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


class ReportWriter:
    """Writes a report line by line, so that a cut run leaves what it had.

    Args:
        path: the file; header: what the run is: profile, seed, versions…
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self._path = path
        self._header = {"line": "header", "schema": SCHEMA, "started": _now(), **header}
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
            CutReport: it has no footer.
            ReportError: it is no report, of another schema, or names a cell twice.
        """
        try:
            lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text.strip()]
        except OSError as error:
            raise ReportError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ReportError(f"{path} is no report: {error}; expected one JSON object per line") from error
        header = lines[0] if lines and isinstance(lines[0], dict) else {}
        if header.get("line") != "header":
            raise ReportError(f"{path} is no report: it does not begin with a header")
        if header.get("schema") != SCHEMA:
            raise ReportError(f"{path} has schema {header.get('schema')!r}; expected {SCHEMA}")
        cells = tuple(CellLine.from_json(line) for line in lines[1:] if line.get("line") == "cell")
        names = [cell.id for cell in cells]
        if len(set(names)) != len(names):
            doubled = next(name for name in names if names.count(name) > 1)
            raise ReportError(f"{path} names the cell {doubled} twice")
        footer = lines[-1] if lines[-1].get("line") == "footer" else None
        report = cls(header=header, cells=cells, footer=footer or {})
        if footer is None:
            raise CutReport(f"{path} has no footer after {len(cells)} cells: the run was cut", report)
        return report
