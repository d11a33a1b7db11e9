"""The checks: what is done in a cell with one example, and what came of it. One module each, and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from matrix.cells import Cell
from matrix.checks._bench import Bench
from matrix.checks.convert import convert
from matrix.checks.device import device
from matrix.checks.export import export
from matrix.checks.inert import inert
from matrix.checks.recipe import recipe
from matrix.checks.resume import resume
from matrix.checks.roundtrip import roundtrip
from matrix.checks.transfer import transfer
from matrix.outcomes import Outcome

CHECKS: Final[Mapping[str, Callable[[Cell, Bench], Outcome]]] = MappingProxyType(
    {
        "convert": convert,
        "device": device,
        "export": export,
        "inert": inert,
        "recipe": recipe,
        "resume": resume,
        "roundtrip": roundtrip,
        "transfer": transfer,
    }
)

__all__ = ["CHECKS", "Bench"]
