"""`export`: a module is exported, and its artefact is loaded, called and weighed in a process that never saw it.

Compared: the outputs of two calls with the batch of the export, and of calls with other batches, with those of eager
torch; calls that the module refuses must be refused; every weight that the target claims to keep must be in the file,
byte by byte. Not compared: strides of outputs, speed, and how the file looks inside.
"""

from __future__ import annotations

from compat import exports
from matrix.cells import Cell
from matrix.checks._bench import Bench
from matrix.exports.crew import crew
from matrix.exports.jobs import job_of
from matrix.exports.subject import NAME
from matrix.outcomes import Outcome


def export(cell: Cell, bench: Bench) -> Outcome:
    """Export one module."""
    reason = exports.get(cell["target"]).available()
    if reason is not None:
        return Outcome(kind="skipped", message=reason[:200])
    subject = bench.implementations["compat"].exporting or NAME
    return crew().result(job_of(cell, bench.example.seed, subject=subject)).outcome
