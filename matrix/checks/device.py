"""`device`: what was saved on one device is loaded to another, wherever map_location says, and nowhere else.

A cell that ends on a device that this machine lacks must be refused, and counts as skipped: it was not tried there.
"""

from __future__ import annotations

import contextlib

from matrix.cells import Cell
from matrix.checks._bench import Bench, failure, mismatch
from matrix.devices import DEVICES, MOVES, here, noted_as, on
from matrix.implementations import ReadMode, WriteMode
from matrix.outcomes import Outcome
from matrix.spec import compare
from matrix.tensors import build, describe


def device(cell: Cell, bench: Bench) -> Outcome:
    """Save on a device, load to one, and compare where everything is."""
    saved = DEVICES[cell["saved_on"]]
    _, lands = MOVES[cell["moved"]]
    landing = lands(saved)
    writer = bench.implementations["torch" if cell["reader"] == "torch" or saved != "cpu" else "compat"]
    reader, path = bench.implementations[cell["reader"]], bench.place(cell["format"])
    real = saved == "cpu" or here(saved)
    try:
        with contextlib.nullcontext() if real else noted_as(saved):
            state = build(on(bench.example.spec, saved)) if real else bench.state("plain")
            writer.write(state, path, WriteMode(format=cell["format"]))
    except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
        return failure(error, writer, "write", path)
    try:
        loaded = reader.read(path, ReadMode(moved=cell["moved"]))
    except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
        outcome = failure(error, reader, "read", path)
        if here(landing) or outcome.kind == "timeout":
            return outcome
        return Outcome(kind="skipped", message=f"{landing} is not on this machine; that is refused")
    if not here(landing):
        return Outcome(
            kind="mismatch", stage="read", message=f"{landing} is not here, and it loaded", facets=("device",)
        )
    ignored = frozenset[str]() if cell["format"] in bench.keeps_hidden else frozenset({"storage-bytes"})
    differences = compare(on(bench.example.spec, landing), describe(loaded), ignore=ignored)
    return mismatch(differences) if differences else Outcome(kind="ok")
