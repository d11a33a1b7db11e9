"""Few cells that still meet every pair of values: what a short run tries of a product that takes hours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from matrix.cells import Cell

Pair = tuple[tuple[str, str], tuple[str, str]]
# Of many cells that meet a pair, so many are weighed against each other.
_WEIGHED = 60


def pairs(cell: Cell) -> list[Pair]:
    """Every two values of a cell, with their axes."""
    return list(combinations(cell.values, 2))


def pairwise(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Some of the cells, in their order: every pair of values that one of them has is had by one of those.

    The same cells always give the same choice.
    """
    listed = list(cells)
    holders: dict[Pair, list[int]] = {}
    for index, cell in enumerate(listed):
        for pair in pairs(cell):
            holders.setdefault(pair, []).append(index)
    missing = set(holders)
    chosen: set[int] = set()
    # Rare pairs first: those that only a few cells have leave no choice.
    for pair in sorted(holders, key=lambda pair: (len(holders[pair]), pair)):
        if pair in missing:
            best = _best(listed, holders[pair], missing)
            chosen.add(best)
            missing.difference_update(pairs(listed[best]))
    return tuple(cell for index, cell in enumerate(listed) if index in chosen)


def _best(cells: Sequence[Cell], candidates: Sequence[int], missing: set[Pair]) -> int:
    step = max(1, len(candidates) // _WEIGHED)
    return max(candidates[::step], key=lambda index: sum(pair in missing for pair in pairs(cells[index])))
