"""What is done to a state before it is loaded into a module, and what must come of that, by torch alone."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import torch

_COUNTER: Final = "num_batches_tracked"


class NotMutableError(Exception):
    """A state that has nothing to change in this way."""


def _with(state: Any, items: list[tuple[str, Any]]) -> Any:
    made = OrderedDict(items)
    vars(made).update(vars(state))
    return made


def _chosen(state: Any, seed: int) -> str:
    """A tensor with at least one dimension and one element."""
    found = [
        k for k, t in state.items() if isinstance(t, torch.Tensor) and t.ndim and t.numel() and t.is_floating_point()
    ]
    if not found:
        raise NotMutableError("the state has no tensor to change")
    return str(found[seed % len(found)])


def _missing(state: Any, seed: int) -> Any:
    gone = _chosen(state, seed)
    return _with(state, [(k, v) for k, v in state.items() if k != gone])


def _extra(state: Any, _seed: int) -> Any:
    return _with(state, [*state.items(), ("head.extra", torch.ones(2))])


def _renamed(state: Any, seed: int) -> Any:
    old = _chosen(state, seed)
    return _with(state, [(f"{k}_old" if k == old else k, v) for k, v in state.items()])


def _shape(state: Any, seed: int) -> Any:
    changed = _chosen(state, seed)
    return _with(state, [(k, torch.cat([v, v]) if k == changed else v) for k, v in state.items()])


def _dtype(state: Any, seed: int) -> Any:
    changed = _chosen(state, seed)
    return _with(state, [(k, v.double() if k == changed else v) for k, v in state.items()])


MUTATIONS: Final[MappingProxyType[str, Callable[[Any, int], Any]]] = MappingProxyType(
    {
        "as-it-is": lambda state, _seed: state,
        "missing": _missing,
        "extra": _extra,
        "renamed": _renamed,
        "shape": _shape,
        "dtype": _dtype,
        "lost-metadata": lambda state, _seed: dict(state),
        "wrapped": lambda state, _seed: {"epoch": 3, "state_dict": state},
        "prefixed": lambda state, _seed: _with(state, [(f"module.{k}", v) for k, v in state.items()]),
    }
)


@dataclass(slots=True, kw_only=True)
class Expected:
    """What must come of loading.

    Attributes:
        refused: whether it must be refused, and change nothing.
        missing, unexpected, mismatched: the keys to be named.
        warned: whether a loss must be told of.
        state: what the module holds afterwards.
    """

    refused: bool
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    warned: bool = False
    state: dict[str, Any] = field(default_factory=dict)


def _twins(module: torch.nn.Module) -> dict[str, set[str]]:
    """For each parameter or buffer, all the names of it: what is loaded by one of them is not missing by another."""
    # Not named_parameters: before torch 2.0 it gives one name of each.
    named = [
        (f"{path}.{name}" if path else name, tensor)
        for path, part in module.named_modules(remove_duplicate=False)
        for held in (part._parameters, part._buffers)  # noqa: SLF001 - as above
        for name, tensor in held.items()
        if tensor is not None
    ]
    names: dict[int, set[str]] = {}
    for name, tensor in named:
        names.setdefault(id(tensor), set()).add(name)
    return {name: names[id(tensor)] for name, tensor in named}


def expected(module: torch.nn.Module, original: Any, mutated: Any, mutation: str, strictness: str) -> Expected:
    """What torch's own rules say of loading a mutated state into a module, which is loaded here.

    Args:
        module: a module of its own, with the values that the one under test has.
        original: the state before it was changed.
        mutated: the state.
        mutation: a name of `MUTATIONS`.
        strictness: `strict`, `loose`, or `skip`, which is loose and leaves other shapes out.
    """
    flat = original if mutation in ("wrapped", "prefixed") else mutated
    own = module.state_dict()
    mismatched = [
        k
        for k, v in flat.items()
        if isinstance(own.get(k), torch.Tensor) and isinstance(v, torch.Tensor) and own[k].shape != v.shape
    ]
    twins = _twins(module)
    missing = [k for k in own if not twins.get(k, {k}) & set(flat) and not k.endswith(_COUNTER)]
    unexpected = [k for k in flat if k not in own]
    differs = bool(missing or unexpected or mismatched)
    refused = (strictness == "strict" and differs) or (bool(mismatched) and strictness != "skip")
    if not refused:
        fitting = OrderedDict((k, v) for k, v in flat.items() if k not in mismatched)
        vars(fitting).update(getattr(flat, "__dict__", {}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module.load_state_dict(fitting, strict=False)
    versioned = any((getattr(part, "_version", None) or 1) > 1 for part in module.modules())
    return Expected(
        refused=refused,
        missing=missing,
        unexpected=unexpected,
        mismatched=mismatched,
        warned=mutation == "lost-metadata" and versioned,
        state=module.state_dict(),
    )
