"""Find out what a module's own loading code would do to a state_dict, without touching the module.

Modules may rename old keys by their version, or add and forgive keys, in hooks and in a `_load_from_state_dict`
of their own. A replica on the meta device, made as `torch.nn.DataParallel` makes its replicas, shows what comes
of that: the keys that are missing and unexpected in the end, and the errors.

Source of what is replicated: `torch/nn/modules/module.py`, `Module._replicate_for_data_parallel`, `_WrappedHook`.
"""

from __future__ import annotations

import functools
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from compat.loading import import_torch

_HOOKS: Final = ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
# Whose hooks gather and scatter the parameters themselves.
_SHARDING: Final = "torch.distributed.fsdp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What loading would come to.

    Attributes:
        missing: the keys that would be missing; unexpected: those that would be left over.
        errors: what would be refused, in torch's words.
    """

    missing: list[str]
    unexpected: list[str]
    errors: list[str]


def has_own_code(module: Any) -> bool:
    """Whether some part of a module does more than `torch.nn.Module` itself when it is loaded."""
    torch = import_torch("loading into a module")
    plain = torch.nn.Module
    return any(
        any(getattr(part, name, None) for name in _HOOKS)
        or type(part)._load_from_state_dict is not plain._load_from_state_dict  # noqa: SLF001 - torch's extension point
        or type(part).load_state_dict is not plain.load_state_dict
        or type(part).set_extra_state is not plain.set_extra_state
        for part in module.modules()
    )


def has_foreign_code(module: Any) -> bool:
    """Whether some of that code is not torch's own, so that what it does to the module is not known."""
    code = [
        found
        for part in module.modules()
        for found in (type(part)._load_from_state_dict, type(part).load_state_dict, type(part).set_extra_state)  # noqa: SLF001
    ]
    return any(not str(getattr(found, "__module__", "")).startswith("torch.") for found in (*_hooks(module), *code))


def _hooks(module: Any) -> Iterator[Any]:
    for part in module.modules():
        for name in _HOOKS:
            yield from getattr(part, name, {}).values()


def rehearse(module: Any, state: Any) -> Rehearsal | None:
    """What `module.load_state_dict(state, strict=False)` would come to; None where that cannot be known before."""
    if any(str(getattr(hook, "__module__", "")).startswith(_SHARDING) for hook in _hooks(module)):
        return None
    found = _rehearsed(module, state)
    if found is None or not (found.missing or found.unexpected or found.errors):
        return found
    # A replica that refuses the module's own state tells nothing of another one.
    control = _rehearsed(module, module.state_dict())
    faithful = control is not None and not (control.missing or control.unexpected or control.errors)
    return found if faithful else None


def _rehearsed(module: Any, state: Any) -> Rehearsal | None:
    torch = import_torch("loading into a module")
    on_meta = OrderedDict((key, _on_meta(torch, value)) for key, value in state.items())
    metadata = getattr(state, "_metadata", None)
    if metadata is not None:
        vars(on_meta)["_metadata"] = fresh(metadata)
    replicas: dict[int, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            replica = _replica(torch, module, replicas)
            for made in replicas.values():
                _rebind(made, replicas)
            found = replica.load_state_dict(on_meta, strict=False)
            return Rehearsal(missing=list(found.missing_keys), unexpected=list(found.unexpected_keys), errors=[])
    except Exception as error:  # noqa: BLE001 - a module's own code may not bear a replica, whatever it then raises
        errors = refusals(error)
        return None if errors is None else Rehearsal(missing=[], unexpected=[], errors=errors)


def refusals(error: BaseException) -> list[str] | None:
    """What `load_state_dict` lists in its error; None for any other error."""
    first, *lines = str(error).split("\n\t")
    return [line.strip() for line in lines] if first.startswith("Error(s) in loading state_dict") else None


def fresh(metadata: Any) -> Any:
    """A copy of `_metadata`: `load_state_dict(assign=True)` writes into what it is given."""
    return type(metadata)((path, dict(facts) if isinstance(facts, dict) else facts) for path, facts in metadata.items())


def _on_meta(torch: Any, value: Any) -> Any:
    if isinstance(value, torch.nn.parameter.UninitializedTensorMixin):
        return _empty(torch, value)
    return value.detach().to("meta") if isinstance(value, torch.Tensor) else value


def _replica(torch: Any, module: Any, replicas: dict[int, Any]) -> Any:
    """The same module with empty tensors on the meta device; what hooks are bound to is bound to the replica."""
    if id(module) in replicas:
        return replicas[id(module)]
    made = module.__new__(type(module))
    replicas[id(module)] = made
    made.__dict__.update(module.__dict__)
    for name in ("_parameters", "_buffers"):
        made.__dict__[name] = {key: _empty(torch, value) for key, value in module.__dict__[name].items()}
    made.__dict__["_modules"] = {
        name: None if child is None else _replica(torch, child, replicas)
        for name, child in module._modules.items()  # noqa: SLF001
    }
    # What else a module takes along is its own affair, and may not be there to be taken twice.
    made.__dict__["set_extra_state"] = lambda _state: None
    return made


def _empty(torch: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, torch.nn.parameter.UninitializedTensorMixin):
        return type(value)(requires_grad=value.requires_grad, device="meta", dtype=value.dtype)
    empty = torch.empty_like(value, device="meta", requires_grad=False)
    return torch.nn.Parameter(empty, value.requires_grad) if isinstance(value, torch.nn.Parameter) else empty


def _rebind(made: Any, replicas: dict[int, Any]) -> None:
    for name in _HOOKS:
        hooks = made.__dict__.get(name, {})
        made.__dict__[name] = OrderedDict((key, _rebound(hook, replicas)) for key, hook in hooks.items())


def _rebound(hook: Any, replicas: dict[int, Any]) -> Callable[..., Any]:
    """A hook that knows the replica instead of the module."""
    owner = getattr(hook, "__self__", None)
    if isinstance(hook, types.MethodType) and id(owner) in replicas:
        return types.MethodType(hook.__func__, replicas[id(owner)])
    if isinstance(hook, functools.partial):
        args = [replicas.get(id(arg), arg) for arg in hook.args]
        return functools.partial(_rebound(hook.func, replicas), *args, **hook.keywords)
    inner = getattr(hook, "hook", None)
    if callable(inner) and type(hook).__name__ == "_WrappedHook":
        module = hook.module() if hook.with_module else None
        return type(hook)(_rebound(inner, replicas), replicas.get(id(module), module))  # type: ignore[no-any-return]
    return hook  # type: ignore[no-any-return]  # whatever was registered


class Undo:
    """A module's parameters and buffers as they are now, to be put back if its own code fails halfway."""

    def __init__(self, module: Any) -> None:
        tables = [table for part in module.modules() for table in (part._parameters, part._buffers)]  # noqa: SLF001
        self.tables = [(table, dict(table)) for table in tables if isinstance(table, dict)]
        self.values = [
            (tensor, tensor.detach().clone())
            for tensor in {id(t): t for _, held in self.tables for t in held.values() if t is not None}.values()
            if not hasattr(tensor, "materialize")
        ]

    def __call__(self) -> None:
        """Put everything back."""
        import torch

        for table, held in self.tables:
            table.clear()
            table.update(held)
        with torch.no_grad():
            for tensor, value in self.values:
                tensor.copy_(value)
