"""Which part of a checkpoint holds the weights: found by what it is, asked for by name, never guessed.

A checkpoint may be a state_dict, or a dict that holds one or several of them beside an optimizer, counters and
random states. What training keeps beside the weights is no candidate, whatever tensors it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from compat.checkpoint import Composite, TensorRecord
from compat.errors import Mismatch, brief
from compat.recovery import is_module, recover

# Where training scripts put the weights.
WRAPPER_KEYS: Final = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "params_ema",
    "ema",
    "ema_state_dict",
)
# Words of which such keys are made: `state_dict_ema`, `teacher.module`, `generator_state_dict`.
_WEIGHTS: Final = frozenset(
    {"state", "dict", "model", "models", "module", "net", "network", "weights", "params", "ema", "swa", "teacher"}
)
# What training keeps beside the weights: all of it may hold tensors.
_TRAINING: Final = re.compile(r"optim|sched|scaler|grad|loss|criterion|metric|(^|_)(amp|rng|random|hyper|args|config)")
_EXTRA: Final = "_extra_state"
# How deep states are looked for, and how many containers are looked at.
_DEEPEST: Final = 3
_MOST: Final = 10_000
_SHOWN: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The weights of a checkpoint.

    Attributes:
        state: the state_dict, as it is in the tree.
        key: the steps that lead to it, with dots between them; "" where the tree is one itself.
        path: these steps.
        recovered: whether the tree holds a pickled module there.
        notes: what is to be known of it, in words.
    """

    state: Any
    key: str = ""
    path: tuple[Any, ...] = ()
    recovered: bool = False
    notes: list[str] = field(default_factory=list)


def find(tree: Any, key: str | None = None, *, source: str = "") -> Found:
    """The state_dict of a checkpoint.

    A whole pickled module counts as the state_dict that it would give; see `compat.recovery`.

    Args:
        tree: what the checkpoint holds, as records or as live objects.
        key: what leads to the weights, such as `model` or `ema.module`, "" for the tree itself; None finds them.
        source: the file's name, for messages.

    Raises:
        Mismatch: there are none, there are several to choose from, or `key` does not lead to any.
    """
    if key is not None:
        return _asked_for(tree, key, source)
    everything = list(_candidates(tree))
    known = [(path, value) for path, value in everything if _is_known(path)]
    candidates = known or everything
    nearest = min((len(path) for path, _ in candidates), default=0)
    candidates = [(path, value) for path, value in candidates if len(path) == nearest]
    if not candidates and (tree == {} or _is_state(tree)):
        return _unwrapped(tree, ())
    if not known and candidates and _holds_weights(tree):
        candidates.insert(0, ((), tree))
    if not candidates:
        candidates = [((name,), value) for name, value in _empty(tree)]
    if len(candidates) == 1:
        path, value = candidates[0]
        found = _unwrapped(value, path)
        others = [".".join(other) for other, _ in everything if other != path]
        found.notes.extend([f"other weights lie at {_listed(others)}"] if others else [])
        return found
    if candidates:
        keys = [".".join(path) for path, _ in candidates]
        raise Mismatch(
            f"holds several states: {_listed(keys)}",
            source=source,
            expected="one",
            hint=f"Say which: key={keys[0]!r}.",
        )
    raise Mismatch(
        f"holds no state_dict at its top or below it, but {type(tree).__name__}{_keys_of(tree, ' of ')}",
        source=source,
        expected="a dict of tensors by name",
    )


def _is_state(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return is_module(value)
    # What `state_dict()` gives says so itself, also where a module has no parameters.
    return hasattr(value, "_metadata") or any(map(_is_tensor, value.values()))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (TensorRecord, Composite)) or hasattr(value, "storage_offset")


def _holds_weights(tree: Any) -> bool:
    """Whether tensors lie directly in a dict that also holds states, other than what training keeps there."""
    return any(_is_tensor(value) and not _TRAINING.search(str(name).lower()) for name, value in tree.items())


