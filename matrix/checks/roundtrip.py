"""`roundtrip`: a state is written by one implementation and read back by another, by the modes of the cell.

Compared: everything a spec holds, and for modules the outputs of a fresh module with the loaded state, bit by
bit. Not compared: what the file looks like inside, and the time it takes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from matrix.cells import Cell
from matrix.checks._bench import Bench, blank, failure, mismatch
from matrix.implementations import ReadMode
from matrix.outcomes import Outcome
from matrix.projections import dense
from matrix.spec import CheckpointSpec, DictNode, ODictNode, compare
from matrix.tensors import describe

# What is not compared when a state comes back without data.
_META_IGNORES: Final = frozenset({"bytes", "storage-bytes"})


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
