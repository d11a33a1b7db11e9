"""Draw examples, without torch: states by content (`CONTENTS`), modules by family (`MODULE_FAMILIES`).

One generator serves both a seed (`SeededChoices`, microseconds) and Hypothesis (`strategies`, which shrinks).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from matrix.choices import Choices, SeededChoices
from matrix.contents import CONTENTS, Content
from matrix.modulespec import InputSpec, LayerSpec, ModuleSpec, layer
from matrix.spec import ITEMSIZES

__all__ = [
    "CONTENTS",
    "MODULE_FAMILIES",
    "Choices",
    "Content",
    "ModuleSpec",
    "SeededChoices",
    "draw_module",
]

# What a family draws: the root layer and the inputs it takes.
Drawn = tuple[LayerSpec, tuple[InputSpec, ...]]
Family = Callable[[Choices], Drawn]

_ACTIVATIONS: Final = ("ReLU", "GELU", "SiLU", "Tanh", "Sigmoid", "LeakyReLU", "Identity")


def draw_module(choices: Choices, family: str | None = None) -> ModuleSpec:
    """Draw a module, of any family unless one is given."""
    name = choices.pick(tuple(MODULE_FAMILIES)) if family is None else family
    draw = MODULE_FAMILIES.get(name)
    if draw is None:
        raise ValueError(f"no family of modules is called {name!r}, expected one of {sorted(MODULE_FAMILIES)}")
    seed = choices.integer(0, 2**32 - 1)
    root, inputs = draw(choices)
    return ModuleSpec(family=name, layer=root, seed=seed, inputs=inputs)


def _activation(choices: Choices) -> LayerSpec:
    return layer(choices.pick(_ACTIVATIONS))


def _image(choices: Choices, channels: int, dims: int) -> tuple[InputSpec, ...]:
    # Eight along each dimension leaves something over for any kernel, dilation and pool drawn below.
    return (InputSpec(shape=(choices.integer(1, 2), channels, *(8,) * dims)),)


def _conv_layer(choices: Choices, dims: int, channels: int) -> tuple[LayerSpec, int]:
    """Return a convolution that leaves at least two of eight per dimension, and its output channels."""
    groups = choices.pick((1, channels))
    out = groups * choices.integer(1, 3)
    kernel = choices.pick((1, 3, 2))
    options = {
        "stride": choices.integer(1, 2),
        "padding": choices.integer(0, 1),
        "dilation": choices.integer(1, 2),
        "groups": groups,
        "bias": not choices.boolean(),
    }
    return layer(f"Conv{dims}d", in_channels=channels, out_channels=out, kernel_size=kernel, **options), out


def _conv(dims: int) -> Family:
    def draw(choices: Choices) -> Drawn:
        channels = choices.integer(1, 3)
        conv, out = _conv_layer(choices, dims, channels)
        layers = [conv]
        if choices.boolean():
            layers.append(layer(f"BatchNorm{dims}d", num_features=out))
        layers.append(_activation(choices))
        if choices.boolean():
            kind = choices.pick((f"MaxPool{dims}d", f"AvgPool{dims}d"))
            layers.append(layer(kind, kernel_size=2, stride=1))
        if choices.boolean():
            layers.append(layer("Dropout", p=0.5))
        layers.append(layer(f"AdaptiveAvgPool{dims}d", output_size=1))
        return layer("Sequential", *layers), _image(choices, channels, dims)

    return draw


def _convtransposed(choices: Choices) -> Drawn:
    dims, channels = choices.integer(1, 3), choices.integer(1, 3)
    groups = choices.pick((1, channels))
    stride = choices.integer(1, 2)
    conv = layer(
        f"ConvTranspose{dims}d",
        in_channels=channels,
        out_channels=groups * choices.integer(1, 2),
        kernel_size=choices.pick((2, 3)),
        stride=stride,
        padding=choices.integer(0, 1),
        # torch asks for an output padding below the stride.
        output_padding=choices.integer(0, stride - 1),
        groups=groups,
        bias=not choices.boolean(),
    )
    return layer("Sequential", conv, _activation(choices)), _image(choices, channels, dims)


def _batchnorm(choices: Choices) -> Drawn:
    dims, channels = choices.integer(1, 3), choices.integer(1, 4)
    norm = layer(
        f"BatchNorm{dims}d",
        num_features=channels,
        affine=not choices.boolean(),
        track_running_stats=not choices.boolean(),
        momentum=choices.pick((0.1, None)),
    )
    return layer("Sequential", norm, _activation(choices)), _image(choices, channels, dims)


def _groupnorm(choices: Choices) -> Drawn:
    dims, groups = choices.integer(1, 3), choices.integer(1, 2)
    channels = groups * choices.integer(1, 3)
    norm = layer("GroupNorm", num_groups=groups, num_channels=channels, affine=not choices.boolean())
    instance = layer(
        f"InstanceNorm{dims}d",
        num_features=channels,
        affine=choices.boolean(),
        track_running_stats=choices.boolean(),
    )
    return layer("Sequential", norm, instance), _image(choices, channels, dims)


def _layernorm(choices: Choices) -> Drawn:
    shape = tuple(choices.integer(1, 4) for _ in range(choices.integer(1, 2)))
    norm = layer("LayerNorm", normalized_shape=shape, elementwise_affine=not choices.boolean())
    return layer("Sequential", norm, _activation(choices)), (InputSpec(shape=(2, *shape)),)


def _embedding(choices: Choices) -> Drawn:
    words, width = choices.integer(2, 9), choices.integer(1, 4)
    padding = choices.pick((None, 0, words - 1))
    embed = layer("Embedding", num_embeddings=words, embedding_dim=width, padding_idx=padding)
    linear = layer("Linear", in_features=width, out_features=choices.integer(1, 4))
    return layer("Sequential", embed, linear), (InputSpec(shape=(2, 3), indices=words),)


def _linear(choices: Choices) -> Drawn:
    sizes = [choices.integer(1, 5) for _ in range(choices.integer(2, 4))]
    layers: list[LayerSpec] = []
    for before, after in pairwise(sizes):
        bias = not choices.boolean()
        layers += [layer("Linear", in_features=before, out_features=after, bias=bias), _activation(choices)]
    return layer("Sequential", *layers, layer("Dropout", p=0.1)), (InputSpec(shape=(2, sizes[0])),)


def _lstm(choices: Choices) -> Drawn:
    width, hidden = choices.integer(1, 4), choices.integer(1, 4)
    bidirectional = choices.boolean()
    rnn = layer(
        choices.pick(("LSTM", "GRU", "RNN")),
        input_size=width,
        hidden_size=hidden,
        num_layers=choices.integer(1, 2),
        bias=not choices.boolean(),
        batch_first=choices.boolean(),
        bidirectional=bidirectional,
    )
    inputs = (InputSpec(shape=(2, 3, width)),)
    if choices.boolean():
        return rnn, inputs
    head = layer("Linear", in_features=hidden * (2 if bidirectional else 1), out_features=choices.integer(1, 3))
    return layer("Sequential", layer("Outputs", ("rnn", rnn)), head), inputs


def _square(choices: Choices, width: int) -> LayerSpec:
    """Return a layer that keeps a width."""
    linear = layer("Linear", in_features=width, out_features=width, bias=not choices.boolean())
    return choices.pick((linear, layer("LayerNorm", normalized_shape=(width,)), layer("PReLU")))


def _nest(choices: Choices, width: int, depth: int) -> LayerSpec:
    if depth == 0:
        return _square(choices, width)
    kind = choices.pick(("Sequential", "Listed", "Named", "Residual", "Wrapped"))
    if kind in {"Residual", "Wrapped"}:
        return layer(kind, ("child", _nest(choices, width, depth - 1)))
    names = ("first", "second", "module")
    children = [(names[i], _nest(choices, width, depth - 1)) for i in range(choices.integer(1, 3))]
    if kind == "Named":
        return layer(kind, *children)
    return layer(kind, *(child for _, child in children))


def _nested(choices: Choices) -> Drawn:
    width = choices.integer(1, 4)
    inner = _nest(choices, width, choices.integer(1, 3))
    # A real child named `module` is in every draw.
    return layer("Sequential", layer("Wrapped", inner), _square(choices, width)), (InputSpec(shape=(2, width)),)


def _tied(choices: Choices) -> Drawn:
    words, width = choices.integer(2, 8), choices.integer(1, 4)
    if choices.boolean():
        twice = layer("Twice", width=width)
        return layer("Sequential", twice, _activation(choices)), (InputSpec(shape=(2, width)),)
    padding = choices.pick((None, 0))
    head = layer("TiedHead", words=words, width=width, padding_idx=padding, bias=choices.boolean())
    return head, (InputSpec(shape=(2, 3), indices=words),)


def _frozen(choices: Choices) -> Drawn:
    width = choices.integer(1, 4)
    backbone = layer("Sequential", *(_square(choices, width) for _ in range(choices.integer(1, 3))))
    frozen = layer("Frozen", backbone)
    return layer("Sequential", frozen, _square(choices, width)), (InputSpec(shape=(2, width)),)


def _buffers(choices: Choices) -> Drawn:
    dtypes = tuple(ITEMSIZES)
    first = choices.integer(0, len(dtypes) - 1)
    count = choices.integer(1, 5)
    chosen = (dtypes * 2)[first : first + count]
    shape = tuple(choices.integer(1, 3) for _ in range(choices.integer(1, 2)))
    buffered = layer("Buffered", dtypes=chosen, shape=shape, persistent=choices.integer(0, count))
    width = choices.integer(1, 4)
    return layer("Sequential", buffered, _square(choices, width)), (InputSpec(shape=(2, width)),)


def _mixed(choices: Choices) -> Drawn:
    channels, width = choices.integer(1, 3), choices.integer(1, 4)
    conv, out = _conv_layer(choices, 2, channels)
    head = layer("Frozen", _square(choices, width)) if choices.boolean() else _square(choices, width)
    parts = [
        conv,
        layer("BatchNorm2d", num_features=out),
        _activation(choices),
        layer("AdaptiveAvgPool2d", output_size=1),
        layer("Flatten"),
        layer("Linear", in_features=out, out_features=width),
        layer("Residual", _nest(choices, width, choices.integer(0, 1))),
        layer("Twice", width=width),
        layer("Buffered", dtypes=("int64", "bool"), shape=(2,), persistent=1),
        head,
    ]
    return layer("Sequential", *parts), _image(choices, channels, 2)


MODULE_FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "linear": _linear,
        "conv1d": _conv(1),
        "conv2d": _conv(2),
        "conv3d": _conv(3),
        "convtransposed": _convtransposed,
        "batchnorm": _batchnorm,
        "groupnorm": _groupnorm,
        "layernorm": _layernorm,
        "embedding": _embedding,
        "lstm": _lstm,
        "nested": _nested,
        "tied": _tied,
        "frozen": _frozen,
        "buffers": _buffers,
        "mixed": _mixed,
    }
)
