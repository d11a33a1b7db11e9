"""Outputs against what eager torch computed: an oracle of torch alone, with nothing of what is judged.

Not compared: strides, and how outputs share memory; an artefact promises neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """|difference| <= absolute * max|reference| + relative * |reference|; both zero where bits must be equal."""

    absolute: float = 0.0
    relative: float = 0.0

    @property
    def bitwise(self) -> bool:
        """Whether bits must be equal."""
        return self.absolute == 0.0 and self.relative == 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with something: the facet in which it differs, and in words."""

    facet: str
    message: str


def flat(values: Any) -> list[torch.Tensor]:
    """The tensors in nested outputs: dicts by their order, everything else by its."""
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in flat(value)]
    return []


def shape_of(values: Any) -> str:
    """How outputs are nested, as text: `*` for a tensor."""
    if isinstance(values, torch.Tensor):
        return "*"
    if isinstance(values, dict):
        return "{" + ", ".join(f"{key}: {shape_of(value)}" for key, value in values.items()) + "}"
    if isinstance(values, (list, tuple)):
        return "(" + ", ".join(map(shape_of, values)) + ")"
    return type(values).__name__


def raw(tensor: torch.Tensor) -> bytes:
    """A tensor's elements in row-major order, as bytes; what torch keeps as a bit is resolved."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if not plain.numel():
        return b""
    return bytes(plain.reshape(-1).view(torch.uint8).numpy())


def compare_outputs(
    expected: Sequence[torch.Tensor], exact: Sequence[torch.Tensor], seen: Sequence[torch.Tensor], allowed: Tolerance
) -> tuple[Finding | None, float]:
    """The first finding, and the largest difference as a part of the largest reference value.

    Args:
        expected: what eager torch computed.
        exact: the same in float64.
        seen: what the artefact gave.
        allowed: how much they may differ.
    """
    if len(expected) != len(seen):
        return Finding(facet="structure", message=f"{len(seen)} outputs, expected {len(expected)}"), float("inf")
    worst = 0.0
    first: Finding | None = None
    for number, (wanted, wide, got) in enumerate(zip(expected, exact, seen, strict=True)):
        finding, error = _difference(wanted, wide, got, allowed)
        worst = max(worst, error)
        if finding is not None and first is None:
            first = Finding(facet=finding.facet, message=f"output {number}: {finding.message}")
    return first, worst


def _difference(
    wanted: torch.Tensor, wide: torch.Tensor, got: torch.Tensor, allowed: Tolerance
) -> tuple[Finding | None, float]:
    """The dtype, the shape, the places of NaN and infinity, and then the values."""
    if got.dtype != wanted.dtype:
        return Finding(facet="dtype", message=f"{got.dtype}, expected {wanted.dtype}"), float("inf")
    if got.shape != wanted.shape:
        return Finding(facet="shape", message=f"{list(got.shape)}, expected {list(wanted.shape)}"), float("inf")
    if raw(got) == raw(wanted):
        return None, 0.0
    if not (wanted.is_floating_point() or wanted.is_complex()):
        return Finding(facet="values", message=f"other values of {wanted.dtype}"), float("inf")
    base, reference, other = (tensor.to(_wide(wanted)) for tensor in (wanted, wide, got))
    odd = torch.isfinite(base) != torch.isfinite(other)
    odd |= torch.isnan(base) != torch.isnan(other)
    if bool(odd.any()):
        return Finding(facet="nan", message=f"{int(odd.sum())} values are NaN or infinite on one side"), float("inf")
    kept = torch.isfinite(reference) & torch.isfinite(base)
    off = torch.where(kept, (other - reference).abs(), torch.zeros_like(reference.abs()))
    size = torch.where(kept, reference.abs(), torch.zeros_like(reference.abs()))
    largest = float(size.max())
    if allowed.bitwise:
        difference = float((other - base).abs()[kept].max()) if bool(kept.any()) else 0.0
        if difference == 0.0:
            return Finding(facet="bits", message="zeros of the other sign, or another NaN"), 0.0
        part = difference / largest if largest else float("inf")
        return Finding(facet="values", message=f"differs by {part:.1g} of the largest; expected equal bits"), part
    error = float(off.max()) / largest if largest else float(off.max())
    beyond = int((off > allowed.absolute * largest + allowed.relative * size).sum())
    if not beyond:
        return None, error
    told = f"{beyond} of {wanted.numel()} values differ, by up to {error:.1g} of the largest"
    return Finding(facet="values", message=told), error


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.complex128 if tensor.is_complex() else torch.float64
