"""`convert`: a file is converted to another format, and from there back to its own.

Nothing may be lost on the way but the bytes that no tensor shows, where a format says so.
"""

from __future__ import annotations

from dataclasses import replace

from matrix.cells import Cell
from matrix.checks._bench import Bench, failure, mismatch
from matrix.implementations import ReadMode
from matrix.outcomes import Outcome
from matrix.spec import compare
from matrix.tensors import describe


def convert(cell: Cell, bench: Bench) -> Outcome:
    """Convert a file of one example to another format and back, and read what comes of it."""
    there = bench.converted(cell["format"], cell["via"])
    if isinstance(there, Outcome):
        return there
    back = bench.convert(there, cell["format"])
    if isinstance(back, Outcome):
        return replace(back, stage="convert-back")
    reader = bench.implementations["compat"]
    try:
        loaded = reader.read(back, ReadMode())
    except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
        return failure(error, reader, "read", back)
    keeps_hidden = {cell["format"], cell["via"]} <= bench.keeps_hidden
    differences = compare(
        bench.example.spec, describe(loaded), ignore=frozenset() if keeps_hidden else frozenset({"storage-bytes"})
    )
    return Outcome(kind="ok") if not differences else mismatch(differences)
