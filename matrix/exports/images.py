"""Families of modules on images, signals and volumes: convolutions, norms, pools, resampling."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from matrix.choices import Choices
from matrix.modulespec import InputSpec, LayerSpec, layer

_BATCH: Final = 3
_SIZE: Final = 8

Drawn = tuple[LayerSpec, tuple[InputSpec, ...]]


def _input(channels: int, dims: int) -> tuple[InputSpec, ...]:
    return (InputSpec(shape=(_BATCH, channels, *(_SIZE,) * dims)),)


def _conv_bn(dims: int) -> Any:
    def draw(choices: Choices) -> Drawn:
        channels, groups = 2, choices.pick((1, 2))
        conv = layer(
            f"Conv{dims}d",
            in_channels=channels,
            out_channels=4,
            kernel_size=choices.pick((1, 3)),
            stride=choices.integer(1, 2),
            padding=choices.integer(0, 1),
            dilation=choices.integer(1, 2),
            groups=groups,
            bias=not choices.boolean(),
        )
        layers = [conv, layer(f"BatchNorm{dims}d", num_features=4), layer("ReLU")]
        return layer("Sequential", *layers), _input(channels, dims)

    return draw


def _norm(*, tracked: bool) -> Any:
    def draw(choices: Choices) -> Drawn:
        conv = layer("Conv2d", in_channels=2, out_channels=3, kernel_size=3)
        norm = layer("BatchNorm2d", num_features=3, track_running_stats=tracked, affine=not choices.boolean())
        return layer("Sequential", conv, norm), _input(2, 2)

    return draw


def _padding_modes(choices: Choices) -> Drawn:
    modes = ("zeros", "reflect", "replicate", "circular")
    convs = [
        layer("Conv2d", in_channels=2, out_channels=2, kernel_size=3, padding=1, padding_mode=choices.pick(modes))
        for _ in range(2)
    ]
    pad = layer(choices.pick(("ZeroPad2d", "ReflectionPad2d", "ReplicationPad2d")), padding=(1, 2, 0, 1))
    return layer("Sequential", *convs, pad), _input(2, 2)


def _same(choices: Choices) -> Drawn:
    conv = layer(
        "Conv2d", in_channels=2, out_channels=2, kernel_size=3, padding="same", dilation=2, bias=choices.boolean()
    )
    return layer("Sequential", conv), _input(2, 2)


def _transposed(dims: int) -> Any:
    def draw(choices: Choices) -> Drawn:
        conv = layer(
            f"ConvTranspose{dims}d",
            in_channels=2,
            out_channels=2,
            kernel_size=choices.pick((2, 3)),
            stride=2,
            padding=choices.integer(0, 1),
            output_padding=choices.integer(0, 1),
        )
        return layer("Sequential", conv, layer("ReLU")), _input(2, dims)

    return draw


def _transposed_grouped(choices: Choices) -> Drawn:
    conv = layer(
        "ConvTranspose2d",
        in_channels=4,
        out_channels=4,
        kernel_size=3,
        stride=2,
        groups=2,
        dilation=2,
        bias=choices.boolean(),
    )
    return layer("Sequential", conv, layer("BatchNorm2d", num_features=4)), _input(4, 2)


def _groupnorm(choices: Choices) -> Drawn:
    norm = layer("GroupNorm", num_groups=2, num_channels=4, affine=not choices.boolean())
    return layer("Sequential", norm, layer("SiLU")), _input(4, 2)


def _instancenorm(choices: Choices) -> Drawn:
    norm = layer("InstanceNorm2d", num_features=3, affine=choices.boolean(), track_running_stats=False)
    return layer("Sequential", norm), _input(3, 2)


def _pooling(choices: Choices) -> Drawn:
    dims = choices.integer(1, 2)
    kinds = (f"MaxPool{dims}d", f"AvgPool{dims}d")
    options = {"kernel_size": 2, "stride": choices.integer(1, 2), "ceil_mode": choices.boolean()}
    pools = [
        layer(f"AvgPool{dims}d", kernel_size=2),
        layer(choices.pick(kinds), padding=choices.integer(0, 1), **options),
    ]
    if choices.boolean():
        pools.append(layer(f"LPPool{dims}d", norm_type=2, kernel_size=2))
    return layer("Sequential", *pools, layer(f"AdaptiveAvgPool{dims}d", output_size=1)), _input(2, dims)


def _adaptive(choices: Choices) -> Drawn:
    return layer("Sequential", layer("AdaptiveAvgPool2d", output_size=choices.pick(((2, 4), (4, 1), (1, 2))))), _input(
        2, 2
    )


def _adaptive_odd(choices: Choices) -> Drawn:
    return layer("Sequential", layer("AdaptiveAvgPool2d", output_size=choices.pick(((3, 5), (5, 3))))), _input(2, 2)


def _upsample(choices: Choices) -> Drawn:
    mode = choices.pick(("nearest", "bilinear", "bicubic"))
    corners = {} if mode == "nearest" else {"align_corners": choices.boolean()}
    grow = layer("Upsample", scale_factor=2.0, mode=mode, **corners)
    return layer("Sequential", layer("PixelShuffle", upscale_factor=2), grow), _input(4, 2)


def _fixed(kind: str, **options: int) -> Any:
    def draw(choices: Choices) -> Drawn:
        conv = layer("Conv2d", in_channels=2, out_channels=2, kernel_size=1, bias=choices.boolean())
        return layer("Sequential", conv, layer(kind, **options)), _input(2, 2)

    return draw


# Name → the facts of the family.
IMAGES: Final[Mapping[str, dict[str, Any]]] = MappingProxyType(
    {
        "conv1d-bn": {"summary": "Conv1d, BatchNorm1d, ReLU", "draw": _conv_bn(1)},
        "conv2d-bn": {"summary": "Conv2d, BatchNorm2d, ReLU", "draw": _conv_bn(2), "general": True},
        "conv3d-bn": {"summary": "Conv3d, BatchNorm3d, ReLU", "draw": _conv_bn(3)},
        "bn-stats": {
            "summary": "Conv2d and a BatchNorm2d with running statistics",
            "draw": _norm(tracked=True),
            "precision": "deep",
        },
        "bn-no-stats": {
            "summary": "Conv2d and a BatchNorm2d without running statistics",
            "draw": _norm(tracked=False),
            "precision": "deep",
        },
        "padding-modes": {"summary": "convolutions and pads of every padding mode", "draw": _padding_modes},
        "padding-same": {"summary": "a dilated convolution that keeps the size", "draw": _same},
        "transposed1d": {"summary": "ConvTranspose1d", "draw": _transposed(1)},
        "transposed2d": {"summary": "ConvTranspose2d", "draw": _transposed(2)},
        "transposed3d": {"summary": "ConvTranspose3d", "draw": _transposed(3)},
        "transposed-grouped": {"summary": "ConvTranspose2d with groups and dilation", "draw": _transposed_grouped},
        "groupnorm": {"summary": "GroupNorm", "draw": _groupnorm, "precision": "deep"},
        "instancenorm": {"summary": "InstanceNorm2d", "draw": _instancenorm, "precision": "deep"},
        "lrn": {"summary": "LocalResponseNorm", "draw": _fixed("LocalResponseNorm", size=2)},
        "pooling": {"summary": "max, average, power-average and adaptive pools", "draw": _pooling, "general": True},
        "adaptive-pool": {"summary": "an adaptive pool whose output divides its input", "draw": _adaptive},
        "adaptive-pool-odd": {"summary": "an adaptive pool whose output does not", "draw": _adaptive_odd},
        "unpool": {"summary": "max pooling with indices, and its inverse", "draw": _fixed("Unpooled")},
        "upsample": {"summary": "pixel shuffle and interpolation", "draw": _upsample},
        "fold": {"summary": "unfold and fold", "draw": _fixed("Patches", channels=2, size=_SIZE)},
    }
)
