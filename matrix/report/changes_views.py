"""The changes between two runs as text, Markdown, HTML and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from matrix.report.changes import KINDS, Change, Changes
from matrix.report.html import render_page
from matrix.report.markdown import escaped
from matrix.report.stories import expected, seen

if TYPE_CHECKING:
    from rich.console import Console

    from matrix.report.lines import CellLine

# Raised when a field changes its meaning.
SCHEMA: Final = 1
# Of these kinds people read each cell; of the others, some.
_READ: Final = ("broken", "failing", "unrun", "healed")
_MOST: Final = {kind: 50 if kind in _READ else 10 for kind, *_ in KINDS}
_MOST_HTML: Final = 2000


def _verdict(cell: CellLine | None) -> str:
    return cell.verdict if cell is not None else "not there"


def _because(change: Change) -> str:
    """What is there to say of a change: what is seen now where that fails, else what is expected now."""
    if change.new is None:
        return ""
    told = change.new.failed or change.new.verdict == "skipped"
    text = seen(change.new) if told else expected(change.new)
    return "" if text == "ok" else text


def render_changes(changes: Changes, console: Console) -> None:
    """Print what changed, worst first."""
    for name, before, now in changes.versions:
        console.print(f"{name}: {before} -> {now}", markup=False, highlight=False)
    for note in changes.notes:
        console.print(f"note: {note}", style="dim", markup=False, highlight=False)
    for kind, title, says in KINDS:
        listed: tuple[Change, ...] = getattr(changes, kind)
        if not listed:
            continue
        style = "bold red" if kind in ("broken", "failing") else "bold"
        console.print(f"\n{title.upper()}: {len(listed):,} cells {says}", style=style, highlight=False)
        for change in listed[: _MOST[kind]]:
            line = f"  {change.id}: {_verdict(change.old)} -> {_verdict(change.new)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            if kind in _READ and _because(change):
                console.print(f"    {_because(change)}", markup=False, highlight=False)
        if len(listed) > _MOST[kind]:
            console.print(f"  … and {len(listed) - _MOST[kind]:,} more", highlight=False)
    console.print()
    console.print(changes.title, style="bold red" if changes.broken else "bold green", highlight=False)


def render_changes_markdown(changes: Changes) -> str:
    """The changes as Markdown, for a pull request: what is newly broken open, the rest folded."""
    lines = [f"**{changes.title}**", ""]
    if changes.versions:
        lines += ["| library | before | now |", "|---|---|---|"]
        lines += [f"| {escaped(name)} | {escaped(old)} | {escaped(new)} |" for name, old, new in changes.versions]
        lines.append("")
    lines += [f"> {escaped(note)}\n" for note in changes.notes]
    for kind, title, says in KINDS:
        listed: tuple[Change, ...] = getattr(changes, kind)
        if not listed:
            continue
        heading = f"{title}: {len(listed):,} cells {says}"
        folded = kind not in ("broken", "failing")
        lines += ["<details>", f"<summary>{heading}</summary>", ""] if folded else [f"### {heading}", ""]
        lines += ["| cell | before | now | |", "|---|---|---|---|"]
        lines += [_row(change) for change in listed[: _MOST[kind]]]
        if len(listed) > _MOST[kind]:
            lines += ["", f"… and {len(listed) - _MOST[kind]:,} more"]
        lines += ["", "</details>", ""] if folded else [""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(change: Change) -> str:
    shown = (_verdict(change.old), _verdict(change.new), escaped(_because(change)))
    return f"| `{change.id}` | {' | '.join(shown)} |"


def render_changes_html(changes: Changes) -> str:
    """The changes as one page that needs no network, in the clothes of the report's."""
    kinds = []
    for kind, title, says in KINDS:
        listed: tuple[Change, ...] = getattr(changes, kind)
        rows = [(c.id, _verdict(c.old), _verdict(c.new), _because(c)) for c in listed[:_MOST_HTML]]
        if rows:
            kinds.append((kind, title, says, len(listed), rows))
    old, new = changes.headers
    return render_page(
        "changes.html.j2",
        title=changes.title,
        changes=changes,
        kinds=kinds,
        opened=("broken", "failing", "unrun", "healed"),
        runs=[("before", old), ("now", new)],
    )


def render_changes_json(changes: Changes) -> str:
    """The changes as JSON for programs: per kind, each cell's id, both verdicts and what was seen."""
    document: dict[str, Any] = {
        "kind": "changes",
        "schema": SCHEMA,
        "same": changes.same,
        "versions": {name: {"before": old, "now": new} for name, old, new in changes.versions},
        "notes": list(changes.notes),
    }
    for kind, *_ in KINDS:
        document[kind] = [
            {
                "id": change.id,
                "before": change.old.verdict if change.old else None,
                "now": change.new.verdict if change.new else None,
                "seen": seen(change.new) if change.new else None,
            }
            for change in getattr(changes, kind)
        ]
    return json.dumps(document) + "\n"
