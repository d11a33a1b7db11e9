"""The states of all random number generators, as plain values that every torch loads with `weights_only=True`."""

from __future__ import annotations

import random
import sys
from typing import Any

from compat.errors import Mismatch


def rng_states() -> dict[str, Any]:
    """The states of Python's generator, numpy's global one when numpy is in use, torch's, and each CUDA device's."""
    import torch

    version, numbers, gauss = random.getstate()
    states: dict[str, Any] = {
        "python": {"version": version, "state": list(numbers), "gauss_next": gauss},
        "torch": torch.get_rng_state(),
        # Asking for them starts CUDA, which a run that does not use it should not pay for.
        "cuda": torch.cuda.get_rng_state_all() if _uses_cuda(torch) else [],
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        name, keys, position, has_gauss, cached = numpy.random.get_state()
        states["numpy"] = {
            "name": str(name),
            "keys": [int(key) for key in keys],
            "pos": int(position),
            "has_gauss": int(has_gauss),
            "cached_gaussian": float(cached),
        }
    return states


def _uses_cuda(torch: Any) -> bool:
    return bool(torch.cuda.is_available() and torch.cuda.is_initialized())


def set_rng_states(states: dict[str, Any], source: str) -> list[str]:
    """Continue all generators where they were.

    Returns:
        What could not be continued here, in words.

    Raises:
        Mismatch: these are no states of generators.
    """
    import torch

    notes: list[str] = []
    try:
        python = states["python"]
        random.setstate((python["version"], tuple(python["state"]), python["gauss_next"]))
        torch.set_rng_state(states["torch"].cpu())
        if "numpy" in states:
            notes += _set_numpy(states["numpy"])
        cuda = states.get("cuda", [])
        here = torch.cuda.device_count() if torch.cuda.is_available() else 0
        for number, state in enumerate(cuda[:here]):
            torch.cuda.set_rng_state(state.cpu(), number)
        if len(cuda) > here:
            notes.append(f"it has generators of {len(cuda)} CUDA devices, and here are {here}")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise Mismatch(f"its states of random generators are damaged: {error!s:.120}", source=source) from error
    return notes


def _set_numpy(state: dict[str, Any]) -> list[str]:
    try:
        import numpy as np
    except ImportError:
        return ["it has the state of numpy's generator, and numpy is not installed here"]
    np.random.set_state(  # noqa: NPY002 - the global generator is the one that training scripts use
        (
            state["name"],
            np.array(state["keys"], dtype=np.uint32),
            state["pos"],
            state["has_gauss"],
            state["cached_gaussian"],
        )
    )
    return []
