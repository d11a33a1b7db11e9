"""Cells: points of the matrix with stable readable ids, the product of axes less what rules prune."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product

from matrix.axes import Axes, Axis

# Contents that stand for "any state": with these, how a file is read is crossed with everything.
GENERAL_CONTENTS = ("plain", "module-mixed")


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
            return cls.make(axes, check, **values)
        except KeyError as error:
            raise UnknownCellError(f"{text!r} is cut short: {error.args[0]}") from error

    def with_(self, axes: Axes, **values: str) -> Cell:
        """The same cell with other values."""
        return Cell.make(axes, self.check, **{**dict(self.values), **values})


def _tokens(text: str, axes: Sequence[Axis]) -> list[str]:
    for axis in axes:
        if axis.join != ":":
            text = text.replace(axis.join, ":", 1)
    return text.split(":")


def _takes(axis: Axis, token: str) -> bool:
    return token in axis.values or (axis.default is None and not axis.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Why some combinations are no cells.

    Attributes:
        sentence: the reason, for people.
        prunes: whether a combination falls under it.
    """

    sentence: str
    prunes: Callable[[Axes, dict[str, str]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cells there are, and how many combinations each rule pruned."""

    cells: tuple[Cell, ...]
    pruned: dict[str, int]


def _fact(axes: Axes, values: dict[str, str], axis: str, fact: str) -> tuple[str, ...] | None:
    found = axes[axis].values[values[axis]].facts.get(fact)
    return None if found is None else tuple(found)


def _speaks(axis: str) -> Callable[[Axes, dict[str, str]], bool]:
    def prunes(axes: Axes, values: dict[str, str]) -> bool:
        formats = _fact(axes, values, axis, "formats")
        return formats is not None and values["format"] not in formats

    return prunes


def _default(axes: Axes, values: dict[str, str], axis: str) -> bool:
    return values[axis] == axes[axis].default


def _no_mmap(axes: Axes, values: dict[str, str]) -> bool:
    if _default(axes, values, "mmap"):
        return False
    formats = _fact(axes, values, "reader", "mmap")
    return not axes["format"].values[values["format"]].facts.get("mmap") or (
        formats is not None and values["format"] not in formats
    )


def _no_such_map_location(axes: Axes, values: dict[str, str]) -> bool:
    known = _fact(axes, values, "reader", "map_locations")
    return known is not None and values["map_location"] not in known


def _no_pickle(axes: Axes, values: dict[str, str]) -> bool:
    return not axes["format"].values[values["format"]].facts.get("unpickles")


RULES = (
    Rule(sentence="the writer does not write this format", prunes=_speaks("writer")),
    Rule(sentence="the reader does not read this format", prunes=_speaks("reader")),
    Rule(
        sentence="weights_only=False means nothing to a format without pickles",
        prunes=lambda axes, values: values["weights_only"] == "full" and _no_pickle(axes, values),
    ),
    Rule(sentence="the reader cannot map this format", prunes=_no_mmap),
    Rule(sentence="the reader's map_location has no such form", prunes=_no_such_map_location),
    Rule(
        sentence="a format without pickles has no pickle protocol, and compat writes protocol 2 alone",
        prunes=lambda axes, values: (
            not _default(axes, values, "protocol") and (_no_pickle(axes, values) or values["writer"] != "torch")
        ),
    ),
    Rule(
        sentence="map_location, prefix and protocol are crossed with contents that stand for any state",
        prunes=lambda axes, values: (
            values["content"] not in (*GENERAL_CONTENTS, *axes["content"].values[values["content"]].facts.get("general", ()))
            and any(not _default(axes, values, axis) for axis in ("map_location", "prefix", "protocol"))
        ),
    ),
    Rule(
        sentence="prefix lives in keys and protocol in opcodes: they are not crossed with each other",
        prunes=lambda axes, values: not _default(axes, values, "prefix") and not _default(axes, values, "protocol"),
    ),
)


def _combinations(axes: Axes, check: str) -> Iterator[dict[str, str]]:
    names = [axis.name for axis in axes.of(check)]
    for chosen in product(*(axis.values for axis in axes.of(check))):
        yield dict(zip(names, chosen, strict=True))


def plan(axes: Axes, check: str = "roundtrip", rules: Sequence[Rule] = RULES) -> Plan:
    """All cells of a check: the product of its axes, less what the rules prune."""
    cells: list[Cell] = []
    pruned: Counter[str] = Counter({rule.sentence: 0 for rule in rules})
    for values in _combinations(axes, check):
        rule = next((rule for rule in rules if rule.prunes(axes, values)), None)
        if rule is None:
            cells.append(Cell.make(axes, check, **values))
        else:
            pruned[rule.sentence] += 1
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
