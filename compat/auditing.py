"""What became of every weight in an artefact: by its bytes, not by its name.

A key that is there with other bytes is a finding, never "recovered": exporters fold a batch norm into its
convolution and keep the convolution's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from compat.untyped import untyped_storage

FATES: Final = ("exact", "renamed", "transposed", "changed", "lost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The fate of every tensor of a source in an artefact.

    Attributes:
        fates: key of the source → one of `FATES`.
        renamed: key of the source → its name in the artefact, where its values are there under another one.
        extra: names in the artefact whose values no tensor of the source has.
        split: keys of the source that shared storage and are separate tensors now.
    """

    fates: dict[str, str]
    renamed: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    split: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Whether every tensor of the source is there under its name, with its bytes."""
        return set(self.fates.values()) <= {"exact"}

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors met each fate."""
        found = list(self.fates.values())
        return {fate: found.count(fate) for fate in FATES if fate in found}


def _content(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    import torch

    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    raw = plain.reshape(-1).view(torch.uint8) if plain.numel() else torch.empty(0, dtype=torch.uint8)
    return str(plain.dtype).removeprefix("torch."), tuple(plain.shape), bytes(raw.numpy())


def audit(source: Mapping[str, Any], found: Mapping[str, Any]) -> Audit:
    """Compare the tensors of a state_dict with those of an artefact.

    Args:
        source: the module's state_dict; values that are no tensors are lost.
        found: what was read from the artefact.
    """
    import torch

    held = {name: _content(tensor) for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}
    by_content: dict[tuple[str, tuple[int, ...], bytes], list[str]] = {}
    for name, content in held.items():
        by_content.setdefault(content, []).append(name)
    fates: dict[str, str] = {}
    renamed: dict[str, str] = {}
    explained: set[str] = set()
    for key, tensor in source.items():
        if not isinstance(tensor, torch.Tensor):
            fates[key] = "lost"
            continue
        content = _content(tensor)
        if held.get(key) == content:
            fates[key] = "exact"
            explained.add(key)
            continue
        turned = _content(tensor.t()) if tensor.ndim == 2 else None  # noqa: PLR2004 - a matrix
        fate, names = next(
            ((f, by_content[c]) for f, c in (("renamed", content), ("transposed", turned)) if c in by_content),
            ("changed" if key in held else "lost", []),
        )
        fates[key] = fate
        if names:
            renamed[key] = names[0]
            explained.update(names)
    extra = [name for name in held if name not in explained and name not in source]
    return Audit(fates=fates, renamed=renamed, extra=extra, split=_split(source, found))


def _split(source: Mapping[str, Any], found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    import torch

    tied: dict[int, list[str]] = {}
    for key, tensor in source.items():
        if isinstance(tensor, torch.Tensor) and untyped_storage(tensor).nbytes():
            tied.setdefault(untyped_storage(tensor).data_ptr(), []).append(key)
    apart = []
    for keys in tied.values():
        kept = [untyped_storage(found[key]).data_ptr() for key in keys if isinstance(found.get(key), torch.Tensor)]
        if len(keys) > 1 and len(set(kept)) > 1:
            apart.append(tuple(keys))
    return apart
