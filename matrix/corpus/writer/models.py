"""The modules that golden files hold. They are pickled, traced and scripted, so they are classes of their own.

The writer loads this file under the name `zoo`, which nothing else can import: a reader meets classes that are
not there, as one does in files of other people.
"""

from collections import OrderedDict
from contextlib import suppress
from typing import Any, Dict, List

import torch
from torch import nn


class Block(nn.Module):
    """A convolution and a normalisation, with buffers that are saved and one that need not be."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("steps", torch.tensor([3, 5]))
        with suppress(TypeError):  # torch before 1.5 saves every buffer
            self.register_buffer("scratch", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised convolution."""
        x = self.norm(self.conv(x))
        return x  # noqa: RET504 - a checker knows that this is a tensor


class Net(nn.Module):
    """Nested modules, a list of them, and an embedding that is tied to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 4)])
        self.table = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.table.weight
        self.scale = nn.Parameter(torch.tensor(0.5), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the head's output for a batch of images."""
        x = self.block(x).mean(3).mean(2)
        for layer in self.layers:
            x = layer(x)
        x = self.head(x)
        return x * self.scale


class Small(nn.Module):
    """What every compiler and exporter of torch takes: one convolution, one normalisation, one head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the head's output for a batch of images."""
        x = self.head(self.norm(self.conv(x)).mean(3).mean(2))
        return x  # noqa: RET504 - a checker knows that this is a tensor


class Weights(nn.Module):
    """Parameters and buffers of several dtypes and layouts, tied and sliced ones, and a constant."""

    part: torch.Tensor
    low: torch.Tensor
    count: torch.Tensor
    scratch: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        base = torch.arange(12.0).view(3, 4)
        self.weight = nn.Parameter(base / 8)
        self.tied = self.weight
        self.turned = nn.Parameter((base / 4).t())
        self.register_buffer("part", base[1:, 1:3])
        self.register_buffer("low", torch.tensor([0.5, -2.0]).half())
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("scratch", torch.tensor([1.5, 2.5, 3.5]), persistent=False)
        self.constant = torch.tensor([0.25, 0.125, 4.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use everything."""
        x = x.matmul(self.weight) + x.matmul(self.tied) + x.matmul(self.turned.t())
        x = x + (self.part.sum() + self.low.float().sum() + self.count)
        x = x[:, :3] * self.constant + self.scratch
        return x  # noqa: RET504 - a checker knows that this is a tensor


def fill(module: Any) -> Any:
    """Give every parameter and buffer distinct values that do not depend on torch's random numbers."""
    with torch.no_grad():
        for place, (_, value) in enumerate(sorted(module.state_dict().items())):
            if value.dtype in (torch.float32, torch.float16):
                count = value.numel()
                made = (torch.arange(float(count)) * 0.375 + 0.625 + place).view(tuple(value.size()))
                value.copy_(made)
    return module


def sequence() -> Any:
    """Return a nest of torch's own modules, recurrent and normalising ones among them."""
    inner = nn.Sequential(OrderedDict([("norm", nn.LayerNorm(3)), ("drop", nn.Dropout(0.5))]))
    return fill(nn.Sequential(nn.Linear(2, 3), inner, nn.LSTM(3, 2), nn.GroupNorm(1, 2)))


# What a compiled module holds beside its state, from torch 1.1 on.
ATTRIBUTES: Dict[str, Any] = {"sizes": [1, 2], "table": {"a": torch.ones(1)}}


def script_class() -> Any:
    """Return the class of a module that is compiled, not traced: torch 1.0 and 1.1 know no other way."""

    class Scripted(torch.jit.ScriptModule):
        """A weight, a buffer, a submodule and a branch."""

        __constants__ = ["limit"]  # noqa: RUF012 - as torch reads it

        def __init__(self) -> None:
            super().__init__()
            self.limit = 3
            self.weight = nn.Parameter(torch.tensor([[0.5, -1.5], [2.0, 4.0]]))
            self.register_buffer("seen", torch.tensor([2.0, 3.0]))
            self.inner = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
            if hasattr(torch.jit, "Attribute"):
                self.sizes = torch.jit.Attribute(ATTRIBUTES["sizes"], List[int])
                self.table = torch.jit.Attribute(ATTRIBUTES["table"], Dict[str, torch.Tensor])

        @torch.jit.script_method
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Return the product, or its negation."""
            x = self.inner(torch.mm(x, self.weight)) + self.seen
            if bool(x.sum() > self.limit):
                x = -x
            return x

    return Scripted
