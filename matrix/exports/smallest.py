"""The smallest module that fails as a drawn one did: layers are left out while it still fails in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from matrix.modulespec import LayerSpec, ModuleSpec

# Containers whose children can go one by one.
_CONTAINERS: Final = ("Sequential", "Added")
# Options that have a simpler value.
_SIMPLER: Final = {
    "num_layers": 1,
    "bidirectional": False,
    "layers": 1,
    "masked": False,
    "causal": False,
    "dilation": 1,
}
_TRIES: Final = 40
_SECONDS: Final = 60.0


def smallest(spec: ModuleSpec, fails: Callable[[ModuleSpec], bool]) -> ModuleSpec:
    """The smallest module that can be found in a minute.

    Args:
        spec: one that fails.
        fails: whether another one fails in the same way.
    """
    started, tries = time.monotonic(), 0
    shrunk = True
    while shrunk:
        shrunk = False
        for layer in _simpler(spec.layer):
            tries += 1
            if tries > _TRIES or time.monotonic() - started > _SECONDS:
                return spec
            trial = replace(spec, layer=layer)
            if fails(trial):
                spec, shrunk = trial, True
                break
    return spec


def _simpler(layer: LayerSpec) -> Iterator[LayerSpec]:
    """Layers that are a step simpler than one, the simplest first."""
    if layer.kind in _CONTAINERS:
        yield from (child for _, child in layer.children)
        if len(layer.children) > 1:
            for left_out in range(len(layer.children)):
                kept = [child for number, (_, child) in enumerate(layer.children) if number != left_out]
                named = tuple((str(number), child) for number, child in enumerate(kept))
                yield replace(layer, children=named)
    for number, (name, value) in enumerate(layer.options):
        if name in _SIMPLER and value != _SIMPLER[name]:
            yield replace(
                layer,
                options=(*layer.options[:number], (name, _SIMPLER[name]), *layer.options[number + 1 :]),
            )
    for number, (name, child) in enumerate(layer.children):
        for simpler in _simpler(child):
            yield replace(layer, children=(*layer.children[:number], (name, simpler), *layer.children[number + 1 :]))
