"""How far outputs may be off, as data: `data/tolerances.toml`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from matrix.exports.families import FAMILIES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@cache
def table() -> Mapping[str, Any]:
    """The whole table."""
    text = resources.files("matrix").joinpath("data/tolerances.toml").read_text(encoding="utf-8")
    found: Mapping[str, Any] = tomllib.loads(text)
    return found


def tolerance(target: str, family: str, precision: str, *, same_runtime: bool) -> dict[str, float]:
    """What the outputs of a family's module may differ by, as the arguments of `comparing.Tolerance`."""
    excepted = any(row["target"] == target and family in row["families"] for row in table()["exceptions"])
    if same_runtime and not excepted:
        return {"absolute": 0.0, "relative": 0.0}
    row = table()[FAMILIES[family].precision][precision]
    return {"absolute": row["absolute"], "relative": row["relative"]}
