"""A report as Markdown, for README, pull requests and step summaries."""

from __future__ import annotations

from matrix.outcomes import VERDICTS
from matrix.report.grid import make_grid
from matrix.report.lines import Report
from matrix.report.terminal import summary


def render_markdown(report: Report) -> str:
    """The grid, the known differences and the failures, as Markdown."""
    grid = make_grid(report)
    lines = [
        f"| format | writer → reader | {' | '.join(f'`{column}`' for column in grid.columns)} |",
        f"|---|---|{'---:|' * len(grid.columns)}",
    ]
    for (name, writer, reader), squares in grid.rows.items():
        shown = [squares[column].text if column in squares else "–" for column in grid.columns]
        lines.append(f"| {name} | {writer} → {reader} | {' | '.join(shown)} |")
    lines += ["", "Numbers are cells: as they should be, `+` known differences and refusals as claimed.", ""]
    if grid.known:
        lines += ["| known difference | cells | why |", "|---|---:|---|"]
        for name, (reason, link, count) in grid.known.items():
            shown_link = f" ([link]({link}))" if link.startswith("http") else ""
            lines.append(f"| {name} | {count} | {_cell(reason)}{shown_link} |")
        lines.append("")
    for cell in report.failed:
        lines.append(f"- **{cell.verdict}** `{cell.id}`: {VERDICTS[cell.verdict][1]}; {_cell(cell.outcome.message)}")
    lines.append(summary(report))
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
