"""What a module can have beside its layers, as another layer around or behind it, drawn without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from matrix.modulespec import InputSpec, LayerSpec, ModuleSpec, layer

_WIDTH: Final = 3
_BATCH: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One habit of a module.

    Attributes:
        summary: what it is.
        layer: what has it; it takes rows of three numbers.
        inputs: how many of them, where it stands alone; 0 where it stands behind a module.
    """

    summary: str
    layer: LayerSpec
    inputs: int = 0

    def given_to(self, spec: ModuleSpec) -> ModuleSpec:
        """Return a module whose outputs run on through the layer, or the layer alone."""
        if self.inputs:
            rows = InputSpec(shape=(_BATCH, _WIDTH))
            return replace(spec, layer=self.layer, inputs=(rows,) * self.inputs)
        return replace(spec, layer=layer("Sequential", spec.layer, self.layer))


def _reparametrized(by: str) -> LayerSpec:
    return layer("Reparametrized", width=_WIDTH, by=by)


def _linear() -> LayerSpec:
    return layer("Linear", in_features=_WIDTH, out_features=_WIDTH)


FEATURES: Final[Mapping[str, Feature]] = MappingProxyType(
    {
        "tied": Feature(summary="one weight in two layers", layer=layer("Twice", width=_WIDTH)),
        "shared": Feature(summary="one layer under two names", layer=layer("Shared", ("child", _linear()))),
        "doubled": Feature(summary="one parameter under two names of a module", layer=layer("Doubled", width=_WIDTH)),
        "not-persistent": Feature(
            summary="a buffer that is not in the state_dict", layer=layer("Passing", width=_WIDTH)
        ),
        "int-bool": Feature(summary="an integer and a boolean buffer", layer=layer("Flags", width=_WIDTH)),
        "mutated": Feature(summary="a buffer that every call changes", layer=layer("Counting")),
        "conjugated": Feature(summary="a lazily conjugated buffer", layer=layer("Lazy", conjugate=True)),
        "negated": Feature(summary="a lazily negated buffer", layer=layer("Lazy", conjugate=False)),
        "weight-norm": Feature(summary="weight norm", layer=_reparametrized("weight_norm")),
        "old-weight-norm": Feature(summary="weight norm by hooks", layer=_reparametrized("old_weight_norm")),
        "spectral-norm": Feature(summary="spectral norm", layer=_reparametrized("spectral_norm")),
        "orthogonal": Feature(summary="an orthogonal weight", layer=_reparametrized("orthogonal")),
        "extra-state": Feature(summary="values in the state_dict that are no tensors", layer=layer("Extra")),
        "nested-outputs": Feature(summary="a dict of tensors and of a tuple as output", layer=layer("Nested")),
        "passed-through": Feature(summary="an input that is an output, twice", layer=layer("Through"), inputs=1),
        "branching": Feature(summary="a branch that depends on values", layer=layer("Branching"), inputs=1),
        "unused": Feature(
            summary="an input, a parameter and a buffer that nothing uses",
            layer=layer("Unused", width=_WIDTH),
            inputs=3,
        ),
    }
)
