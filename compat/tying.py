"""Parameters that stand in a module under several names, and stay one object whatever is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compat.untyped import untyped_storage


@dataclass(frozen=True, slots=True)
class Tie:
    """One parameter or buffer in several places.

    Attributes:
        tensor: what stands there.
        places: (the table that holds it, its name there).
    """

    tensor: Any
    places: list[tuple[dict[str, Any], str]]


def ties_of(module: Any) -> list[Tie]:
    """Every parameter and buffer that has more than one place."""
    found: dict[int, Tie] = {}
    seen: set[int] = set()
    for part in module.modules():
        for table in (part._parameters, part._buffers):  # noqa: SLF001 - where a module keeps them
            # Script modules keep theirs in C++, and make a new object whenever they are asked.
            if id(table) in seen or not isinstance(table, dict):
                continue
            seen.add(id(table))
            for name, tensor in table.items():
                if tensor is not None:
                    found.setdefault(id(tensor), Tie(tensor, [])).places.append((table, name))
    return [tie for tie in found.values() if len(tie.places) > 1]


def tie_again(ties: list[Tie]) -> None:
    """Put one object into all places again, where loading put another into some of them."""
    for tie in ties:
        given = [table[name] for table, name in tie.places if table[name] is not tie.tensor]
        for table, name in tie.places if given else ():
            table[name] = given[-1]


def groups(state: Mapping[str, Any]) -> list[list[str]]:
    """The keys of a state_dict that show the same elements of the same storage."""
    found: dict[Any, list[str]] = {}
    for key, value in state.items():
        view = _view(value)
        if view is not None:
            found.setdefault(view, []).append(key)
    return [keys for keys in found.values() if len(keys) > 1]


def _view(value: Any) -> Any:
    try:
        storage = untyped_storage(value)
        return storage._cdata, value.storage_offset(), tuple(value.shape), value.stride()  # noqa: SLF001 - its identity
    except (AttributeError, NotImplementedError, RuntimeError, ValueError):
        # No tensor, or one without a storage of its own: sparse, not yet initialised.
        return None


def same_values(a: Any, b: Any) -> bool:
    """Whether two tensors have the same bytes."""
    import torch

    if a is b or any(tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta for tensor in (a, b)):
        return True
    left, right = (t.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1) for t in (a, b))
    return bool(left.dtype == right.dtype and left.view(torch.uint8).equal(right.view(torch.uint8)))
