"""The axes of the matrix, as data: `data/axes.toml`, and the values that only the caller knows."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from types import MappingProxyType
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value of an axis.

    Attributes:
        id: how it is written in a cell's id.
        summary: what it is, in a few words.
        facts: what the rules that prune cells need to know of it.
    """

    id: str
    summary: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One dimension of the matrix.

    Attributes:
        values: its values by id, in order.
        default: the value that a cell's id leaves out; None where it is always shown.
        join: what stands before it in an id.
    """

    name: str
    summary: str
    values: Mapping[str, Value]
    default: str | None = None
    join: str = ":"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """All axes, and which of them each check has."""

    axes: Mapping[str, Axis]
    checks: Mapping[str, tuple[str, ...]]
    summaries: Mapping[str, str]

    def __getitem__(self, name: str) -> Axis:
        return self.axes[name]

    def of(self, check: str) -> tuple[Axis, ...]:
        """The axes of one check, in the order of its ids."""
        return tuple(self.axes[name] for name in self.checks[check])

    def with_values(self, name: str, values: Iterable[Value]) -> Axes:
        """The same axes with other values on one of them.

        Raises:
            ValueError: two of the values have one id, or an id could not be read back.
        """
        listed = list(values)
        by_id = {value.id: value for value in listed}
        if len(by_id) < len(listed):
            doubled = next(value.id for value in listed if [other.id for other in listed].count(value.id) > 1)
            raise ValueError(f"the axis {name!r} has two values {doubled!r}; expected distinct ids")
        axis = replace(self.axes[name], values=MappingProxyType(by_id))
        axes = {**self.axes, name: axis}
        _refuse_ambiguity(axes, self.checks)
        return replace(self, axes=MappingProxyType(axes))


def load_axes(text: str | None = None) -> Axes:
    """The axes of `data/axes.toml`, or of a text of that form.

    Raises:
        ValueError: an id could not be read back, a default is none of its axis's values, or a check has an
            axis that does not exist.
    """
    if text is None:
        text = resources.files("matrix").joinpath("data/axes.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    axes = {name: _axis(name, table) for name, table in data["axes"].items()}
    checks = {name: tuple(table["axes"]) for name, table in data["checks"].items()}
    for check, names in checks.items():
        unknown = [name for name in names if name not in axes]
        if unknown:
            raise ValueError(f"the check {check!r} has the axis {unknown[0]!r}; expected one of {', '.join(axes)}")
    _refuse_ambiguity(axes, checks)
    return Axes(
        axes=MappingProxyType(axes),
        checks=MappingProxyType(checks),
        summaries=MappingProxyType({name: table["summary"] for name, table in data["checks"].items()}),
    )


def _axis(name: str, table: dict[str, Any]) -> Axis:
    values = {
        key: Value(id=key, summary=facts.pop("summary"), facts=MappingProxyType(facts))
        for key, facts in ((key, dict(facts)) for key, facts in table.get("values", {}).items())
    }
    default = table.get("default")
    if default is not None and default not in values:
        raise ValueError(f"axis {name!r} has the default {default!r}; expected one of {', '.join(values)}")
    return Axis(
        name=name,
        summary=table["summary"],
        values=MappingProxyType(values),
        default=default,
        join=table.get("join", ":"),
    )


def _refuse_ambiguity(axes: Mapping[str, Axis], checks: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse values by which an id could be read in two ways.

    An id shows no axis names, and leaves out defaults: a value that is shown must belong to one axis alone
    among those that may stand in its place.
    """
    for axis in axes.values():
        for value in axis.values:
            if not value or {":", ">"} & set(value):
                raise ValueError(f"the axis {axis.name!r} has the value {value!r}; an id needs text without : and >")
    for check, names in checks.items():
        owners: dict[str, str] = {}
        for name in names:
            axis = axes[name]
            for value in axis.values:
                if value != axis.default and owners.setdefault(value, name) != name:
                    raise ValueError(
                        f"{value!r} stands on {owners[value]} and {name}: {check} ids cannot tell them apart"
                    )
            if axis.default is None:
                owners.clear()  # an axis that is always shown ends the run of those that may be left out
