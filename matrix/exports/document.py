"""`python -m matrix.exports.document REPORT…`: the page on export targets, made from reports of the matrix.

Of a cell that several reports have, the first that tried it counts: heavy targets can be run where they are installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from matrix.axes import load_axes
from matrix.expectations import load_known
from matrix.exports.families import FAMILIES
from matrix.exports.features import FEATURES
from matrix.exports.worker import EQUAL
from matrix.report import CellLine, Report

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Status → how it is shown; of several cells, the worst stands for all of them.
STATUSES: Final[Mapping[str, str]] = {
    "broken": "**FAILS**",
    "crashed": "**crash**",
    "wrong": "**wrong**",
    "accepts": "**accepts**",
    "weights": "**weights**",
    "refused": "refused",
    "partly": "some refused",
    "near": "≈",
    "equal": "=",
    "skipped": "·",
}
_SILENT: Final = ("mismatch", "crashed")


def status(line: CellLine) -> str:
    """What came of one cell, as a key of `STATUSES`."""
    kind = line.outcome.kind
    if line.failed:
        return "broken"
    if kind == "mismatch":
        facets = set(line.outcome.facets)
        weights = all(facet.startswith("weights-") for facet in facets)
        return "weights" if weights else "accepts" if facets == {"not-refused"} else "wrong"
    return {
        "ok": "equal" if line.outcome.message == EQUAL else "near",
        "refused": "refused",
        "skipped": "skipped",
    }.get(kind, "crashed")


def square(lines: Iterable[CellLine]) -> str:
    """What came of several cells."""
    found = {status(line) for line in lines}
    tried = found - {"skipped"}
    if "refused" in tried and tried & {"equal", "near"}:
        tried = (tried - {"refused"}) | {"partly"}
    return STATUSES[min(tried or {"skipped"}, key=list(STATUSES).index)]


def table(title: str, names: Mapping[str, str], axis: str, lines: Sequence[CellLine]) -> list[str]:
    """One table: a row for each value of an axis, a column for each target."""
    targets = sorted({line.axes["target"] for line in lines})
    by_place: dict[tuple[str, str], list[CellLine]] = {}
    for line in lines:
        by_place.setdefault((line.axes[axis], line.axes["target"]), []).append(line)
    rows = [f"| {title} | {' | '.join(targets)} |", f"|---|{'---|' * len(targets)}"]
    for name, summary in names.items():
        squares = [square(by_place.get((name, target), [])) for target in targets]
        rows.append(f"| `{name}`: {summary} | {' | '.join(squares)} |")
    return rows


def findings(lines: Sequence[CellLine]) -> list[str]:
    """What computes otherwise, or ends the process, without an exception: with what shows it."""
    known = {line.expectation.source: line for line in lines if line.verdict == "known"}
    shown = {entry.expectation.source: entry.expectation.link for entry in load_known()}
    silent = [line for line in known.values() if line.outcome.kind in _SILENT]
    told = []
    for line in sorted(silent, key=lambda line: line.expectation.source):
        name = line.expectation.source.removeprefix("known:")
        told += [
            f"### {name}",
            "",
            f"{line.expectation.reason}.",
            "",
            "```py",
            shown.get(line.expectation.source, line.expectation.link).strip(),
            "```",
            "",
        ]
    return told


def page(reports: Sequence[Report]) -> str:
    """The whole page."""
    by_id: dict[str, CellLine] = {}
    for line in (line for report in reports for line in report.cells if line.axes.get("target")):
        if by_id.get(line.id, line).outcome.kind == "skipped" or line.id not in by_id:
            by_id[line.id] = line
    lines = list(by_id.values())
    plain = [line for line in lines if line.axes["feature"] == "none"]
    usual = [line for line in plain if line.axes["variant"] == "usual"]
    variants = {name: value.summary for name, value in load_axes()["variant"].values.items()}
    versions = ", ".join(f"{name} {text}" for name, text in reports[0].header["versions"].items())
    families = {name: family.summary for name, family in FAMILIES.items()}
    features = {name: feature.summary for name, feature in FEATURES.items()}
    tried = sum(line.outcome.kind != "skipped" for line in lines)
    parts = [
        _INTRODUCTION.format(versions=versions, tried=tried, cells=len(lines)),
        *table("family", families, "family", usual),
        "",
        "## What else is asked of an exporter or a runtime",
        "",
        *table("variant", variants, "variant", plain),
        "",
        "## What a module has beside its layers",
        "",
        *table("feature", features, "feature", lines),
        "",
        "## Silent findings",
        "",
        "None of these raises where it goes wrong. Each block shows it without compat.",
        "",
        *findings(lines),
        _studied(),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _studied() -> str:
    text = resources.files("matrix").joinpath("data/studied.toml").read_text(encoding="utf-8")
    rows: dict[str, Any] = tomllib.loads(text)
    told = [
        "## What became of the thirty incompatibilities of the study",
        "",
        "| | what | where it is now |",
        "|---|---|---|",
    ]
    told += [f"| {name} | {row['what']} | {row['now']} |" for name, row in rows.items()]
    return "\n".join(told)


_INTRODUCTION: Final = """# Export targets: what they keep

Made by `python -m matrix.exports.document` from a report of `matrix run --check export`, with {versions}; {tried} of
{cells} cells were tried. Every artefact was written, loaded, called and weighed in a process that never saw the module:
two calls with the batch of the export, calls with batches of 5 and 1, calls that the module refuses.

`=` equal bit by bit · `≈` within the tolerances of `matrix/data/tolerances.toml` · refused: with an exception, as
recorded, always or (some refused) in some precisions · **wrong**: other numbers · **accepts**: an answer to a call
that the module refuses · **weights**: other weights than the target claims to keep · **crash**: the process ends ·
`·` not tried. What is not `=` or `≈` is recorded in `matrix/known/exports.toml`, with a reproducer.
"""


def main(arguments: Sequence[str]) -> None:
    """Print the page of some reports."""
    sys.stdout.write(page([Report.read(Path(name)) for name in arguments]))


if __name__ == "__main__":
    main(sys.argv[1:])
