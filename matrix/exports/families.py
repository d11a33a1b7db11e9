"""The families of modules that are exported, drawn without torch: what exporters meet in real models.

Every module has a batch of `BATCH`; exporters take a batch of one for a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from matrix.choices import Choices, SeededChoices
from matrix.exports.images import IMAGES
from matrix.exports.sequences import SEQUENCES
from matrix.modulespec import InputSpec, LayerSpec, ModuleSpec, layer

BATCH: Final = 3

Drawn = tuple[LayerSpec, tuple[InputSpec, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of module.

    Attributes:
        name, summary: what it is called, and what is in it.
        draw: its root layer and its inputs.
        precision: how exact it computes, a row of `tolerances.toml`.
        general: stands for all families, where a choice is not crossed with each of them.
    """

    name: str
    summary: str
    draw: Callable[[Choices], Drawn]
    precision: str = "single"
    general: bool = False


def _rows(width: int) -> tuple[InputSpec, ...]:
    return (InputSpec(shape=(BATCH, width)),)


def _width(choices: Choices) -> int:
    return 2 * choices.integer(1, 3)


def _linear(choices: Choices) -> Drawn:
    width, out = _width(choices), choices.integer(1, 4)
    first = layer("Linear", in_features=width, out_features=out, bias=not choices.boolean())
    return layer("Sequential", first, layer("Linear", in_features=out, out_features=3)), _rows(width)


def _mlp(choices: Choices) -> Drawn:
    width = _width(choices)
    layers: list[LayerSpec] = []
    for number in range(choices.integer(2, 4)):
        kinds = ("ReLU", "GELU", "SiLU", "Tanh", "Sigmoid", "LeakyReLU", "Identity") if number else ("GELU",)
        layers += [
            layer("Linear", in_features=width, out_features=width, bias=not choices.boolean()),
            layer(choices.pick(kinds)),
            layer("LayerNorm", normalized_shape=(width,)),
        ]
    return layer("Sequential", *layers, layer("Dropout", p=0.1)), _rows(width)


_SMOOTH: Final = (
    "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish",
    "PReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink",
)  # fmt: skip


def _activations(choices: Choices) -> Drawn:
    width = _width(choices)
    chosen = [layer("Softplus"), *(layer(choices.pick(_SMOOTH)) for _ in range(choices.integer(3, 6)))]
    return layer("Sequential", layer("Added", *chosen), layer("Softmax", dim=-1)), _rows(width)


def _one(kind: str, **options: float) -> Callable[[Choices], Drawn]:
    """A family of one layer, behind a linear one."""

    def draw(choices: Choices) -> Drawn:
        width = _width(choices)
        linear = layer("Linear", in_features=width, out_features=width)
        return layer("Sequential", linear, layer(kind, **options)), _rows(width)

    return draw


def _distances(choices: Choices) -> Drawn:
    width = _width(choices)
    return layer("Distances", width=width, points=choices.integer(2, 4)), _rows(width)


def _bilinear(choices: Choices) -> Drawn:
    width = _width(choices)
    return layer("Pairs", width=width, out=choices.integer(1, 3)), _rows(width)


def _fourier(choices: Choices) -> Drawn:
    size = 2 * choices.integer(2, 4)
    return layer("Fourier", size=size), _rows(size)


_PLAIN: Final = (
    Family(name="linear", summary="two linear layers", draw=_linear, general=True),
    Family(name="mlp", summary="linear layers, activations, layer norms, dropout", draw=_mlp, precision="deep"),
    Family(name="activations", summary="a sum of activations, and a softmax", draw=_activations, precision="deep"),
    Family(name="functional", summary="activations by their functions", draw=_one("Functional"), precision="deep"),
    Family(name="threshold", summary="Threshold that is not zero", draw=_one("Threshold", threshold=0.1, value=2.0)),
    Family(name="rrelu", summary="RReLU", draw=_one("RReLU"), precision="deep"),
    Family(name="chunk", summary="chunk, split, stack and cat", draw=_one("Chunked")),
    Family(name="cdist", summary="distances to learned points", draw=_distances, precision="deep"),
    Family(name="bilinear", summary="Bilinear", draw=_bilinear),
    Family(name="fft", summary="a filter in the frequency domain", draw=_fourier, precision="deep"),
)

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        **{family.name: family for family in _PLAIN},
        **{name: Family(name=name, **facts) for name, facts in {**IMAGES, **SEQUENCES}.items()},
    }
)


def draw_family(name: str, seed: int) -> ModuleSpec:
    """Return the module of a family that a seed stands for.

    Raises:
        KeyError: there is no such family.
    """
    choices = SeededChoices(seed)
    value_seed = choices.integer(0, 2**32 - 1)
    root, inputs = FAMILIES[name].draw(choices)
    return ModuleSpec(family=name, layer=root, seed=value_seed, inputs=inputs)
