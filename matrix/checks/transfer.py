"""`transfer`: a state that was changed is loaded into a module.

What torch's own rules refuse must be refused and change nothing; else the module must hold what torch's would, and
every key that differs must be named.
"""

from __future__ import annotations

from matrix import transfers
from matrix.cells import Cell
from matrix.checks._bench import Bench, blank, failure, mismatch
from matrix.implementations import Transferred, WriteMode
from matrix.outcomes import Outcome
from matrix.spec import CheckpointSpec, compare
from matrix.tensors import describe


def transfer(cell: Cell, bench: Bench) -> Outcome:
    """Load a changed state into a module."""
    example, who = bench.example, bench.implementations["compat"]
    if example.fresh is None or who.load_into is None:
        return Outcome(kind="skipped", message="no module to load into")
    original, mutation = bench.state("plain"), cell["mutation"]
    try:
        mutated = transfers.MUTATIONS[mutation](original, example.seed)
    except transfers.NotMutableError as error:
        return Outcome(kind="skipped", message=str(error))
    path = bench.place(cell["format"])
    who.write(mutated, path, WriteMode(format=cell["format"]))
    module = blank(example.fresh())
    before = describe(module.state_dict())
    wanted = transfers.expected(blank(example.fresh()), original, mutated, mutation, cell["strictness"])
    try:
        said = who.load_into(module, path, cell["strictness"])
    except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
        outcome = failure(error, who, "load", path)
        differences = compare(before, describe(module.state_dict()))
        if not wanted.refused or outcome.kind != "refused":
            return outcome
        return mismatch(differences) if differences else Outcome(kind="ok")
    return named(wanted, said, describe(module.state_dict()))


def named(wanted: transfers.Expected, said: Transferred, seen: CheckpointSpec) -> Outcome:
    """Compare what was said and done with what must be."""
    if wanted.refused:
        return Outcome(kind="mismatch", stage="load", message="was not refused", facets=("not-refused",))
    for what in ("missing", "unexpected", "mismatched"):
        expected, told = sorted(getattr(wanted, what)), sorted(getattr(said, what))
        if expected != told:
            text = f"{what} keys: expected {expected}, told {told}"
            return Outcome(kind="mismatch", stage="load", message=text[:400], facets=(what,))
    if wanted.warned and not said.warned:
        return Outcome(kind="mismatch", stage="load", message="nothing said of the lost _metadata", facets=("silent",))
    differences = compare(describe(wanted.state), seen)
    return mismatch(differences) if differences else Outcome(kind="ok")
