"""Pair names with names: by what is paired already around them, then by how much they look alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Final

# More comparisons than these would take longer than reading the tensors did.
_MAX_COMPARED: Final = 10_000

_Score = tuple[bool, bool, int, float, int]


def assign(left: Sequence[str], right: Sequence[str], known: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """One-to-one pairs of the names, as many as the shorter side has; many names are paired in order.

    Where `a.weight` is certainly `x.weight`, as `known` says, `a.bias` is rather `x.bias` than `y.bias`.
    """
    if len(left) * len(right) > _MAX_COMPARED:
        return list(zip(left, right, strict=False))
    beside = {(_split(a)[0], _split(b)[0]) for a, b in known}
    scored = sorted(
        ((_score(a, b, beside, abs(i - j)), a, b) for i, a in enumerate(left) for j, b in enumerate(right)),
        key=lambda item: item[0],
        reverse=True,
    )
    free_left, free_right, found = set(left), set(right), []
    for _, a, b in scored:
        if a in free_left and b in free_right:
            free_left.remove(a)
            free_right.remove(b)
            found.append((a, b))
    return found


def _split(name: str) -> tuple[str, str]:
    parent, _, leaf = name.rpartition(".")
    return parent, leaf


def _score(left: str, right: str, beside: set[tuple[str, str]], apart: int) -> _Score:
    (above_left, leaf_left), (above_right, leaf_right) = _split(left), _split(right)
    common = 0
    for a, b in zip(reversed(left.split(".")), reversed(right.split(".")), strict=False):
        if a != b:
            break
        common += 1
    ratio = SequenceMatcher(None, left, right, autojunk=False).ratio()
    return (above_left, above_right) in beside, leaf_left == leaf_right, common, ratio, -apart
