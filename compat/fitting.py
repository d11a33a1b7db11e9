"""Whether the tensors of a checkpoint can become those of a module, and what is lost when its versions are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final

from compat.loading import import_torch
from compat.loadreport import Facts

CASTING: Final = ("no", "same_kind", "unsafe")
# The norms of torch count batches since their version 2, and know by the version whether a state lacks the count.
_NORMS: Final = ("torch.nn.modules.batchnorm", "torch.nn.modules.instancenorm")
_COUNTER: Final = "num_batches_tracked"
_SHOWN: Final = 4


def compare(own: Mapping[str, Any], state: Mapping[str, Any], facts: Facts, *, casting: str, assign: bool) -> None:
    """Put into `facts` what cannot be loaded for its shape or dtype, or at all, and what changes its dtype."""
    torch = import_torch("loading into a module")
    for key, value in state.items():
        mine = own.get(key)
        if not isinstance(mine, torch.Tensor) or isinstance(mine, torch.nn.parameter.UninitializedTensorMixin):
            continue
        why = _unfit(torch, mine, value, assign=assign)
        if why is not None:
            facts.unfit[key] = why
        # torch takes the one element of what was a scalar before it had scalars.
        elif mine.shape != value.shape and not (mine.shape == () and tuple(value.shape) == (1,)):
            facts.mismatched_keys.append((key, tuple(mine.shape), tuple(value.shape)))
        elif mine.dtype != value.dtype:
            was, now = (str(tensor.dtype).removeprefix("torch.") for tensor in (value, mine))
            if assign:
                facts.notes.append(f"{key} is now {was}, as in the checkpoint, and was {now}")
            elif _may_become(value, mine, casting):
                facts.cast[key] = (was, now)
            else:
                facts.mismatched_dtypes.append((key, now, was))


def _unfit(torch: Any, mine: Any, value: Any, *, assign: bool) -> str | None:
    """Why a value cannot become a module's tensor, whatever its shape and dtype."""
    if not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__} in the checkpoint; expected a tensor"
    if value.layout != mine.layout and not assign:
        return f"is {value.layout} in the checkpoint; expected {mine.layout}"
    if value.is_quantized != mine.is_quantized and not assign:
        return f"is {value.dtype} in the checkpoint; expected {mine.dtype}"
    if assign and mine.requires_grad and not (value.is_floating_point() or value.is_complex()):
        return f"is {value.dtype} in the checkpoint, which cannot require gradients as the module's does"
    if not assign and mine.layout == torch.strided and _is_expanded(mine):
        return "is expanded in the module: its elements share memory and cannot be written one by one"
    return None if assign or mine.dtype == value.dtype else _unknown_cast(torch, value, mine)


def _is_expanded(tensor: Any) -> bool:
    return any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))


def _unknown_cast(torch: Any, value: Any, mine: Any) -> str | None:
    """Why torch cannot turn one dtype into the other."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.empty(1, dtype=mine.dtype).copy_(torch.empty(1, dtype=value.dtype))
    except (RuntimeError, TypeError):
        return f"is {value.dtype} in the checkpoint, which torch does not turn into {mine.dtype}"
    return None


def _may_become(value: Any, mine: Any, casting: str) -> bool:
    return casting == "unsafe" or (casting == "same_kind" and _kind(value) == _kind(mine))


def _kind(tensor: Any) -> str:
    return "complex" if tensor.is_complex() else "float" if tensor.is_floating_point() else "integer"


def version_notes(module: Any, state: Any) -> list[str]:
    """What follows from versions that the checkpoint does not give, by which modules know how old their state is."""
    metadata = getattr(state, "_metadata", None) or {}
    harmless: dict[str, list[str]] = {}
    harmful: dict[str, list[str]] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        known = metadata.get(path)
        if (getattr(part, "_version", None) or 1) > 1 and "version" not in (known if isinstance(known, dict) else {}):
            count = f"{path}.{_COUNTER}".lstrip(".")
            norm = type(part)._load_from_state_dict.__module__ in _NORMS  # noqa: SLF001 - torch's extension point
            lost = not norm or (getattr(part, _COUNTER, None) is not None and count not in state)
            (harmful if lost else harmless).setdefault(type(part).__name__, []).append(path or "the module itself")
    seen = "its _metadata says nothing of" if metadata else "the checkpoint has no _metadata for"
    notes = [
        f"{seen} {_places(paths)}: {name} cannot know which version wrote its state, and took it as an old one"
        for name, paths in harmful.items()
    ]
    same = [f"{name} ({len(paths):,})" for name, paths in harmless.items()]
    return notes + ([f"{seen} {', '.join(same)}, whose state shows its version by itself"] if same else [])


def _places(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN:,} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more
