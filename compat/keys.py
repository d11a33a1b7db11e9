"""Key prefixes and renames, as data: `_metadata` is renamed along, collisions are refused.

The state may hold live tensors or records; only its keys are looked at.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from compat.errors import KeyCollision

Value = TypeVar("Value")
# A regular expression, searched for in keys, and what replaces it.
Rule = tuple[str | re.Pattern[str], str]

# Wrappers that also mark parts inside a model: their names are never names people choose.
INSIDE: Final = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning's strategies",
}
# What wrappers put in front of every key of the module they hold.
WRAPPERS: Final = {
    "module": "DataParallel, DistributedDataParallel, and others that hold a model as .module",
    **INSIDE,
}


def detect_prefix(keys: Iterable[object]) -> str:
    """The wrappers that all keys begin with, in their order, such as `module._orig_mod.`; "" where there are none."""
    texts = [key for key in keys if isinstance(key, str)]
    prefix = ""
    while texts:
        found = next(
            (
                w
                for w in WRAPPERS
                if all(t.startswith(f"{prefix}{w}.") and len(t) > len(f"{prefix}{w}.") for t in texts)
            ),
            None,
        )
        if found is None:
            break
        prefix += f"{found}."
    return prefix


def strip_prefix(state: Mapping[Any, Value], prefix: str | None = "auto") -> OrderedDict[Any, Value]:
    """A copy of a state without a prefix; keys that do not begin with it stay as they are.

    Args:
        state: keys and values; a `_metadata` attribute is renamed along.
        prefix: the prefix with its dot, such as `module.`; "auto" for the wrappers that all keys begin with,
            and what they put inside, such as `_orig_mod.`, wherever it stands; None or "" for a plain copy.

    Raises:
        KeyCollision: two keys would become one.
    """
    if prefix == "auto":
        found = detect_prefix(state or _as_keys(state))
        return _without_wrapper(state, rename(state, lambda key: drop_inside(_without(key, found))), found)
    return _without_wrapper(state, rename(state, lambda key: _without(key, prefix or "")), prefix or "")


def _without_wrapper(state: Mapping[Any, Value], made: OrderedDict[Any, Value], prefix: str) -> OrderedDict[Any, Value]:
    """A stripped state whose root has no version of its own does not get its wrapper's."""
    before = getattr(state, "_metadata", None)
    if prefix and isinstance(before, Mapping) and prefix.removesuffix(".") not in before:
        vars(made)["_metadata"].pop("", None)
    return made


def _as_keys(empty: Mapping[Any, Any]) -> list[str]:
    """The modules of a state without keys, as `_metadata` has them, each as if it had one."""
    metadata = getattr(empty, "_metadata", None)
    return [f"{name}.key" for name in metadata if name] if isinstance(metadata, Mapping) else []


def add_prefix(state: Mapping[Any, Value], prefix: str) -> OrderedDict[Any, Value]:
    """A copy of a state with `prefix` in front of every text key, as a wrapped module would have it.

    `_metadata`, where there is one, gets an entry of version 1 for each wrapper, as torch writes them.
    """
    made = rename(state, lambda key: f"{prefix}{key}")
    metadata = getattr(made, "_metadata", None)
    if metadata is not None and prefix:
        steps = prefix.rstrip(".").split(".")
        wrapped: OrderedDict[str, Any] = OrderedDict(
            (".".join(steps[:depth]), {"version": 1}) for depth in range(len(steps))
        )
        wrapped.update(metadata)
        vars(made)["_metadata"] = wrapped
    return made


def _without(key: str, prefix: str) -> str:
    """A key without a prefix; a wrapper's own module name, which ends with a dot, becomes the root's."""
    return "" if key.endswith(".") and prefix.startswith(key) else key.removeprefix(prefix)


def drop_inside(key: str) -> str:
    """A key without the steps that wrappers put inside a model."""
    parts = key.split(".")
    return key if INSIDE.keys().isdisjoint(parts) else ".".join(part for part in parts if part not in INSIDE)


def rename(state: Mapping[Any, Value], new_name: Callable[[str], str]) -> OrderedDict[Any, Value]:
    """A copy of a state whose text keys are renamed by a function; values are not copied.

    Raises:
        KeyCollision: two keys would become one.
    """
    made: OrderedDict[Any, Value] = OrderedDict()
    origins: dict[Any, list[str]] = {}
    for key, value in state.items():
        renamed = new_name(key) if isinstance(key, str) else key
        origins.setdefault(renamed, []).append(str(key))
        made[renamed] = value
    collisions = {str(key): claimants for key, claimants in origins.items() if len(claimants) > 1}
    if collisions:
        raise KeyCollision(collisions)
    attributes = dict(getattr(state, "__dict__", {}))
    metadata = attributes.get("_metadata")
    if isinstance(metadata, dict):
        attributes["_metadata"] = _rename_metadata(metadata, new_name, _moved(origins))
    vars(made).update(attributes)
    return made


def rename_by(state: Mapping[Any, Value], rules: Iterable[Rule]) -> tuple[OrderedDict[Any, Value], list[str]]:
    """A copy of a state renamed by rules, one after the other, and the rules that changed no key.

    Raises:
        KeyCollision: two keys would become one.
    """
    made = rename(state, lambda key: key)
    idle = []
    for pattern, replacement in rules:
        before = list(made)
        made = rename(made, lambda key, p=pattern, r=replacement: re.sub(p, r, key))  # type: ignore[misc]  # bound
        if before and before == list(made):
            idle.append(pattern if isinstance(pattern, str) else pattern.pattern)
    return made, idle


def _moved(origins: Mapping[Any, list[str]]) -> dict[str, str]:
    """Old module → new module, where all keys directly in the one are now directly in the other."""
    found: dict[str, set[str]] = {}
    for new, (old, *_) in origins.items():
        if isinstance(new, str):
            found.setdefault(old.rpartition(".")[0], set()).add(new.rpartition(".")[0])
    return {old: next(iter(new)) for old, new in found.items() if len(new) == 1}


def _rename_metadata(
    metadata: dict[Any, Any], new_name: Callable[[str], str], moved: Mapping[str, str]
) -> OrderedDict[Any, Any]:
    """`_metadata` is keyed by module, `conv` for the keys `conv.weight` and `conv.bias`, and "" for the root.

    Where a wrapper's entry and the wrapped module's entry meet, the wrapped one stays: it has the version
    that matters. A module whose keys were renamed one by one goes where they went.
    """
    made: OrderedDict[Any, Any] = OrderedDict()
    taken = {"", *metadata}
    for module, facts in metadata.items():
        if not isinstance(module, str):
            made[module] = facts
            continue
        # The root of a model becomes what its wrapper calls it, with the version that its own loading code asks for.
        renamed = new_name(f"{module}." if module else "").removesuffix(".")
        if renamed == module and module and moved.get(module, "") not in taken:
            renamed = moved[module]
        made.pop(renamed, None) if module else None
        made[renamed] = facts
    return made
