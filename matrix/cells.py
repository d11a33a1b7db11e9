"""Cells: points of the matrix with stable readable ids, the product of axes less what rules prune."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod

from matrix.axes import Axes, Axis
from matrix.rules import RULES, Rule


class UnknownCellError(LookupError):
    """A pattern or an id that matches no cell."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the matrix.

    Attributes:
        check: which check runs there.
        values: axis → value id, in the order of the check's axes.
        id: the cell's name, for ever.
    """

    check: str
    values: tuple[tuple[str, str], ...]
    id: str = field(compare=False)

    def __getitem__(self, axis: str) -> str:
        return dict(self.values)[axis]

    @classmethod
    def make(cls, axes: Axes, check: str, **values: str) -> Cell:
        """The cell with these values, and every other axis at its default.

        Raises:
            KeyError: an axis without a default was left out.
        """
        chosen = []
        text = check
        for axis in axes.of(check):
            value = values.get(axis.name, axis.default)
            if value is None:
                raise KeyError(f"a {check} cell needs a value for {axis.name!r}")
            chosen.append((axis.name, value))
            if value != axis.default:
                text += f"{axis.join}{value}"
        return cls(check, tuple(chosen), text)

    @classmethod
    def parse(cls, axes: Axes, text: str) -> Cell:
        """The cell with this id.

        Raises:
            UnknownCellError: the text is no id.
        """
        check, _, rest = text.partition(":")
        if check not in axes.checks:
            raise UnknownCellError(f"{text!r} begins with no check; there are {', '.join(axes.checks)}")
        values: dict[str, str] = {}
        remaining = list(axes.of(check))
        for token in _tokens(rest, remaining):
            while remaining and not _takes(remaining[0], token):
                skipped = remaining.pop(0)
                if skipped.default is None:
                    raise UnknownCellError(f"{text!r} has {token!r} where a {skipped.name} is expected")
            if not remaining:
                raise UnknownCellError(f"{text!r} has {token!r}, which no axis of {check} has")
            values[remaining.pop(0).name] = token
        try:
            cell = cls.make(axes, check, **values)
        except KeyError as error:
            raise UnknownCellError(f"{text!r} is cut short: {error.args[0]}") from error
        if cell.id != text:
            raise UnknownCellError(f"{text!r} is no id; the cell it means is named {cell.id!r}")
        return cell

    def with_(self, axes: Axes, **values: str) -> Cell:
        """The same cell with other values."""
        return Cell.make(axes, self.check, **{**dict(self.values), **values})


def _tokens(text: str, axes: Sequence[Axis]) -> list[str]:
    for axis in axes:
        if axis.join != ":":
            text = text.replace(axis.join, ":", 1)
    return text.split(":")


def _takes(axis: Axis, token: str) -> bool:
    # A default is never shown; its name may be a value of an axis that follows, as `plain` is.
    return token != axis.default and (token in axis.values or (axis.default is None and not axis.values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cells there are, and how many combinations each rule pruned."""

    cells: tuple[Cell, ...]
    pruned: dict[str, int]


def _combinations(axes: Axes, check: str, rules: Sequence[Rule], pruned: Counter[str]) -> Iterator[dict[str, str]]:
    """What no rule prunes; what one does is counted by whole branches, for there are a million of them."""
    names = [axis.name for axis in axes.of(check)]
    asked: list[list[Rule]] = [[] for _ in names]
    for rule in rules:
        if set(rule.reads) <= set(names):
            asked[max(map(names.index, rule.reads))].append(rule)
    below = [prod(len(axes[name].values) for name in names[depth + 1 :]) for depth in range(len(names))]

    def grow(values: dict[str, str]) -> Iterator[dict[str, str]]:
        depth = len(values)
        if depth == len(names):
            yield values
            return
        for value in axes[names[depth]].values:
            longer = {**values, names[depth]: value}
            rule = next((rule for rule in asked[depth] if rule.prunes(axes, longer)), None)
            if rule is None:
                yield from grow(longer)
            else:
                pruned[rule.sentence] += below[depth]

    yield from grow({})


def plan(axes: Axes, checks: Iterable[str] | None = None, rules: Sequence[Rule] = RULES) -> Plan:
    """All cells of some checks (of all, where none is named): products of axes, less what the rules prune."""
    cells: list[Cell] = []
    pruned: Counter[str] = Counter({rule.sentence: 0 for rule in rules})
    for check in axes.checks if checks is None else checks:
        combinations = _combinations(axes, check, rules, pruned)
        cells += (Cell.make(axes, check, **values) for values in combinations)
    doubled = [name for name, count in Counter(cell.id for cell in cells).items() if count > 1]
    if doubled:
        raise ValueError(f"two cells are named {doubled[0]!r}")
    return Plan(cells=tuple(cells), pruned=dict(pruned))


def select(cells: Iterable[Cell], patterns: Sequence[str]) -> tuple[Cell, ...]:
    """The cells whose id matches one of the patterns (`*`, `?`, `[…]`); all cells where there is no pattern.

    Raises:
        UnknownCellError: a pattern matches no cell; the message names what comes near.
    """
    known = tuple(cells)
    if not patterns:
        return known
    for pattern in patterns:
        if not any(fnmatchcase(cell.id, pattern) for cell in known):
            near = difflib.get_close_matches(pattern, [cell.id for cell in known], n=3, cutoff=0.3)
            hint = f"near it: {', '.join(near)}" if near else "`matrix list` shows them all"
            raise UnknownCellError(f"no cell matches {pattern!r}; {hint}")
    return tuple(cell for cell in known if any(fnmatchcase(cell.id, pattern) for pattern in patterns))