def _candidates(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every state below a tree that is not part of another, with the keys that lead to it, in order."""
    entered: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    for _ in range(_MOST):
        if not waiting:
            return
        path, node = waiting.pop(0)
        if path and _is_state(node) and not any(_below(node)):
            yield path, node
        # Containers may hold each other many times over.
        elif len(path) < _DEEPEST and id(node) not in entered and _may_hold_states(node):
            entered.add(id(node))
            waiting += [((*path, name), value) for name, value in _inside(node)]


def _may_hold_states(node: Any) -> bool:
    return isinstance(node, Mapping) and "param_groups" not in node and not hasattr(node, "_metadata")


def _inside(node: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The containers of a dict that may hold weights."""
    for name, value in node.items():
        if not isinstance(name, str) or name.endswith(_EXTRA) or _TRAINING.search(name.lower()):
            continue
        if isinstance(value, Mapping) or is_module(value):
            yield name, value


def _below(node: Any) -> Iterator[Any]:
    """The states directly inside a dict, which is then a checkpoint with a tensor in it, such as its loss."""
    if _may_hold_states(node):
        yield from (value for _, value in _inside(node) if _is_state(value))


def _is_known(path: tuple[str, ...]) -> bool:
    name = path[-1].lower()
    return name in WRAPPER_KEYS or bool(_WEIGHTS & set(re.split(r"[^a-z]+", name)))


def _empty(tree: Any) -> Iterator[tuple[str, Any]]:
    """The places of a state_dict without a tensor: that of a module without parameters."""
    if isinstance(tree, Mapping):
        yield from ((name, tree[name]) for name in WRAPPER_KEYS if name in tree and tree[name] == {})


def _asked_for(tree: Any, key: str, source: str) -> Found:
    node, rest, path = tree, key, list[Any]()
    while rest:
        step = _step(node, rest)
        if step is None:
            where = f"below {'.'.join(map(str, path))!r}" if path else "at its top"
            raise Mismatch(
                f"has no key {rest!r} {where}; there is {_keys_of(node)}", source=source, hint="Name one of these."
            )
        path.append(int(step) if isinstance(node, (list, tuple)) else step)
        node, rest = node[path[-1]], rest[len(step) + 1 :]
    found = _unwrapped(node, tuple(path))
    if not isinstance(found.state, Mapping):
        raise Mismatch(
            f"{key!r} leads to {type(found.state).__name__}", source=source, expected="a dict of tensors by name"
        )
    return found


def _step(node: Any, rest: str) -> str | None:
    """The longest beginning of a key that is a key of this node, up to a dot."""
    if isinstance(node, (list, tuple)):
        number = rest.partition(".")[0]
        return number if number.isdecimal() and int(number) < len(node) else None
    if not isinstance(node, Mapping):
        return None
    parts = rest.split(".")
    heads = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((head for head in heads if head in node), None)


def _unwrapped(value: Any, path: tuple[Any, ...]) -> Found:
    key = ".".join(map(str, path))
    if not is_module(value):
        return Found(state=value, key=key, path=path)
    recovered = recover(value)
    notes = [f"its weights were recovered from a pickled {value.name}, which was not imported"]
    notes += [f"{where} {why}" for where, why in list(recovered.left.items())[:_SHOWN]]
    return Found(state=recovered.state, key=key, path=path, recovered=True, notes=notes)


def _keys_of(value: Any, before: str = "") -> str:
    """The keys of a dict, for messages; the type of anything else where nothing was said before."""
    if isinstance(value, Mapping) and value:
        return before + _listed(list(value))
    return "" if before else type(value).__name__


def _listed(keys: list[Any]) -> str:
    shown = ", ".join(brief(key, 80) for key in keys[:_SHOWN])
    return shown if len(keys) <= _SHOWN else f"{shown} and {len(keys) - _SHOWN:,} more"
