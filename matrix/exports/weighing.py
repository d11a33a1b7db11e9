"""What became of every weight, by its bytes: an oracle of torch alone, with nothing of what is judged.

Which weights an artefact must have is not read from it: a weight is live when other values of it change the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from matrix.exports.comparing import Finding, flat, raw

Content = tuple[str, tuple[int, ...], bytes]
# What a target may claim of the weights in its artefacts, and the fates that break it.
BROKEN: Final[Mapping[str, tuple[str, ...]]] = {
    "exact": ("renamed", "transposed", "changed", "lost"),
    "live": ("transposed", "changed", "lost"),
    "values": ("changed", "lost"),
    "none": ("changed",),
}


def content(tensor: torch.Tensor) -> Content:
    """A tensor's dtype, shape and bytes."""
    return str(tensor.dtype), tuple(tensor.shape), raw(tensor)


def live_keys(fresh: Callable[[], torch.nn.Module], inputs: Sequence[torch.Tensor]) -> list[str]:
    """The keys of a state_dict whose tensors the outputs hang on: each is changed once, in a module of its own."""
    with torch.no_grad():
        before = [content(tensor) for tensor in flat(fresh()(*inputs))]
        found = []
        for key in tensors(fresh().state_dict()):
            module = fresh()
            tensor = module.state_dict()[key]
            if not tensor.numel():
                continue
            tensor.copy_(~tensor if tensor.dtype == torch.bool else tensor + 1)
            if [content(output) for output in flat(module(*inputs))] != before:
                found.append(key)
        return found


def tensors(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a state_dict."""
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def fates(state: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Key → `exact`, `renamed`, `transposed`, `changed` (there, with other bytes) or `lost`."""
    held = {name: content(tensor) for name, tensor in found.items()}
    everything = set(held.values())
    told = {}
    for key, tensor in state.items():
        turned = content(tensor.t()) if tensor.ndim == 2 else None  # noqa: PLR2004 - a matrix
        if held.get(key) == content(tensor):
            told[key] = "exact"
        elif content(tensor) in everything:
            told[key] = "renamed"
        elif turned in everything:
            told[key] = "transposed"
        else:
            told[key] = "changed" if key in held else "lost"
    return told


def weigh(
    state: Mapping[str, torch.Tensor], live: Sequence[str], found: Mapping[str, Any], claim: str
) -> list[Finding]:
    """What breaks a target's claim about the weights in its artefact.

    Args:
        state: the source's.
        live: those of its keys that must be there, where not all must.
        found: what was read from the artefact.
        claim: a key of `BROKEN`.
    """
    here = tensors(found)
    told = fates(state, here)
    findings = []
    for fate in BROKEN[claim]:
        keys = [
            key for key, met in told.items() if met == fate and (claim == "exact" or fate == "changed" or key in live)
        ]
        if keys:
            findings.append(Finding(facet=f"weights-{fate}", message=f"{fate}: {', '.join(keys[:5])}"))
    if claim == "exact":
        extra = sorted(set(here) - set(state))
        if extra:
            findings.append(
                Finding(facet="weights-extra", message=f"not in the module's state: {', '.join(extra[:5])}")
            )
        apart = [keys for keys in _tied(state) if not _are_tied(keys, here)]
        if apart:
            findings.append(Finding(facet="weights-untied", message=f"no longer tied: {', '.join(apart[0])}"))
    return findings


def _tied(state: Mapping[str, torch.Tensor]) -> list[list[str]]:
    by_storage: dict[int, list[str]] = {}
    for key, tensor in state.items():
        if tensor.numel():
            by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append(key)
    return [keys for keys in by_storage.values() if len(keys) > 1]


def _are_tied(keys: Sequence[str], found: Mapping[str, torch.Tensor]) -> bool:
    return len({found[key].untyped_storage().data_ptr() for key in keys if key in found}) <= 1
