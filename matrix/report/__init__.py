"""The report of a run: one JSON line per cell, and the pictures people read, all from one row model."""

from matrix.report.changes import Changes, changes
from matrix.report.changes_views import (
    render_changes,
    render_changes_html,
    render_changes_json,
    render_changes_markdown,
)
from matrix.report.document import render_json
from matrix.report.grid import Grid, make_grid, summary
from matrix.report.html import render_html
from matrix.report.junit import render_junit
from matrix.report.lines import CellLine, CutReport, Report, ReportError, ReportWriter
from matrix.report.markdown import render_markdown
from matrix.report.sarif import render_sarif
from matrix.report.terminal import render_terminal

__all__ = [
    "CellLine",
    "Changes",
    "CutReport",
    "Grid",
    "Report",
    "ReportError",
    "ReportWriter",
    "changes",
    "make_grid",
    "render_changes",
    "render_changes_html",
    "render_changes_json",
    "render_changes_markdown",
    "render_html",
    "render_json",
    "render_junit",
    "render_markdown",
    "render_sarif",
    "render_terminal",
    "summary",
]
