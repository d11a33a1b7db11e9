"""`recipe`: what tutorials save is had back by the call that stands for the recipe, with the same outputs."""

from __future__ import annotations

from typing import Final

from matrix.cells import Cell
from matrix.checks._bench import Bench, blank, failure, mismatch
from matrix.implementations import WriteMode
from matrix.outcomes import Outcome
from matrix.recipes import RECIPES, Kitchen, UnpickledError
from matrix.spec import compare
from matrix.tensors import describe

# What memory beside its tensors a module's state holds is no part of a recipe.
_IGNORES: Final = frozenset({"storage-bytes"})


def recipe(cell: Cell, bench: Bench) -> Outcome:
    """Save one example's module by a recipe, and have it back."""
    example, who = bench.example, bench.implementations["compat"]
    if example.fresh is None or who.recipes is None:
        return Outcome(kind="skipped", message="no module to save")
    path = bench.place(cell["format"])
    kitchen = Kitchen(
        fresh=example.fresh,
        blank=blank,
        tutorial=bench.implementations["torch"],
        who=who,
        calls=who.recipes,
        path=path,
        mode=WriteMode(format=cell["format"]),
    )
    try:
        served = RECIPES[cell["recipe"]].cook(kitchen)
    except UnpickledError as error:
        return Outcome(kind="skipped", message=str(error))
    except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
        return failure(error, who, "load" if path.exists() else "write", path)
    differences = compare(describe(served.expected), describe(served.seen), ignore=_IGNORES)
    if differences:
        return mismatch(differences)
    if served.module is None or served.twin is None or example.forward is None:
        return Outcome(kind="ok")
    differences = compare(describe(example.forward(served.twin)), describe(example.forward(served.module)))
    return mismatch(differences) if differences else Outcome(kind="ok")
