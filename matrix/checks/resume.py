"""`resume`: a training run is saved, loaded into fresh objects, and goes on.

The module, the optimizer and every loss must be, bit by bit, those of the run that was not interrupted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch

from matrix import trainings
from matrix.cells import Cell
from matrix.checks._bench import Bench, blank, failure, mismatch
from matrix.devices import DEVICES, here
from matrix.implementations import WriteMode
from matrix.outcomes import Outcome
from matrix.spec import compare
from matrix.tensors import describe

# How many steps a training run takes before it is saved, and after.
STEPS: Final = 2
# How state lies in memory is no part of a run.
_RUN_IGNORES: Final = frozenset({"storage-bytes", "storage-offset", "stride", "aliasing", "key-order"})


def resume(cell: Cell, bench: Bench) -> Outcome:
    """Interrupt a training run, and compare what comes of it with the run that went on."""
    example, who = bench.example, bench.implementations["compat"]
    if example.fresh is None or who.save_run is None or who.load_run is None:
        return Outcome(kind="skipped", message="no module to train")
    if cell["going_on"] != "there":
        return elsewhere(cell, bench)
    optimizer, scheduler, reordered = cell["optimizer"], cell["scheduler"], cell["order"] != "same"
    with torch.random.fork_rng(devices=[]):
        try:
            trainings.seed(example.seed)
            straight = trainings.start(example.fresh(), example.inputs, optimizer=optimizer, scheduler=scheduler)
            straight.run(STEPS)
        except Exception as error:  # noqa: BLE001 - the module is not one to train
            return Outcome(kind="skipped", message=f"cannot be trained: {error!s:.120}")
        path = bench.place(cell["format"])
        try:
            who.save_run(straight, path, WriteMode(format=cell["format"]))
        except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
            return failure(error, who, "write", path)
        straight.run(STEPS)
        trainings.seed(example.seed + 1)
        resumed = trainings.start(
            blank(example.fresh()), example.inputs, optimizer=optimizer, scheduler=scheduler, reordered=reordered
        )
        try:
            who.load_run(resumed, path)
        except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
            return failure(error, who, "read", path)
        resumed.run(STEPS)
    return went_on(straight, resumed)


def went_on(
    straight: trainings.Training, resumed: trainings.Training, ignored: frozenset[str] = _RUN_IGNORES
) -> Outcome:
    """Compare two runs, the second of which was interrupted."""
    pairs = [
        (straight.module.state_dict(), resumed.module.state_dict(), "module"),
        (straight.losses[-STEPS:], resumed.losses, "losses"),
        (straight.step, resumed.step, "step"),
    ]
    for parameter, twin in zip(straight.module.parameters(), resumed.module.parameters(), strict=True):
        pairs.append((dict(straight.optimizer.state[parameter]), dict(resumed.optimizer.state[twin]), "optimizer"))
    for expected, seen, what in pairs:
        differences = compare(describe(expected), describe(seen), ignore=ignored)
        if differences:
            return replace(mismatch(differences), facets=(what,))
    return Outcome(kind="ok")


def elsewhere(cell: Cell, bench: Bench) -> Outcome:
    """Save a run on one device and go on on another: everything arrives bit by bit, where it belongs.

    The numbers that follow are another device's, and are not compared.
    """
    saved, going_on = (DEVICES[name] for name in cell["going_on"].removeprefix("from-").split("-to-"))
    lacking = [device for device in (saved, going_on) if not here(device)]
    if lacking:
        return Outcome(kind="skipped", message=f"{lacking[0]} is not on this machine")
    return moved(cell, bench, saved, going_on)


def moved(cell: Cell, bench: Bench, saved: str, going_on: str) -> Outcome:
    """The same for two devices that are there."""
    example, who = bench.example, bench.implementations["compat"]
    if example.fresh is None or who.save_run is None or who.load_run is None:
        return Outcome(kind="skipped", message="no module to train")
    path = bench.place(cell["format"])
    try:
        straight = trainings.start_on(saved, example.fresh(), example.inputs, optimizer=cell["optimizer"])
        straight.run(STEPS)
    except Exception as error:  # noqa: BLE001 - the module is not one to train
        return Outcome(kind="skipped", message=f"cannot be trained: {error!s:.120}")
    try:
        who.save_run(straight, path, WriteMode(format=cell["format"]))
        resumed = trainings.start_on(going_on, blank(example.fresh()), example.inputs, optimizer=cell["optimizer"])
        who.load_run(resumed, path)
    except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
        return failure(error, who, "read" if path.exists() else "write", path)
    straight.losses.clear()
    outcome = went_on(straight, resumed, ignored=_RUN_IGNORES | {"device"})
    astray = trainings.astray(resumed)
    if outcome.kind != "ok":
        return outcome
    if astray:
        said = f"{astray[0]} is not where its parameter is"
        return Outcome(kind="mismatch", stage="compare", message=said, facets=("device",))
    try:
        resumed.run(STEPS)
    except Exception as error:  # noqa: BLE001 - whatever is raised is the outcome
        return Outcome(kind="crashed", stage="run", message=str(error)[:300], error_type=type(error).__name__)
    return Outcome(kind="ok")
