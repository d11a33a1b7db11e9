"""Cells: points of the matrix with stable readable ids, the product of axes less what rules prune."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod

from matrix.axes import Axes, Axis

# Contents that stand for "any state": with these, how a file is read is crossed with everything.
GENERAL_CONTENTS = ("plain", "module-mixed")

# Contents that can be trained, and the optimizers that every scheduler is tried with.
TRAINED = ("module-mixed", "model")
SCHEDULED = ("Adam", "SGD")
# Contents that states are transferred to.
TRANSFERRED = ("module-batchnorm", "module-mixed", "module-tied", "model")


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
class Rule:
    """Why some combinations are no cells.

    Attributes:
        sentence: the reason, for people.
        reads: the axes it looks at; it is asked once they have values, and not in checks that lack one.
        prunes: whether a combination falls under it.
    """

    sentence: str
    reads: tuple[str, ...]
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


def _only_read(axes: Axes, values: dict[str, str]) -> bool:
    """What compat writes is what its table says; the others' formats stand in their own facts."""
    own = _fact(axes, values, "writer", "formats") is None
    return own and axes["format"].values[values["format"]].facts.get("written") is False


def _no_way_back(axes: Axes, values: dict[str, str]) -> bool:
    return any(not axes[axis].values[values[axis]].facts.get("written") for axis in ("format", "via"))


def _far_apart(axes: Axes, values: dict[str, str]) -> bool:
    """Whether neither format is the one that everything is converted to and from."""
    return not _is_general(axes, values) and not any(
        axes[axis].values[values[axis]].facts.get("hub") for axis in ("format", "via")
    )


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


def _is_general(axes: Axes, values: dict[str, str]) -> bool:
    content = values["content"]
    return content in (*GENERAL_CONTENTS, *axes["content"].values[content].facts.get("general", ()))


def _not_shown_by_one(axes: Axes, values: dict[str, str]) -> bool:
    """Whether a combination shows nothing that a simpler one does not."""
    plain = _default(axes, values, "scheduler")
    if axes["format"].values[values["format"]].facts.get("hub"):
        return not plain and values["optimizer"] not in SCHEDULED
    return values["optimizer"] != SCHEDULED[0] or values["scheduler"] not in (axes["scheduler"].default, "OneCycleLR")


def _not_general(axes: Axes, values: dict[str, str]) -> bool:
    return not _is_general(axes, values) and any(
        not _default(axes, values, axis) for axis in ("map_location", "prefix", "protocol")
    )


RULES = (
    Rule(
        sentence="the writer does not write this format",
        reads=("format", "writer"),
        prunes=_speaks("writer"),
    ),
    Rule(
        sentence="the format is only read",
        reads=("format", "writer"),
        prunes=_only_read,
    ),
    Rule(
        sentence="what is converted to a format that is only read does not come back",
        reads=("format", "via"),
        prunes=_no_way_back,
    ),
    Rule(
        sentence="a conversion leads to another format",
        reads=("format", "via"),
        prunes=lambda _axes, values: values["format"] == values["via"],
    ),
    Rule(
        sentence="conversions that pass by torch-zip are crossed with contents that stand for any state",
        reads=("format", "via", "content"),
        prunes=_far_apart,
    ),
    Rule(
        sentence="the reader does not read this format",
        reads=("format", "reader"),
        prunes=_speaks("reader"),
    ),
    Rule(
        sentence="weights_only=False means nothing to a format without pickles",
        reads=("format", "weights_only"),
        prunes=lambda axes, values: values["weights_only"] == "full" and _no_pickle(axes, values),
    ),
    Rule(
        sentence="the reader cannot map this format",
        reads=("format", "reader", "mmap"),
        prunes=_no_mmap,
    ),
    Rule(
        sentence="the reader's map_location has no such form",
        reads=("reader", "map_location"),
        prunes=_no_such_map_location,
    ),
    Rule(
        sentence="a format without pickles has no pickle protocol, and not every writer has a choice of it",
        reads=("format", "writer", "protocol"),
        prunes=lambda axes, values: (
            not _default(axes, values, "protocol")
            and (
                _no_pickle(axes, values) or values["protocol"] not in (_fact(axes, values, "writer", "protocols") or ())
            )
        ),
    ),
    Rule(
        sentence="map_location, prefix and protocol are crossed with contents that stand for any state",
        reads=("map_location", "prefix", "protocol", "content"),
        prunes=_not_general,
    ),
    Rule(
        sentence="only modules can be trained, and mixed ones stand for all",
        reads=("optimizer", "content"),
        prunes=lambda _axes, values: values["content"] not in TRAINED,
    ),
    Rule(
        sentence="a state is transferred to modules with state: batch norm, ties, and mixed ones",
        reads=("mutation", "content"),
        prunes=lambda _axes, values: values["content"] not in TRANSFERRED,
    ),
    Rule(
        sentence="what loading into a module does does not hang on the format: torch-zip stands for all",
        reads=("format", "mutation"),
        prunes=lambda axes, values: not axes["format"].values[values["format"]].facts.get("hub"),
    ),
    Rule(
        sentence="a format that is only read saves no training run",
        reads=("format", "optimizer"),
        prunes=lambda axes, values: not axes["format"].values[values["format"]].facts.get("written"),
    ),
    Rule(
        sentence="optimizers and schedulers are crossed with torch-zip; every other format stands for one of each",
        reads=("format", "optimizer", "scheduler", "order"),
        prunes=_not_shown_by_one,
    ),
    Rule(
        sentence="LBFGS keeps one state for all parameters, in their order",
        reads=("optimizer", "order"),
        prunes=lambda axes, values: values["optimizer"] == "LBFGS" and not _default(axes, values, "order"),
    ),
    Rule(
        sentence="only formats with pickles can name what is to be called, and not every writer writes such files",
        reads=("format", "writer", "way"),
        prunes=lambda axes, values: _no_pickle(axes, values) or not _fact(axes, values, "writer", "calls"),
    ),
    Rule(
        sentence="weights_only=False asks for the call",
        reads=("weights_only", "way"),
        prunes=lambda _axes, values: values["weights_only"] == "full",
    ),
    Rule(
        sentence="prefix lives in keys and protocol in opcodes: they are not crossed with each other",
        reads=("prefix", "protocol"),
        prunes=lambda axes, values: not _default(axes, values, "prefix") and not _default(axes, values, "protocol"),
    ),
)


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
