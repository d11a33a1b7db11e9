"""Layers of our own for what exporters meet: functional calls, attention, cells, transforms. torch alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch.nn import functional


class Added(torch.nn.Module):
    """The sum of what its children make of one input."""

    def __init__(self, *layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run every child on the input, and add what they give."""
        total = torch.zeros_like(x)
        for child in self.layers:
            total = total + child(x)
        return total


class Functional(torch.nn.Module):
    """Activations by their functions, with arguments that their modules do not have by default."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what the functions give."""
        total = functional.gelu(x, approximate="tanh") + functional.hardswish(x) + functional.leaky_relu(x, 0.2)
        total = total + functional.softmax(x, dim=-1) + functional.log_softmax(x, dim=-1) + functional.elu(x, alpha=0.5)
        return total + functional.softplus(x, beta=2.0) + functional.logsigmoid(x) + functional.hardtanh(x, -0.5, 0.5)


class Attention(torch.nn.Module):
    """Self-attention by `torch.nn.MultiheadAttention`, with a causal mask where it is asked for."""

    def __init__(self, *, width: int, heads: int, masked: bool, kdim: int | None = None) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(width, heads, batch_first=True, kdim=kdim, vdim=kdim)
        self.masked = masked
        self.key = torch.nn.Identity() if kdim is None else torch.nn.Linear(width, kdim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend to the input itself."""
        key = self.key(x)
        mask = torch.ones(x.size(1), x.size(1), dtype=torch.bool).triu(1) if self.masked else None
        return self.attention(x, key, key, need_weights=False, attn_mask=mask)[0]  # type: ignore[no-any-return]


class ScaledDot(torch.nn.Module):
    """`scaled_dot_product_attention` of three projections."""

    def __init__(self, *, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.project = torch.nn.Linear(width, 3 * width)
        self.heads = heads
        self.width = width
        self.causal = causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project, attend, and put the heads together."""
        batch, length = x.size(0), x.size(1)
        parts = self.project(x).view(batch, length, 3, self.heads, self.width // self.heads).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=self.causal)
        return seen.transpose(1, 2).reshape(batch, length, self.width)


class Encoder(torch.nn.Module):
    """`torch.nn.TransformerEncoder`, with a causal mask where it is asked for."""

    def __init__(self, *, width: int, heads: int, layers: int, masked: bool) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(width, heads, 2 * width, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.masked = masked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode a sequence."""
        mask = torch.ones(x.size(1), x.size(1), dtype=torch.bool).triu(1) if self.masked else None
        return self.encoder(x, mask=mask)  # type: ignore[no-any-return]


class Stateful(torch.nn.Module):
    """A recurrent child that is given its first state, and returns its last one."""

    def __init__(self, rnn: torch.nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the child."""
        output, last = self.rnn(x, state)
        return output, last


class Cells(torch.nn.Module):
    """A loop over time, written out with the cells of the three recurrent networks."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTMCell(width, width)
        self.gru = torch.nn.GRUCell(width, width)
        self.rnn = torch.nn.RNNCell(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Go through two steps."""
        hidden = x[:, 0]
        cell = hidden
        for step in range(2):
            hidden, cell = self.lstm(x[:, step], (hidden, cell))
            hidden = self.rnn(x[:, step], self.gru(x[:, step], hidden))
        return hidden


class Fourier(torch.nn.Module):
    """A filter in the frequency domain, with complex weights."""

    def __init__(self, *, size: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(size // 2 + 1, dtype=torch.complex64))
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform, multiply, transform back."""
        filtered: torch.Tensor = torch.fft.irfft(torch.fft.rfft(x, dim=-1) * self.weight, n=self.size, dim=-1)
        return filtered


class Unpooled(torch.nn.Module):
    """Max pooling with indices, and its inverse."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool and unpool."""
        pooled, indices = functional.max_pool2d(x, 2, return_indices=True)
        return functional.max_unpool2d(pooled, indices, [2, 2])


class Patches(torch.nn.Module):
    """Patches of an image, weighed and put together again."""

    def __init__(self, *, channels: int, size: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(channels * 4, 1))
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Unfold, multiply, fold."""
        patches = functional.unfold(x, kernel_size=2, stride=2) * self.weight
        folded: torch.Tensor = functional.fold(patches, (self.size, self.size), kernel_size=2, stride=2)
        return folded


class Distances(torch.nn.Module):
    """Distances to learned points."""

    def __init__(self, *, width: int, points: int) -> None:
        super().__init__()
        self.points = torch.nn.Parameter(torch.zeros(points, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Measure how far every row is from every point."""
        return torch.cdist(x, self.points)


class Pairs(torch.nn.Module):
    """`torch.nn.Bilinear` of an input with itself."""

    def __init__(self, *, width: int, out: int) -> None:
        super().__init__()
        self.bilinear = torch.nn.Bilinear(width, width, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the layer."""
        return self.bilinear(x, x)  # type: ignore[no-any-return]


class Chunked(torch.nn.Module):
    """A gate by one half of the input over the other: chunk, split, stack and cat."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate one half by the other."""
        first, second = torch.chunk(x, 2, dim=-1)
        stacked = torch.stack((first * torch.sigmoid(second), second), dim=-1)
        return torch.cat(torch.split(stacked, 1, dim=-1), dim=1).squeeze(-1)


# Every layer here by its name, as `modules.build_module` finds it.
EXPORTED: Final[Mapping[str, type[torch.nn.Module]]] = MappingProxyType(
    {
        cls.__name__: cls
        for cls in (
            Added,
            Attention,
            Cells,
            Chunked,
            Distances,
            Encoder,
            Fourier,
            Functional,
            Pairs,
            Patches,
            ScaledDot,
            Stateful,
            Unpooled,
        )
    }
)
