"""Layers with the habits of real modules that exporters lose: state that changes, ties, branches. torch alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch


class Counting(torch.nn.Module):
    """Counts its calls in a buffer, and adds the count."""

    def __init__(self) -> None:
        super().__init__()
        self.count: torch.Tensor  # here, for TorchScript knows no such annotation of a class
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Count, and add."""
        self.count.add_(1)
        return x + self.count


class Lazy(torch.nn.Module):
    """A buffer behind torch's lazy negation, and one behind its lazy conjugation where the name says so."""

    def __init__(self, *, conjugate: bool) -> None:
        super().__init__()
        plain = torch.zeros(2, dtype=torch.complex64 if conjugate else torch.float32)
        self.lazy: torch.Tensor
        self.register_buffer("lazy", plain.conj() if conjugate else torch._neg_view(plain))  # noqa: SLF001 - its one door
        self.conjugate = conjugate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the sum of what the buffer stands for."""
        if self.conjugate:
            return x + torch.view_as_real(self.lazy.resolve_conj()).to(x.dtype)[:, 1].sum()
        return x + self.lazy.sum()


class Flags(torch.nn.Module):
    """Computes with an integer and a boolean buffer."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.steps: torch.Tensor
        self.mask: torch.Tensor
        self.register_buffer("steps", torch.zeros(width, dtype=torch.int64))
        self.register_buffer("mask", torch.zeros(width, dtype=torch.bool))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale by the integers, and mask by the booleans."""
        return (x * self.steps.to(x.dtype)).masked_fill(self.mask, 0.5)


class Passing(torch.nn.Module):
    """Has a buffer that is not in its state_dict."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.ones(width), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale."""
        return x * self.scale


class Extra(torch.nn.Module):
    """Keeps plain values in its state_dict, by `get_extra_state`."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[str, int] = {"version": 3}

    def get_extra_state(self) -> dict[str, int]:
        """Give what is kept."""
        return self.notes

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take what was kept."""
        self.notes = state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give twice the input."""
        return x * 2


class Nested(torch.nn.Module):
    """Returns a dict of tensors and of a tuple."""

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        """Give parts of the input."""
        return {"sum": x.sum(-1), "both": (x + 1, x * 2)}


class Branching(torch.nn.Module):
    """Takes one of two ways, by the values of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Double what sums up to more than nothing, and turn the rest."""
        if bool(x.sum() > 0):
            return x * 2
        return -x


class Unused(torch.nn.Module):
    """Has an input, a parameter and a buffer that nothing uses."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(width))
        self.idle = torch.nn.Parameter(torch.zeros(3))
        self.register_buffer("unused", torch.zeros(2, dtype=torch.int32))

    def forward(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Use the first and the last input."""
        del y
        return x * self.weight + z


class Through(torch.nn.Module):
    """Returns its input beside what it makes of it."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give the input, something made of it, and the input again."""
        return x, x + 1, x


class Shared(torch.nn.Module):
    """One child under two names."""

    def __init__(self, child: torch.nn.Module) -> None:
        super().__init__()
        self.first = child
        self.second = child

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run it twice."""
        return self.second(self.first(x))  # type: ignore[no-any-return]


class Doubled(torch.nn.Module):
    """One parameter under two names of one module."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.zeros(width))
        self.second = self.first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply by it, and add it."""
        return x * self.first + self.second


class Reparametrized(torch.nn.Module):
    """A linear layer whose weight is computed: by one of torch's parametrizations, or by its hooks before those."""

    def __init__(self, *, width: int, by: str) -> None:
        super().__init__()
        linear = torch.nn.Linear(width, width)
        if by == "old_weight_norm":
            torch.nn.utils.weight_norm(linear)
        else:
            getattr(torch.nn.utils.parametrizations, by)(linear)
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the layer."""
        return self.linear(x)  # type: ignore[no-any-return]


# Every layer here by its name, as `modules.build_module` finds it.
HABITS: Final[Mapping[str, type[torch.nn.Module]]] = MappingProxyType(
    {
        cls.__name__: cls
        for cls in (
            Branching,
            Counting,
            Doubled,
            Extra,
            Flags,
            Lazy,
            Nested,
            Passing,
            Reparametrized,
            Shared,
            Through,
            Unused,
        )
    }
)
