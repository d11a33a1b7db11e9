"""Whether an artefact computes what its module does, and holds what its module held."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from compat.auditing import Audit, audit
from compat.errors import CompatError
from compat.exporting import Exported
from compat.exports import get
from compat.torchruntime import copied, leaves, quiet

# |difference| <= a * max|reference| + r * |reference|, with the reference computed in float64. Measured over 39
# operators, 6 seeds and onnxruntime's optimisation levels, with a margin of 3 to 15; `benchmarks` measures again.
TOLERANCES: Final = {
    "float64": (1e-8, 1e-8),
    "float32": (1e-5, 1e-5),
    "float16": (1e-2, 2e-3),
    "bfloat16": (6e-2, 1.6e-2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What an artefact gave.

    Attributes:
        outputs: what differs in its outputs, in words; empty where they are equal or within tolerance.
        worst: the largest difference, as a part of the largest reference value.
        equal: whether all outputs are equal bit by bit.
        weights: what became of each weight; None where the artefact holds none that can be read.
        weights_error: why the weights could not be read.
    """

    outputs: list[str] = field(default_factory=list)
    worst: float = 0.0
    equal: bool = True
    weights: Audit | None = None
    weights_error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether all outputs are as they should be."""
        return not self.outputs


def verify_export(exported: Exported, module: Any, args: Sequence[Any]) -> Verification:
    """Run an artefact and its module on the same arguments, and compare outputs and weights.

    Args:
        exported: the artefact.
        module: what it was exported from, in eval mode; a copy of it is run.
        args: positional arguments.
    """
    import torch

    with quiet(torch):
        reference = leaves(torch, copied(torch, module)(*copy.deepcopy(tuple(args))))
        exact = leaves(torch, _in_float64(torch, module, args))
    seen = leaves(torch, exported.run(*copy.deepcopy(tuple(args))))
    same_runtime = get(exported.target).capabilities.same_runtime
    found, worst, equal = compare_outputs(reference, exact, seen, bitwise=same_runtime)
    weights, error = None, None
    try:
        weights = audit(module.state_dict(), exported.state_dict())
    except CompatError as refused:
        error = str(refused)
    return Verification(outputs=found, worst=worst, equal=equal, weights=weights, weights_error=error)


def _in_float64(torch: Any, module: Any, args: Sequence[Any]) -> Any:
    """The same computation in float64, as the reference; as it is, where it has no float64 form."""
    try:
        wide = copied(torch, module).double()
        given = torch.utils._pytree.tree_map(_widened, tuple(args))  # noqa: SLF001 - torch has no public one before 2.6
        return wide(*given)
    except Exception:  # noqa: BLE001 - the module's own code may refuse what it was not written for
        return copied(torch, module)(*copy.deepcopy(tuple(args)))


def _widened(value: Any) -> Any:
    return value.double() if getattr(value, "is_floating_point", lambda: False)() else value


def compare_outputs(
    reference: Sequence[Any], exact: Sequence[Any], seen: Sequence[Any], *, bitwise: bool
) -> tuple[list[str], float, bool]:
    """What differs between outputs, the largest relative difference, and whether all are equal bit by bit.

    Dtype, shape, and the places of NaN and infinity come first, then values.
    """
    if len(reference) != len(seen):
        return [f"{len(seen)} outputs, expected {len(reference)}"], float("inf"), False
    if len(exact) != len(reference):
        exact = reference
    found: list[str] = []
    worst, equal = 0.0, True
    for number, (wanted, wide, got) in enumerate(zip(reference, exact, seen, strict=True)):
        same = _bits(wanted) == _bits(got)
        equal = equal and same
        if same:
            continue
        problem, error = _difference(wanted, wide, got)
        worst = max(worst, error)
        if problem is None and bitwise and error == 0.0:
            continue
        if problem is None and bitwise:
            problem = f"differs by {error:.2g} of the largest value, expected equal bits"
        if problem is not None:
            found.append(f"output {number}: {problem}")
    return found, worst, equal


def _bits(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    import torch

    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    raw = plain.reshape(-1).view(torch.uint8) if plain.numel() else torch.empty(0, dtype=torch.uint8)
    return str(plain.dtype), tuple(plain.shape), bytes(raw.numpy())


def _difference(wanted: Any, wide: Any, got: Any) -> tuple[str | None, float]:
    """What is wrong with an output, and by how much it differs; None where it is within tolerance."""
    import torch

    dtype = str(wanted.dtype).removeprefix("torch.")
    if got.dtype != wanted.dtype:
        return f"dtype {str(got.dtype).removeprefix('torch.')}, expected {dtype}", float("inf")
    if got.shape != wanted.shape:
        return f"shape {list(got.shape)}, expected {list(wanted.shape)}", float("inf")
    if not wanted.is_floating_point() and not wanted.is_complex():
        return f"{int((got != wanted).sum())} of {wanted.numel()} values differ", float("inf")
    if wanted.is_complex():
        return _difference(torch.view_as_real(wanted), torch.view_as_real(wide), torch.view_as_real(got))
    if not torch.equal(wanted.isnan(), got.isnan()) or not torch.equal(wanted.isinf(), got.isinf()):
        return "NaN or infinity in other places", float("inf")
    base = wide.double() if wide.shape == wanted.shape else wanted.double()
    finite = base.isfinite() & got.isfinite()
    base, values = base[finite], got.double()[finite]
    if not base.numel():
        return None, 0.0
    a, r = TOLERANCES.get(dtype, TOLERANCES["float16"])
    scale = float(base.abs().max())
    off = (values - base).abs()
    error = float(off.max()) / scale if scale else float(off.max())
    beyond = off > a * scale + r * base.abs()
    return (
        f"{int(beyond.sum())} of {base.numel()} values differ, by up to {error:.2g} of the largest"
        if bool(beyond.any())
        else None
    ), error
