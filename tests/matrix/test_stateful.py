"""The machine that does with checkpoints what people do: compat passes it, and broken stand-ins do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import compat
from compat import formats
from matrix.stateful import machine_of

SUFFIXES = {
    found.name: found.suffixes[0]
    for found in formats.all_formats()
    if found.writable and found.capabilities.containers and found.capabilities.aliasing
}
SUMMED = frozenset({"torch-zip", "torch-sharded", "npz"})


def library(**changed: Any) -> Any:
    names = ("save", "load", "convert", "add_prefix", "strip_prefix")
    return SimpleNamespace(**{name: changed.get(name, getattr(compat, name)) for name in names})


def run(lib: Any, examples: int) -> None:
    machine = machine_of(lib, {"torch-zip": SUFFIXES["torch-zip"], **SUFFIXES}, SUMMED)
    options = settings(
        max_examples=examples,
        stateful_step_count=12,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=options)


def test_whatever_is_done_module_and_files_agree() -> None:
    run(library(), 60)


def by_reference() -> tuple[Any, Any]:
    """A library that keeps what it is given instead of a copy, as people keep their best model."""
    kept: dict[str, Any] = {}

    def save(state: Any, path: Any, **options: Any) -> None:
        compat.save(state, path, **options)
        kept[str(path)] = state

    return save, lambda path: kept.get(str(path)) or compat.load(path)


@pytest.mark.parametrize(
    "defect", ["follows the training", "reads damage", "changes what it loads into", "strips too much"]
)
def test_a_broken_library_is_caught(defect: str) -> None:
    save, load = by_reference()
    broken = {
        "follows the training": {"save": save, "load": load},
        "reads damage": {"load": _patient},
        "changes what it loads into": {"save": _shuffles},
        "strips too much": {"strip_prefix": lambda state: compat.strip_prefix(state, "0.")},
    }[defect]
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the machine fails with, it must fail
        run(library(**broken), 40)


def _patient(path: Any) -> Any:
    """A reader that makes up what it cannot read."""
    try:
        return compat.load(path)
    except compat.CompatError:
        return {"made.up": torch.zeros(1)}


def _shuffles(state: Any, path: Any, **options: Any) -> None:
    """A writer that rounds in place what it is given."""
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.round())
    compat.save(state, path, **options)
