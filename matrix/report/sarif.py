"""The failures of a report as SARIF 2.1.0, as code scanning shows them.

The fields are those of OASIS SARIF 2.1.0 that GitHub reads ("SARIF support for code scanning"); a result needs a
place in a file, which is the cell's line in the report.
"""

from __future__ import annotations

import json
from typing import Any, Final

import compat
from matrix.outcomes import VERDICTS
from matrix.report.lines import CellLine, Report
from matrix.report.printable import printable_json
from matrix.report.stories import known_id, rerun, seen, story

_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
_RULES: Final = tuple(name for name, (fails, _) in VERDICTS.items() if fails)


def render_sarif(report: Report, *, uri: str = "report.jsonl") -> str:
    """The SARIF text: a result per failed cell.

    Args:
        report: what was run.
        uri: the report's own path as others find it, relative to the repository where it can be.
    """
    driver = {
        "name": "compat-matrix",
        "version": compat.__version__,
        "rules": [
            {
                "id": name,
                "shortDescription": {"text": VERDICTS[name][1]},
                "defaultConfiguration": {"level": "error"},
            }
            for name in _RULES
        ],
    }
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": bool(report.footer)}],
        "results": [_result(cell, place, report, uri) for place, cell in enumerate(report.cells) if cell.failed],
        "properties": {"versions": dict(report.header.get("versions", {})), "seed": report.header.get("seed")},
    }
    document = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(printable_json(document), indent=1) + "\n"


def _result(cell: CellLine, place: int, report: Report, uri: str) -> dict[str, Any]:
    lines = [f"{cell.id}: {cell.verdict}: {seen(cell)}"]
    lines += [f"{name}: {text}" for name, text in story(cell).items()]
    lines.append(f"run it again: {rerun(cell.id, report.header)}")
    result: dict[str, Any] = {
        "ruleId": cell.verdict,
        "ruleIndex": _RULES.index(cell.verdict),
        "level": "error",
        "message": {"text": "\n".join(lines)},
        "locations": [
            {
                # The header is the first line; each cell has one.
                "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": place + 2}},
                "logicalLocations": [{"fullyQualifiedName": cell.id, "kind": "cell"}],
            }
        ],
        # A cell's id is for ever, so one failure stays one alert from run to run.
        "partialFingerprints": {"cell/v1": cell.id},
    }
    if known_id(cell):
        result["properties"] = {"known": known_id(cell)}
    return result
