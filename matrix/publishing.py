"""What is made of the measurement, and never typed: the places of known differences, and the page and table of support.

Nothing is made of a measurement with an outcome that no known difference explains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from matrix import covering, measured, supporting, supportpage, versionknown
from matrix.expectations import KnownError
from matrix.measured import Group, Measured, Pair
from matrix.outcomes import Outcome
from matrix.versionknown import VersionKnown

_ROOT: Final = Path(__file__).parents[1]
_PACKAGE: Final = Path("matrix")
_FINE: Final = ("ok", "skipped")


class UnexplainedError(KnownError):
    """Outcomes of a measurement that no known difference explains."""


# The difference that explains each cell that is not fine.
Explained = Mapping[Group, Mapping[Pair, VersionKnown]]


def explained(found: Measured, known: Sequence[VersionKnown]) -> Explained:
    """The difference behind each cell that is not fine.

    Raises:
        UnexplainedError: a cell has none, or a difference explains nothing.
    """
    cells: dict[Group, dict[Pair, VersionKnown]] = {}
    unexplained: list[str] = []
    reasons: dict[tuple[str, str, Outcome], VersionKnown | None] = {}
    for axes, outcome in found.each():
        if outcome.kind in _FINE:
            continue
        key = (axes["what"], axes["reader"], outcome)
        if key not in reasons:
            reasons[key] = next((entry for entry in known if entry.explains(axes, outcome)), None)
        entry = reasons[key]
        if entry is None:
            said = outcome.message or ", ".join(outcome.facets)
            unexplained.append(":".join((*axes.values(), outcome.kind, said)))
            continue
        group = (axes["format"], axes["mode"], axes["what"])
        cells.setdefault(group, {})[axes["writer"], axes["reader"]] = entry
    if unexplained:
        shown = "\n".join(unexplained[:20])
        raise UnexplainedError(f"no known difference explains {len(unexplained)} cells; add one for each of\n{shown}")
    seen = {entry.id for pairs in cells.values() for entry in pairs.values()}
    idle = [entry.id for entry in known if entry.id not in seen]
    if idle:
        raise UnexplainedError(f"the known differences {', '.join(idle)} explain no cell; they must go")
    return cells


def places(found: Measured, cells: Explained, known: Sequence[VersionKnown]) -> dict[str, list[covering.Place]]:
    """Where each difference happens: everywhere it was seen, and nowhere else that was measured."""
    seen: dict[str, set[tuple[str, str]]] = {}
    for (format_, mode, _), pairs in cells.items():
        for entry in set(pairs.values()):
            seen.setdefault(entry.id, set()).add((format_, mode))
    made = {}
    for entry in known:
        tables = {
            group: _table(cells.get(group, {}), pairs, entry)
            for group, pairs in found.cells.items()
            if group[:2] in seen[entry.id]
        }
        made[entry.id] = covering.places(tables)
    return made


def _table(cells: Mapping[Pair, VersionKnown], pairs: Mapping[Pair, Outcome], entry: VersionKnown) -> covering.Table:
    """Of each pair that was measured, whether a difference happens; by chance, it may with any file of a reader."""
    table = {pair: cells.get(pair) is entry for pair, outcome in pairs.items() if outcome.kind != "skipped"}
    if not entry.chance:
        return table
    readers = {reader for (_, reader), happens in table.items() if happens}
    return {pair: happens for pair, happens in table.items() if happens or pair[1] not in readers}


def texts(found: Measured) -> dict[Path, str]:
    """Every file that is made of a measurement, by its path in the repository.

    Raises:
        UnexplainedError: an outcome is not explained.
    """
    found = measured.parse(measured.to_text(found))  # so that the order in which it came tells nothing
    known = versionknown.differences()
    cells = explained(found, known)
    made: dict[Path, Callable[[], str]] = {
        _PACKAGE / measured.PLACE: lambda: measured.to_text(found),
        _PACKAGE / versionknown.PLACES: lambda: versionknown.places_text(places(found, cells, known)),
        Path("compat") / "support.json": lambda: supporting.text(supporting.table(found, cells)),
        Path("docs") / "support.md": lambda: supportpage.page(found, cells),
    }
    return {path: make() for path, make in made.items()}


def publish(found: Measured, *, check: bool = False) -> list[Path]:
    """Write what is made of a measurement into the source tree; the files that changed.

    Args:
        found: the measurement.
        check: write nothing, and only say what would change.

    Raises:
        UnexplainedError: an outcome is not explained.
    """
    changed = []
    for path, text in texts(found).items():
        place = _ROOT / path
        if place.is_file() and place.read_text(encoding="utf-8") == text:
            continue
        changed.append(path)
        if not check:
            place.write_text(text, encoding="utf-8")
    return changed
