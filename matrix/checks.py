"""The checks: what is done in a cell with one example, and what came of it.

`roundtrip`: a state is written by one implementation and read back by another, by the modes of the cell.
Compared: everything a spec holds, and for modules the outputs of a fresh module with the loaded state, bit by
bit. Not compared: what the file looks like inside, and the time it takes.

`convert`: a file is converted to another format, and from there back to its own; nothing may be lost on the way
but the bytes that no tensor shows, where a format says so.

`resume`: a training run is saved, loaded into fresh objects, and goes on; the module, the optimizer and every loss
must be, bit by bit, those of the run that was not interrupted.

`transfer`: a state that was changed is loaded into a module. What torch's own rules refuse must be refused and change
nothing; else the module must hold what torch's would, and every key that differs must be named.
"""

from __future__ import annotations

import itertools
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from matrix import canary, trainings, transfers
from matrix.cells import Cell
from matrix.examples import Example
from matrix.implementations import IMPLEMENTATIONS, Implementation, ReadMode, Transferred, WriteMode
from matrix.outcomes import Outcome
from matrix.projections import bare_state, dense
from matrix.spec import CheckpointSpec, DictNode, Difference, ODictNode, compare
from matrix.tensors import build, describe

# Whose files are converted: compat's own, where no one else writes the format.
FOREIGN: Final = {"torch-legacy": "torch", "torch-zip": "torch"}
# How many steps a training run takes before it is saved, and after.
STEPS: Final = 2
# How state lies in memory is no part of a run.
_RUN_IGNORES: Final = frozenset({"storage-bytes", "storage-offset", "stride", "aliasing", "key-order"})
# What is not compared when a state comes back without data.
_META_IGNORES: Final = frozenset({"bytes", "storage-bytes"})


class Bench:
    """The work on one example: states are built and files are written once, for all cells that share them.

    Args:
        example: what is tried; folder: where files go.
        suffixes: format → suffix of its files; keeps_hidden: the formats that keep bytes no tensor shows.
        implementations: who writes and reads; other ones stand in for them in tests.
    """

    def __init__(
        self,
        example: Example,
        folder: Path,
        *,
        suffixes: Mapping[str, str],
        keeps_hidden: frozenset[str],
        projected: frozenset[str],
        implementations: Mapping[str, Implementation] = IMPLEMENTATIONS,
    ) -> None:
        self.example = example
        self.folder = folder
        self.suffixes = suffixes
        self.keeps_hidden = keeps_hidden
        self.projected = projected
        self.implementations = implementations
        self._states: dict[str, Any] = {}
        self._written: dict[tuple[str, ...], Path | Outcome] = {}
        self._outputs: list[torch.Tensor] | None = None
        self._places = itertools.count()

    def close(self) -> None:
        """Remove the files."""
        for path in self._written.values():
            if isinstance(path, Path):
                shutil.rmtree(path.parent)

    def base(self, prefix: str) -> CheckpointSpec | None:
        """What is given a prefix: for a real checkpoint, its bare state_dict; None where it has none."""
        return self.example.spec if prefix == "plain" else bare_state(self.example.spec)

    def prefixed(self, prefix: str) -> CheckpointSpec:
        """The example's spec with a prefix in front of every key."""
        base = self.base(prefix)
        if base is None or prefix == "plain":
            return self.example.spec
        return base.rename_keys(lambda key: prefix + key)

    def state(self, prefix: str) -> Any:
        """The live state."""
        if prefix not in self._states:
            self._states[prefix] = build(self.prefixed(prefix))
        return self._states[prefix]

    def place(self, format_: str) -> Path:
        """Where the next file of a format goes: into a folder of its own, for it may be several files."""
        folder = self.folder / str(next(self._places))
        folder.mkdir()
        return folder / f"example{self.suffixes[format_]}"

    def written(self, cell: Cell) -> Path | Outcome:
        """The file of a cell, or what came of writing it."""
        return self.write(cell["format"], cell["writer"], cell["protocol"], cell["prefix"])

    def write(self, format_: str, writer: str, protocol: str = "p2", prefix: str = "plain") -> Path | Outcome:
        """The file that a writer made of the example, or what came of writing it."""
        key = (format_, writer, protocol, prefix)
        if key not in self._written:
            path = self.place(format_)
            who = self.implementations[writer]
            mode = WriteMode(format=format_, protocol=int(protocol.removeprefix("p")))
            try:
                who.write(self.state(prefix), path, mode)
                self._written[key] = path
            except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
                self._written[key] = failure(error, who, "write", path)
        return self._written[key]

    def converted(self, format_: str, via: str) -> Path | Outcome:
        """The file that came of converting the example's file to another format, or what came of that."""
        key = (format_, "convert", via)
        if key not in self._written:
            source = self.write(format_, FOREIGN.get(format_, "compat"))
            self._written[key] = source if isinstance(source, Outcome) else self.convert(source, via)
        return self._written[key]

    def convert(self, source: Path, format_: str) -> Path | Outcome:
        """A file converted to a format, or what came of that."""
        converter = self.implementations["compat"]
        if converter.convert is None:
            return Outcome(kind="skipped", message="no converter")
        target = self.place(format_)
        try:
            converter.convert(source, target, WriteMode(format=format_))
        except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
            return failure(error, converter, "convert", target)
        return target

    def outputs(self) -> list[torch.Tensor]:
        """What the example's own module puts out."""
        if self._outputs is None:
            if self.example.fresh is None or self.example.forward is None:
                return []
            self._outputs = self.example.forward(self.example.fresh())
        return self._outputs


