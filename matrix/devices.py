"""Tensors on devices: where a cell's were saved, and where map_location says that they come back.

Without a GPU a file of one can still be written: torch notes a storage's device as text, and here it is told what
text that is. Everything else in such a file is what a GPU's would have, and reading it is no different.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import torch

from matrix.spec import CheckpointSpec

# The names of devices on the axes.
DEVICES: Final = MappingProxyType({"cpu": "cpu", "cuda0": "cuda:0", "cuda1": "cuda:1"})
# What is passed as map_location for each value of the axis `moved`, and where that puts what was saved on a device.
MOVES: Final[Mapping[str, tuple[Any, Callable[[str], str]]]] = MappingProxyType(
    {
        "as-saved": (None, lambda saved: saved),
        "to-cpu": ("cpu", lambda _: "cpu"),
        "to-cuda0": (torch.device("cuda:0"), lambda _: "cuda:0"),
        "to-cuda1": ("cuda:1", lambda _: "cuda:1"),
        "dict-index": ({"cuda:1": "cuda:0"}, lambda saved: "cuda:0" if saved == "cuda:1" else saved),
        "dict-cpu": ({"cuda:0": "cpu", "cuda:1": "cpu"}, lambda _: "cpu"),
        "function-cpu": (lambda storage, _location: storage, lambda _: "cpu"),
        "function-cuda1": (lambda storage, _location: storage.cuda(1), lambda _: "cuda:1"),
    }
)

_told: ContextVar[str | None] = ContextVar("device", default=None)


def here(device: str) -> bool:
    """Whether this machine has a device."""
    kind, _, index = device.partition(":")
    return kind == "cpu" or (torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count())


def on(spec: CheckpointSpec, device: str) -> CheckpointSpec:
    """The same state on another device."""
    return replace(spec, storages=tuple(replace(storage, device=device) for storage in spec.storages))


@contextlib.contextmanager
def noted_as(device: str) -> Iterator[None]:
    """Let torch note that storages are on a device that they are not on."""
    token = _told.set(device)
    try:
        yield
    finally:
        _told.reset(token)


# Asked before torch's own; outside `noted_as` it says nothing, and it never restores.
torch.serialization.register_package(0, lambda _storage: _told.get(), lambda _storage, _location: None)
