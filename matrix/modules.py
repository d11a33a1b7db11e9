"""Make the torch modules that module specs describe: deterministic from a seed, each one can be run.

The global random state is left as it was, and no value depends on torch's initialisers: parameters and
buffers are filled with bytes of our own, so running statistics are not the defaults that a loader might forget.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from math import prod
from typing import Any, Final

import torch

from matrix.draft import finite
from matrix.habits import HABITS
from matrix.layers import EXPORTED
from matrix.modulespec import InputSpec, LayerSpec, ModuleSpec
from matrix.peer import ITEMSIZES


class ModuleSpecError(ValueError):
    """A module spec that names a layer we do not have."""


class Residual(torch.nn.Module):
    """Adds its input to what its child makes of it."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the child; its output has the shape of its input."""
        output: torch.Tensor = x + self.body(x)
        return output


class Wrapped(torch.nn.Module):
    """Has a real child named `module`, which removers of the DataParallel prefix must leave alone."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> Any:
        """Run the child."""
        return self.module(x)


class Listed(torch.nn.Module):
    """Runs the children of a ModuleList one after the other."""

    def __init__(self, *layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, x: Any) -> Any:
        """Run every child on what the one before returned."""
        for child in self.layers:
            x = child(x)
        return x


class Named(torch.nn.Module):
    """Runs the children of a ModuleDict one after the other."""

    def __init__(self, **layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleDict(layers)

    def forward(self, x: Any) -> Any:
        """Run every child on what the one before returned."""
        for child in self.layers.values():
            x = child(x)
        return x


class Outputs(torch.nn.Module):
    """Keeps the sequence that a recurrent child returns, and drops its states."""

    def __init__(self, rnn: torch.nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the child and return its outputs."""
        output: torch.Tensor = self.rnn(x)[0]
        return output


class TiedHead(torch.nn.Module):
    """An embedding whose weight is also that of the linear head."""

    def __init__(self, *, words: int, width: int, padding_idx: int | None, bias: bool) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(words, width, padding_idx=padding_idx)
        self.head = torch.nn.Linear(width, words, bias=bias)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embed indices and score every word."""
        output: torch.Tensor = self.head(self.embedding(x))
        return output


class Twice(torch.nn.Module):
    """One Parameter under two names, in two layers."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.first = torch.nn.Linear(width, width)
        self.second = torch.nn.Linear(width, width)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run one layer, then the other."""
        output: torch.Tensor = self.second(self.first(x))
        return output


class Buffered(torch.nn.Module):
    """Holds a buffer per given dtype; those after `persistent` are not in the state_dict."""

    def __init__(self, *, dtypes: tuple[str, ...], shape: tuple[int, ...], persistent: int) -> None:
        super().__init__()
        available = [name for name in dtypes if hasattr(torch, name)]
        for index, name in enumerate(available):
            buffer = torch.zeros(prod(shape) * ITEMSIZES[name], dtype=torch.uint8)
            buffer = buffer.view(getattr(torch, name)).reshape(shape)
            self.register_buffer(f"{name}_buffer", buffer, persistent=index < persistent)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the input, so that the output shows whether a buffer came back."""
        output: torch.Tensor = x * self.get_buffer("scale")
        return output


class Frozen(torch.nn.Module):
    """A child whose parameters do not require gradients."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(requires_grad=False)

    def forward(self, x: Any) -> Any:
        """Run the child."""
        return self.backbone(x)


# Dtypes that numbers are copied into; the others are filled byte by byte.
_CONVERTED: Final = frozenset({"float16", "bfloat16", "float32", "float64", "complex64", "complex128"})

# The layers of our own; every other kind is a class of torch.nn.
LAYERS: Final[dict[str, type[torch.nn.Module]]] = {
    **{cls.__name__: cls for cls in (Buffered, Frozen, Listed, Named, Outputs, Residual, TiedHead, Twice, Wrapped)},
    **EXPORTED,
    **HABITS,
}


def build_module(spec: ModuleSpec) -> torch.nn.Module:
    """Return the module a spec describes, in eval mode, its values determined by the spec's seed."""
    with torch.random.fork_rng(devices=[]):
        module = _layer(spec.layer)
    _fill(module, random.Random(spec.seed))  # noqa: S311 - examples, not secrets
    return module.eval()


