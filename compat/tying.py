"""Parameters that stand in a module under several names, and stay one object whatever is loaded."""

from __future__ import annotations

from typing import Any

# For each parameter or buffer of several places: the places, each as (the table that holds it, its name there).
Ties = list[list[tuple[dict[str, Any], str]]]


def ties_of(module: Any) -> Ties:
    """Every place of every parameter and buffer that has more than one."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = {}
    seen: set[int] = set()
    for part in module.modules():
        for table in (part._parameters, part._buffers):  # noqa: SLF001 - where a module keeps them
            if id(table) in seen:
                continue
            seen.add(id(table))
            for name, tensor in table.items():
                if tensor is not None:
                    places.setdefault(id(tensor), []).append((table, name))
    return [found for found in places.values() if len(found) > 1]


def tie_again(ties: Ties) -> None:
    """Put one object into all places again, where loading put one into each."""
    for places in ties:
        table, name = places[0]
        for other, other_name in places[1:]:
            other[other_name] = table[name]
