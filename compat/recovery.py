"""The state_dict of a whole pickled module, recovered from inert records: its class is neither imported nor needed.

- recovered: parameters and persistent buffers of all modules, under the names and in the order that `state_dict()`
  gives them, with shared storages, from every torch that pickled modules.
- recovered too: `_metadata` of the classes of `torch.nn`, whose versions are known.
- listed: what cannot be had without running the class's code: packed weights of quantized modules, TorchScript
  inside, state_dict hooks, and classes that may add more by a `state_dict` or `get_extra_state` of their own.

Source of the rules: `torch/nn/modules/module.py` (`state_dict`, `_save_to_state_dict`, `__setstate__`), unchanged in
what they give from torch 0.1 on; `_non_persistent_buffers_set` came with torch 1.6.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from compat.checkpoint import MAX_DEPTH, Composite, Opaque, TensorRecord
from compat.errors import Unsupported

_HOLDERS: Final = ("_parameters", "_buffers", "_modules")
# Modules may be held many times over; a file can hold one twice per level without end.
_MAX_ENTRIES: Final = 250_000
_LISTED: Final = 20
# Modules whose `_version` is another than the 1 that `torch.nn.Module` itself has had since it has one (torch 0.4).
_NORMS: Final = ("torch.nn.modules.batchnorm.", "torch.nn.modules.instancenorm.")
_NORM_VERSION: Final = 2
_VERSIONED: Final = ("torch.nn.modules.", "torch.nn.parallel.", "torch.optim.swa_utils.")
_OWN_CODE: Final = ("torch.nn.quantized.", "torch.ao.nn.", "torch.nn.intrinsic.")
# What torch.compile gives; it is pickled by the module that it wraps.
_COMPILED: Final = "torch._dynamo.eval_frame.OptimizedModule"
_SPECTRAL_HOOK: Final = "torch.nn.utils.spectral_norm.SpectralNormStateDictHook"


@dataclass(slots=True, kw_only=True)
class Recovered:
    """What was found in a pickled module.

    Attributes:
        state: what its `state_dict()` would have given, as records, with `_metadata` where that is known.
        classes: the class of each module, by the module's name; "" is the whole.
        left: what `state_dict()` might have given too and no reader can know: where, and why, as the end of a
            sentence.
    """

    state: OrderedDict[str, Any] = field(default_factory=OrderedDict)
    classes: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def leave(self, path: str, why: str) -> None:
        """Remember what was not recovered, at most a few."""
        path = path or "the module"
        if path in self.left:
            self.left[path] += f", and {why}"
        elif len(self.left) < _LISTED:
            self.left[path] = why


def attributes_of(value: Any) -> Mapping[Any, Any] | None:
    """The attributes that a pickled object was given; None where it is none, or was given something else."""
    if not isinstance(value, Opaque):
        return None
    if str(value.name) == _COMPILED and value.args:
        return {"_parameters": {}, "_buffers": {}, "_modules": {"_orig_mod": value.args[0]}}
    state = value.state
    # A class with slots is given a pair of its attributes and its slots.
    if isinstance(state, tuple) and len(state) == 2:  # noqa: PLR2004 - as said
        state = state[0]
    return state if isinstance(state, dict) else None


def is_module(value: Any) -> bool:
    """Whether a value is a pickled `torch.nn.Module`, judged by what every module has."""
    attributes = attributes_of(value)
    return attributes is not None and all(isinstance(attributes.get(name), dict) for name in _HOLDERS)


def recover(module: Opaque) -> Recovered:
    """What the `state_dict()` of a pickled module would give.

    Raises:
        Unsupported: its modules nest without end, or hold each other over and over.
    """
    found = Recovered()
    metadata: OrderedDict[str, Any] = OrderedDict()
    for prefix, node in _modules(module):
        name = prefix[:-1]
        attributes = attributes_of(node) or {}
        found.classes[name] = str(node.name)
        _take(attributes, prefix, found)
        known = _metadata_of(node, attributes)
        if known is not None:
            metadata[name] = known
        _list_the_rest(node, attributes, prefix, found)
        if len(found.state) > _MAX_ENTRIES:
            raise Unsupported(f"its modules hold more than {_MAX_ENTRIES:,} tensors", feature="repeats")
    if metadata:
        vars(found.state)["_metadata"] = metadata
    return found


def _modules(module: Opaque) -> Iterator[tuple[str, Opaque]]:
    """Every module below one, itself first, with the prefix of its names, in the order of `state_dict()`."""
    waiting: list[tuple[str, Opaque, int]] = [("", module, 0)]
    for _ in range(_MAX_ENTRIES):
        if not waiting:
            return
        prefix, node, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise Unsupported(f"its modules nest deeper than {MAX_DEPTH} levels", feature="depth")
        yield prefix, node
        held = (attributes_of(node) or {}).get("_modules", {})
        below = [(f"{prefix}{name}.", child, depth + 1) for name, child in held.items() if is_module(child)]
        waiting += reversed(below)
    raise Unsupported(f"it holds more than {_MAX_ENTRIES:,} modules", feature="repeats")


def _take(attributes: Mapping[Any, Any], prefix: str, found: Recovered) -> None:
    """The parameters and persistent buffers of one module."""
    hidden = attributes.get("_non_persistent_buffers_set")
    skipped = hidden if isinstance(hidden, (set, frozenset, list, tuple)) else ()
    for holder in ("_parameters", "_buffers"):
        for name, value in attributes[holder].items():
            if value is None or (holder == "_buffers" and name in skipped):
                continue
            if isinstance(value, TensorRecord):
                # `state_dict()` detaches: what it gives are plain tensors over the same storage.
                kept: Any = replace(value, kind="tensor", requires_grad=False, attributes=None)
            elif isinstance(value, Composite):
                kept = replace(value, parameter=False, requires_grad=False, attributes=None)
            else:
                kind = f"a {value.name}" if isinstance(value, Opaque) else f"a {type(value).__name__}"
                found.leave(f"{prefix}{name}", f"is {kind}, which holds no tensor that could be read")
                continue
            found.state[f"{prefix}{name}"] = kept


def _metadata_of(node: Opaque, attributes: Mapping[Any, Any]) -> dict[str, Any] | None:
    """What `_metadata` says of a module: the version of its class, for the classes of torch; None for others."""
    name = str(node.name)
    if not name.startswith(_VERSIONED):
        return None
    version = 1
    if name.startswith(_NORMS):
        buffers = attributes["_buffers"]
        # Before torch 0.4.1 these counted no batches, which is what the version tells.
        counts = buffers.get("running_mean") is None or buffers.get("num_batches_tracked") is not None
        version = _NORM_VERSION if counts else 1
    known: dict[str, Any] = {"version": version}
    spectral = {f"{weight}.version": 1 for weight in _spectral(attributes)}
    return known | ({"spectral_norm": spectral} if spectral else {})


def _spectral(attributes: Mapping[Any, Any]) -> Iterator[str]:
    """The weights whose spectral norm torch's own hook would have noted."""
    for hook in _hooks(attributes):
        if isinstance(hook, Opaque) and str(hook.name) == _SPECTRAL_HOOK:
            norm = (attributes_of(hook) or {}).get("fn")
            weight = (attributes_of(norm) or {}).get("name")
            if isinstance(weight, str):
                yield weight


def _hooks(attributes: Mapping[Any, Any]) -> list[Any]:
    hooks = attributes.get("_state_dict_hooks")
    return list(hooks.values()) if isinstance(hooks, dict) else []


def _list_the_rest(node: Opaque, attributes: Mapping[Any, Any], prefix: str, found: Recovered) -> None:
    """What `state_dict()` might have given too."""
    name, where = str(node.name), prefix[:-1]
    for child, value in attributes["_modules"].items():
        if value is not None and not is_module(value):
            kind = str(value.name) if isinstance(value, Opaque) else type(value).__name__
            found.leave(f"{prefix}{child}", f"is a {kind}, whose state only its own code can give")
    hooks = [h for h in _hooks(attributes) if not (isinstance(h, Opaque) and str(h.name) == _SPECTRAL_HOOK)]
    if hooks:
        found.leave(where, f"has {len(hooks)} state_dict hooks, which were not run")
    if name.startswith(_OWN_CODE):
        found.leave(where, f"is a {name}, which packs its weights by code of its own")
    elif not name.startswith((*_VERSIONED, "torch.nn.", _COMPILED)):
        found.leave(where, f"is a {name}, which may add to its state by code of its own")
