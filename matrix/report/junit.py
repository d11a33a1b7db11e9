"""A report as JUnit XML: a test case per cell, a suite per check, as CI servers read it."""

from __future__ import annotations

from itertools import groupby
from xml.etree import ElementTree as ET

from matrix.report.lines import CellLine, Report
from matrix.report.printable import printable
from matrix.report.stories import known_id, rerun, seen, story


def render_junit(report: Report) -> str:
    """The XML text.

    A failed cell is a `failure`, a skipped one is `skipped`; a known difference that happened as recorded
    passes, and says so in its output. A run that was cut is an `error` of a case of its own.
    """
    root = ET.Element("testsuites", name="compat-matrix")
    cells = sorted(report.cells, key=_check)
    for check, group in groupby(cells, key=_check):
        _suite(root, check, list(group), report)
    if not report.footer:
        suite = ET.SubElement(root, "testsuite", name="run", tests="1", failures="0", errors="1", skipped="0")
        case = ET.SubElement(suite, "testcase", classname="compat-matrix", name="the run ended", time="0")
        ET.SubElement(case, "error", message="the run was cut; this is what it had", type="cut")
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    root.set("time", f"{sum(cell.seconds for cell in cells):.6f}")
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _check(cell: CellLine) -> str:
    return cell.id.partition(":")[0]


def _suite(root: ET.Element, check: str, cells: list[CellLine], report: Report) -> None:
    suite = ET.SubElement(
        root,
        "testsuite",
        name=printable(check),
        tests=str(len(cells)),
        failures=str(sum(cell.failed for cell in cells)),
        errors="0",
        skipped=str(sum(cell.verdict == "skipped" for cell in cells)),
        time=f"{sum(cell.seconds for cell in cells):.6f}",
        timestamp=str(report.header.get("started", ""))[:19],
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in report.header.get("versions", {}).items():
        ET.SubElement(properties, "property", name=printable(str(name)), value=printable(str(value)))
    for cell in cells:
        _case(suite, cell, report)


def _case(suite: ET.Element, cell: CellLine, report: Report) -> None:
    classname = ".".join(("compat-matrix", _check(cell), cell.axes.get("format", ""))).rstrip(".")
    case = ET.SubElement(
        suite, "testcase", classname=printable(classname), name=printable(cell.id), time=f"{cell.seconds:.6f}"
    )
    if cell.failed:
        told = ET.SubElement(case, "failure", type=cell.verdict, message=f"{cell.verdict}: {seen(cell)}")
        lines = [f"{name}: {text}" for name, text in story(cell).items()]
        told.text = printable("\n".join([*lines, f"run it again: {rerun(cell.id, report.header)}"]))
    elif cell.verdict == "skipped":
        ET.SubElement(case, "skipped", message=printable(cell.outcome.message))
    elif known_id(cell):
        said = ET.SubElement(case, "system-out")
        wanted = cell.expectation
        said.text = printable(f"known difference {known_id(cell)}: {wanted.reason}\n{wanted.link}")
