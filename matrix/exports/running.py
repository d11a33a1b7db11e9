"""Exports among the other cells of a run: which values their axes have, which cells are tried, and in what order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from compat import exports
from matrix.axes import Value, load_axes
from matrix.cells import Cell
from matrix.examples import NOTHING, Example
from matrix.exports.covering import pairwise
from matrix.exports.crew import crew
from matrix.exports.families import FAMILIES
from matrix.exports.features import FEATURES
from matrix.exports.jobs import job_of, module_of, variants
from matrix.exports.reproduce import script
from matrix.exports.smallest import smallest
from matrix.exports.subject import NAME
from matrix.limits import Profile
from matrix.modulespec import ModuleSpec
from matrix.outcomes import Outcome

if TYPE_CHECKING:
    from matrix.runner import Settings

__all__ = ["CHECK", "FAMILIES", "LEFT_OUT", "axis_values", "drawn", "left_out", "order", "reproducer"]

CHECK: Final = "export"
LEFT_OUT: Final = Outcome(
    kind="skipped", message="left to --profile thorough: its values are met, in pairs, by the exports that are run"
)


def axis_values(*, given: bool) -> dict[str, list[Value]]:
    """The values of the axes that only exports have; a module of the user's has no family."""
    families = [] if given else list(FAMILIES.values())
    return {
        "target": [
            Value(id=found.name, summary=found.summary, facts={"sizes": found.capabilities.shapes})
            for found in exports.all_targets()
        ],
        "feature": [
            *load_axes()["feature"].values.values(),
            *(Value(id=name, summary=found.summary) for name, found in FEATURES.items()),
        ],
        "family": [Value(id=f.name, summary=f.summary, facts={"general": f.general}) for f in families],
    }


def left_out(cells: Iterable[Cell], patterns: Sequence[str], profile: Profile) -> frozenset[str]:
    """The ids of the exports that a short run does not try; a cell that is asked for by its id is tried."""
    found = [cell for cell in cells if cell.check == CHECK]
    light = [cell for cell in found if not exports.get(cell["target"]).heavy]
    kept: list[Cell] = []
    if profile.every:
        kept = [*light, *pairwise(cell for cell in found if exports.get(cell["target"]).heavy)]
    elif profile.exporting is not None:
        kept = list(pairwise(light))
    return frozenset(cell.id for cell in found) - {cell.id for cell in kept} - set(patterns)


def order(groups: Iterable[tuple[str, Sequence[Cell]]], skipped: frozenset[str], settings: Settings) -> int:
    """Have exports done in the background, in the order in which they will be asked for.

    Returns:
        How many of the groups are exports.
    """
    ready = {found.name for found in exports.all_targets() if found.available() is None}
    subject = settings.implementations["compat"].exporting or NAME
    found = [cells for _, cells in groups if cells[0].check == CHECK]
    crew().order(
        job_of(cell, settings.seed, subject=subject)
        for cells in found
        for cell in cells
        if cell.id not in skipped and cell["target"] in ready
    )
    return len(found)


def drawn(family: str, seed: int, count: int) -> Iterator[Example]:
    """The examples of a family: what is drawn is drawn where it is exported."""
    return (replace(NOTHING, content=family, seed=seed + number) for number in range(count))


def reproducer(
    cell: Cell, seed: int, outcome: Outcome, subject: str | None, *, shrink: bool, expected: str, seen: str
) -> str:
    """The script that shows the smallest module that can be found to fail as one did.

    Args:
        cell: where it failed.
        seed: what it was drawn with.
        outcome: how it failed.
        subject: what is judged.
        shrink: whether to look for a smaller one.
        expected: what should have happened.
        seen: what did.
    """
    spec = module_of(cell, seed)

    def fails(trial: ModuleSpec) -> bool:
        found = crew().result(job_of(cell, seed, subject=subject or NAME, spec=trial)).outcome
        same = (found.kind, found.stage, found.error_type) == (outcome.kind, outcome.stage, outcome.error_type)
        return same and set(found.facets) <= set(outcome.facets)

    if shrink:
        spec = smallest(spec, fails)
    return script(spec, cell, variants()[cell["variant"]].get("exporting", {}), expected=expected, seen=seen)
