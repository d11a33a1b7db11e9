"""The axes of the matrix, as data: `data/axes.toml`, and the values that only the caller knows."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

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
        """The same axes with other values on one of them."""
        axis = replace(self.axes[name], values=MappingProxyType({value.id: value for value in values}))
        return replace(self, axes=MappingProxyType({**self.axes, name: axis}))


def load_axes(text: str | None = None) -> Axes:
    """The axes of `data/axes.toml`, or of a text of that form.

    Raises:
        ValueError: a value stands on two axes, or a default is none of its axis's values.
    """
    if text is None:
        text = resources.files("matrix").joinpath("data/axes.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    axes = {name: _axis(name, table) for name, table in data["axes"].items()}
    _refuse_ambiguity(axes)
    return Axes(
        axes=MappingProxyType(axes),
        checks=MappingProxyType({name: tuple(table["axes"]) for name, table in data["checks"].items()}),
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


# An id is read back by its values alone where they stand for axes with a default.
_OPTIONAL_IDS_ARE_DISTINCT: Final = "the ids of values of axes with a default must be distinct"


def _refuse_ambiguity(axes: Mapping[str, Axis]) -> None:
    owners: dict[str, str] = {}
    for axis in axes.values():
        for value in axis.values if axis.default is not None else ():
            if owners.setdefault(value, axis.name) != axis.name:
                raise ValueError(f"{value!r} stands on {owners[value]} and {axis.name}: {_OPTIONAL_IDS_ARE_DISTINCT}")