def example_inputs(spec: ModuleSpec) -> tuple[torch.Tensor, ...]:
    """Return what a module can be called with, determined by the spec's seed."""
    source = random.Random(f"inputs of {spec.seed}")  # noqa: S311 - examples, not secrets
    return tuple(_input(item, source) for item in spec.inputs)


def sized_inputs(spec: ModuleSpec, *, batch: int, number: int) -> tuple[torch.Tensor, ...]:
    """Return the inputs of one call in a row of calls, for a number of examples."""
    source = random.Random(f"call {number} of {spec.seed}")  # noqa: S311 - examples, not secrets
    return tuple(_input(item.sized(batch), source) for item in spec.inputs)


def in_precision(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """Return a module whose floating point tensors were turned into a dtype; complex ones stay as they are."""
    dtype: torch.dtype = getattr(torch, name)
    # Module.to would cast complex ones too.
    module._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return module


def forward(module: torch.nn.Module, inputs: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return a copy of every tensor a module returns for its inputs, in eval mode and without gradients.

    A copy, because convolutions return tensors over padded storages whose last bytes are never written.
    """
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            return [output.clone() for output in _flat(module(*inputs))]
    finally:
        module.train(was_training)


def _flat(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        output = output.values()
    if isinstance(output, (list, tuple, type({}.values()))):
        return [tensor for item in output for tensor in _flat(item)]
    return []


def _layer(spec: LayerSpec) -> torch.nn.Module:
    cls = LAYERS.get(spec.kind) or getattr(torch.nn, spec.kind, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        raise ModuleSpecError(f"no layer is called {spec.kind!r}, expected one of torch.nn or of {sorted(LAYERS)}")
    children = [(name, _layer(child)) for name, child in spec.children]
    if spec.kind == "Named":
        return Named(**dict(children))
    return cls(*(child for _, child in children), **dict(spec.options))


def _fill(module: torch.nn.Module, source: random.Random) -> None:
    """Overwrite every parameter and buffer, in the order of their names, a tied one once."""
    named = [*module.named_parameters(), *module.named_buffers()]
    with torch.no_grad():
        for name, tensor in named:
            values = _values(tuple(tensor.shape), source)
            if name.endswith("running_var"):
                values = values.abs() + 0.5
            if name.endswith((".0._u", ".0._v", "weight_u", "weight_v")):
                values = values / values.norm().clamp(min=0.1)  # the singular vectors of a spectral norm
            kind = str(tensor.dtype).removeprefix("torch.")
            if kind in _CONVERTED:
                tensor.copy_(torch.complex(values, 0.5 - values) if tensor.is_complex() else values)
            elif kind == "int64":
                tensor.copy_((values.abs() * 128).to(torch.int64))
            else:
                _fill_bytes(tensor, finite(kind, source.randbytes(tensor.numel() * ITEMSIZES[kind])))


def _fill_bytes(tensor: torch.Tensor, data: bytes) -> None:
    """Overwrite a contiguous buffer of a dtype that torch can hold but hardly compute with."""
    if data:
        raw = torch.empty(0, dtype=torch.uint8).set_(_untyped(tensor))
        raw.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))


def _untyped(tensor: torch.Tensor) -> Any:
    if hasattr(tensor, "untyped_storage"):
        return tensor.untyped_storage()
    typed: Any = tensor.storage()  # type: ignore[no-untyped-call]
    return typed._storage  # noqa: SLF001 - it had no other door before torch 2.0


def _values(shape: tuple[int, ...], source: random.Random) -> torch.Tensor:
    """Return float32 values of -1 to 1 that even the 8-bit floats can hold closely."""
    count = prod(shape)
    if not count:
        return torch.empty(shape)
    raw = torch.frombuffer(bytearray(source.randbytes(count)), dtype=torch.int8)
    return (raw.to(torch.float32) / 128).reshape(shape)


def _input(spec: InputSpec, source: random.Random) -> torch.Tensor:
    values = _values(spec.shape, source)
    if spec.indices is None:
        return values
    return (values * 128).to(torch.int64) % spec.indices
