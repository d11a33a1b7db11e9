"""What changed between two runs: what a maintainer reads in a pull request, or after an upgrade of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from matrix.report.lines import CellLine, Report, ReportError

# What makes two runs comparable: they tried the same examples.
_SAME: Final = (("seed", "the seed"), ("given", "the example that was given"))
# The kinds of change, worst first: name, title, and what it says.
KINDS: Final = (
    ("broken", "Newly broken", "fail now and did not before"),
    ("failing", "Still failing", "fail in both runs"),
    ("unrun", "No longer run", "were run before and are skipped now"),
    ("healed", "Healed", "failed before and do not now"),
    ("moved", "Other verdicts", "are judged otherwise, and fail in neither run"),
    ("new", "New", "did not exist before, or were not asked for"),
    ("gone", "Gone", "are no longer there, or were not asked for"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One cell in two runs; None where a run does not have it."""

    id: str
    old: CellLine | None
    new: CellLine | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What changed between two runs; each changed cell stands in one of the lists.

    Attributes:
        broken: cells that fail now and did not before, new ones too; failing: that fail in both.
        unrun: that are skipped now; healed: that failed before; moved: of another verdict otherwise.
        new, gone: cells that one run does not have, and that do not fail.
        same: how many cells are judged alike and do not fail.
        versions: (library, before, now) where they differ; notes: what else makes the runs unlike.
    """

    broken: tuple[Change, ...]
    failing: tuple[Change, ...]
    unrun: tuple[Change, ...]
    healed: tuple[Change, ...]
    moved: tuple[Change, ...]
    new: tuple[Change, ...]
    gone: tuple[Change, ...]
    same: int
    versions: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]
    headers: tuple[dict[str, Any], dict[str, Any]]

    @property
    def title(self) -> str:
        """All of it in one line."""
        counts = [f"{len(getattr(self, kind)):,} {title.lower()}" for kind, title, _ in KINDS if getattr(self, kind)]
        return f"{', '.join(counts) or 'nothing changed'}; {self.same:,} the same"


def changes(old: Report, new: Report) -> Changes:
    """What changed from one run to another.

    Raises:
        ReportError: a run was cut, so that what is gone cannot be told from what was not reached; or they
            tried other examples: another seed, or another given one.
    """
    for which, report in (("the first", old), ("the second", new)):
        if not report.footer:
            raise ReportError(f"{which} run was cut after {len(report.cells):,} cells; run it again to compare it")
    for name, says in _SAME:
        before, now = old.header.get(name), new.header.get(name)
        if before != now:
            raise ReportError(
                f"the runs differ in {says}: {before!r} and {now!r}. They tried other examples, so a change of "
                "verdict says nothing; run one of them again with the other's"
            )
    before_cells, now_cells = ({cell.id: cell for cell in report.cells} for report in (old, new))
    lists: dict[str, list[Change]] = {kind: [] for kind, *_ in KINDS}
    same = 0
    # In the order of the new run; what is gone comes last.
    for name in dict.fromkeys((*now_cells, *before_cells)):
        change = Change(id=name, old=before_cells.get(name), new=now_cells.get(name))
        kind = _kind(change)
        if kind:
            lists[kind].append(change)
        else:
            same += 1
    return Changes(
        **{kind: tuple(listed) for kind, listed in lists.items()},
        same=same,
        versions=_versions(old, new),
        notes=_notes(old, new),
        headers=(dict(old.header), dict(new.header)),
    )


def _kind(change: Change) -> str:
    """The list in which a cell stands; empty where nothing changed and nothing fails."""
    old, new = change.old, change.new
    if new is None:
        return "gone"
    if new.failed:
        return "failing" if old is not None and old.failed else "broken"
    if old is None:
        return "new"
    if old.verdict == new.verdict:
        return ""
    if new.verdict == "skipped":
        return "unrun"
    return "healed" if old.failed else "moved"


def _versions(old: Report, new: Report) -> tuple[tuple[str, str, str], ...]:
    before, now = old.header.get("versions", {}), new.header.get("versions", {})
    names = sorted({*before, *now})
    return tuple(
        (name, str(before.get(name, "none")), str(now.get(name, "none")))
        for name in names
        if before.get(name) != now.get(name)
    )


def _notes(old: Report, new: Report) -> tuple[str, ...]:
    """What else the runs do not share."""
    notes = []
    for name, says in (
        ("profile", "The profiles differ: one tried more examples than the other, and may have found more."),
        ("patterns", "Other cells were asked for, so cells that are new or gone may only not have been asked for."),
        ("platform", "The platforms differ."),
    ):
        before, now = old.header.get(name), new.header.get(name)
        if before != now:
            shown = " and ".join(str(v) if v else "all" for v in (before, now))
            notes.append(f"{says} ({shown})")
    if old.header.get("run") is not None and old.header.get("run") == new.header.get("run"):
        notes.append("Both are the same run.")
    return tuple(notes)