def failure(error: BaseException, who: Implementation, stage: str, path: Path) -> Outcome:
    """The outcome of an exception: a refusal where it says no, a crash where it is anything else."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, TimeoutError):
        return Outcome(kind="timeout", stage=stage, message=str(error))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return Outcome(
        kind="refused" if who.refuses(error) else "crashed",
        stage=stage,
        message=lines[0].replace(str(path), "FILE")[:300] if lines else "",
        error_type=type(error).__name__,
    )


def roundtrip(cell: Cell, bench: Bench) -> Outcome:
    """Write and read back one example."""
    if bench.base(cell["prefix"]) is None:
        return Outcome(kind="skipped", message="holds no state_dict whose keys could have a prefix")
    path = bench.written(cell)
    if isinstance(path, Outcome):
        return path
    reader = bench.implementations[cell["reader"]]
    mode = ReadMode(
        weights_only=cell["weights_only"] == "wo",
        mmap=cell["mmap"] == "mmap",
        map_location=cell["map_location"],
    )
    try:
        loaded = reader.read(path, mode)
        if cell["prefix"] != "plain":
            loaded = stripped(loaded)
    except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
        return failure(error, reader, "read", path)
    expected, ignored = promised(cell, bench)
    differences = compare(expected, describe(loaded), ignore=ignored)
    if differences:
        return mismatch(differences)
    if mode.map_location == "meta":
        return Outcome(kind="ok")
    return forwarded(loaded, bench, strict=not projects(cell, bench))


def mismatch(differences: Sequence[Difference]) -> Outcome:
    """The outcome of what came back otherwise."""
    return Outcome(
        kind="mismatch",
        stage="compare",
        message=str(differences[0])[:400],
        facets=tuple(sorted({difference.facet for difference in differences})),
    )


def stripped(loaded: Any) -> Any:
    """A loaded state without the wrappers' prefix, as a user gets it from compat."""
    import compat

    return compat.strip_prefix(loaded) if isinstance(loaded, dict) else loaded


def projects(cell: Cell, bench: Bench) -> bool:
    """Whether the reader finds named dense arrays alone: the tree around them is compat's."""
    return cell["writer"] == "compat" and cell["reader"] != "compat" and cell["format"] in bench.projected


def promised(cell: Cell, bench: Bench) -> tuple[CheckpointSpec, frozenset[str]]:
    """What must come back, and the facets in which nothing is promised."""
    expected, ignored = bench.base(cell["prefix"]) or bench.example.spec, frozenset[str]()
    if projects(cell, bench):
        expected, ignored = dense(expected), frozenset({"key-order"})
    if cell["prefix"] != "plain" and isinstance(expected.tree, DictNode):
        # Stripping gives an OrderedDict, whatever it was given.
        metadata = expected.tree.metadata if isinstance(expected.tree, ODictNode) else None
        expected = replace(expected, tree=ODictNode(items=expected.tree.items, metadata=metadata))
    if cell["format"] not in bench.keeps_hidden:
        ignored |= {"storage-bytes"}
    if cell["map_location"] == "meta":
        storages = tuple(replace(storage, data=b"", device="meta") for storage in expected.storages)
        expected, ignored = CheckpointSpec(storages=storages, tree=expected.tree), ignored | _META_IGNORES
    return expected, ignored


def forwarded(loaded: Any, bench: Bench, *, strict: bool) -> Outcome:
    """Load a state into a fresh module and compare its outputs, bit by bit.

    Where a format keeps one name of several for tied weights, not all keys can be asked for.
    """
    example = bench.example
    if example.fresh is None or example.forward is None:
        return Outcome(kind="ok")
    try:
        module = blank(example.fresh())
        module.load_state_dict(loaded, strict=strict)
        seen, expected = example.forward(module), bench.outputs()
    except Exception as error:  # noqa: BLE001 - whatever is raised is the outcome
        return Outcome(kind="crashed", stage="forward", message=str(error)[:300], error_type=type(error).__name__)
    differences = compare(describe(expected), describe(seen))
    if differences:
        return Outcome(kind="mismatch", stage="forward", message=str(differences[0])[:400], facets=("forward",))
    return Outcome(kind="ok")


def blank(module: torch.nn.Module) -> torch.nn.Module:
    """A module whose state was overwritten, so that what is not loaded shows in its outputs."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tensor in module.state_dict().values():
            if isinstance(tensor, torch.Tensor):
                tensor.zero_()
    return module


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


def resume(cell: Cell, bench: Bench) -> Outcome:
    """Interrupt a training run, and compare what comes of it with the run that went on."""
    example, who = bench.example, bench.implementations["compat"]
    if example.fresh is None or who.save_run is None or who.load_run is None:
        return Outcome(kind="skipped", message="no module to train")
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


def went_on(straight: trainings.Training, resumed: trainings.Training) -> Outcome:
    """Compare two runs, the second of which was interrupted."""
    pairs = [
        (straight.module.state_dict(), resumed.module.state_dict(), "module"),
        (straight.losses[-STEPS:], resumed.losses, "losses"),
        (straight.step, resumed.step, "step"),
    ]
    for parameter, twin in zip(straight.module.parameters(), resumed.module.parameters(), strict=True):
        pairs.append((dict(straight.optimizer.state[parameter]), dict(resumed.optimizer.state[twin]), "optimizer"))
    for expected, seen, what in pairs:
        differences = compare(describe(expected), describe(seen), ignore=_RUN_IGNORES)
        if differences:
            return replace(mismatch(differences), facets=(what,))
    return Outcome(kind="ok")


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


CHECKS: Final[Mapping[str, Callable[[Cell, Bench], Outcome]]] = MappingProxyType(
    {"convert": convert, "inert": inert, "resume": resume, "roundtrip": roundtrip, "transfer": transfer}
)
