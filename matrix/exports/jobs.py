"""From a cell to what its workers are asked."""

from __future__ import annotations

from functools import cache
from typing import Any

from compat import exports
from matrix.axes import load_axes
from matrix.cells import Cell
from matrix.exports.crew import Job
from matrix.exports.families import draw_family
from matrix.exports.features import FEATURES
from matrix.exports.subject import NAME
from matrix.exports.tolerances import tolerance
from matrix.modulespec import ModuleSpec


def module_of(cell: Cell, seed: int) -> ModuleSpec:
    """The module of a cell that a seed stands for."""
    spec = draw_family(cell["family"], seed)
    feature = FEATURES.get(cell["feature"])
    return spec if feature is None else feature.given_to(spec)


@cache
def variants() -> dict[str, dict[str, Any]]:
    """The facts of every variant."""
    return {name: dict(value.facts) for name, value in load_axes()["variant"].values.items()}


def job_of(cell: Cell, seed: int, *, subject: str = NAME, spec: ModuleSpec | None = None) -> Job:
    """What the workers of a cell's target are asked.

    Args:
        cell: the cell.
        seed: the example's.
        subject: what is judged.
        spec: another module than the one the seed stands for.
    """
    target, facts = exports.get(cell["target"]), variants()[cell["variant"]]
    can = target.capabilities
    asked = cell["sizes"]
    return Job.of(
        target.name,
        spec=(spec or module_of(cell, seed)).to_json(),
        precision=cell["precision"],
        file=f"model{target.suffix}",
        sizes=asked if len(can.shapes) > 1 else "static",
        options=facts.get("exporting", {}),
        running=facts.get("running", {}),
        subject=subject,
        claims={"state": facts.get("state", can.state), "pytrees": can.pytrees},
        tolerance=tolerance(target.name, cell["family"], cell["precision"], same_runtime=can.same_runtime),
        any_batch=can.dynamic_batch and asked != "static",
        seconds=600.0 if target.heavy else 60.0,
    )
