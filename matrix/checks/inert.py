"""`inert`: a file that calls, read by who was not asked to call: the one right answer is a refusal without a trace."""

from __future__ import annotations

from matrix import canary
from matrix.cells import Cell
from matrix.checks._bench import Bench, failure
from matrix.implementations import ReadMode, WriteMode
from matrix.outcomes import Outcome


def inert(cell: Cell, bench: Bench) -> Outcome:
    """Read a file that calls, without asking for it; the one right answer is a refusal without a trace."""
    path = bench.folder / f"inert{bench.suffixes[cell['format']]}"
    writer, reader = (bench.implementations[cell[axis]] for axis in ("writer", "reader"))
    mode = WriteMode(format=cell["format"], protocol=int(cell["protocol"].removeprefix("p")))
    canary.clear()
    writer.write({"state": canary.WAYS[cell["way"]]()}, path, mode)
    canary.clear()
    try:
        reader.read(path, ReadMode(mmap=cell["mmap"] == "mmap"))
    except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
        outcome = failure(error, reader, "read", path)
    else:
        outcome = Outcome(kind="mismatch", stage="read", message="was not refused", facets=("not-refused",))
    if canary.TOUCHED:
        called = ", ".join(sorted(set(canary.TOUCHED)))
        return Outcome(kind="mismatch", stage="read", message=f"called: {called}", facets=("executed",))
    return Outcome(kind="ok") if outcome.kind == "refused" else outcome
