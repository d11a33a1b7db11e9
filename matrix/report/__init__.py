"""The report of a run: one JSON line per cell, and the pictures people read, all from one row model."""

from matrix.report.grid import Grid, make_grid, summary
from matrix.report.lines import CellLine, CutReport, Report, ReportError, ReportWriter
from matrix.report.markdown import render_markdown
from matrix.report.terminal import render_terminal

__all__ = [
    "CellLine",
    "CutReport",
    "Grid",
    "Report",
    "ReportError",
    "ReportWriter",
    "make_grid",
    "render_markdown",
    "render_terminal",
    "summary",
]
