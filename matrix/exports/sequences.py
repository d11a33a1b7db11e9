"""Families of modules on sequences: embeddings, recurrent networks, attention."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from matrix.choices import Choices
from matrix.modulespec import InputSpec, LayerSpec, layer

_BATCH: Final = 3
_LENGTH: Final = 4

Drawn = tuple[LayerSpec, tuple[InputSpec, ...]]


def _sequence(width: int) -> tuple[InputSpec, ...]:
    return (InputSpec(shape=(_BATCH, _LENGTH, width)),)


def _indices(words: int) -> tuple[InputSpec, ...]:
    return (InputSpec(shape=(_BATCH, _LENGTH), indices=words),)


def _layernorm(choices: Choices) -> Drawn:
    width = choices.integer(2, 5)
    norm = layer("LayerNorm", normalized_shape=(width,), elementwise_affine=not choices.boolean())
    return layer("Sequential", norm, layer("Linear", in_features=width, out_features=2)), _sequence(width)


def _rmsnorm(choices: Choices) -> Drawn:
    width = choices.integer(2, 5)
    return layer("Sequential", layer("RMSNorm", normalized_shape=(width,))), _sequence(width)


def _embedding(choices: Choices) -> Drawn:
    words, width = choices.integer(3, 9), choices.integer(2, 4)
    embed = layer("Embedding", num_embeddings=words, embedding_dim=width, padding_idx=choices.pick((None, 0)))
    return layer("Sequential", embed, layer("Linear", in_features=width, out_features=2)), _indices(words)


def _bag(**options: Any) -> Any:
    def draw(choices: Choices) -> Drawn:
        words = choices.integer(3, 9)
        return layer("EmbeddingBag", num_embeddings=words, embedding_dim=3, **options), _indices(words)

    return draw


def _recurrent(kind: str, *, head: bool = True, **fixed: Any) -> Any:
    def draw(choices: Choices) -> Drawn:
        width, hidden = choices.integer(2, 4), choices.integer(2, 4)
        options = {
            "input_size": width,
            "hidden_size": hidden,
            "num_layers": choices.integer(1, 2),
            "bidirectional": choices.boolean(),
            "bias": True,
            "batch_first": True,
            **fixed,
        }
        rnn = layer(kind, **options)
        if not head:
            return rnn, _sequence(width)
        out = (options.get("proj_size") or hidden) * (2 if options["bidirectional"] else 1)
        linear = layer("Linear", in_features=out, out_features=2)
        return layer("Sequential", layer("Outputs", ("rnn", rnn)), linear), _sequence(width)

    return draw


def _with_state(choices: Choices) -> Drawn:
    width, hidden = choices.integer(2, 4), choices.integer(2, 4)
    rnn = layer("GRU", input_size=width, hidden_size=hidden, num_layers=1, batch_first=True)
    return layer("Stateful", ("rnn", rnn)), (*_sequence(width), InputSpec(shape=(1, _BATCH, hidden), batch=1))


def _cells(choices: Choices) -> Drawn:
    width = choices.integer(2, 4)
    return layer("Cells", width=width), _sequence(width)


def _attention(**fixed: Any) -> Any:
    def draw(choices: Choices) -> Drawn:
        heads = choices.integer(1, 2)
        width = heads * 2 * choices.integer(1, 2)
        return layer("Attention", width=width, heads=heads, **{"masked": False, **fixed}), _sequence(width)

    return draw


def _scaled(choices: Choices) -> Drawn:
    heads = choices.integer(1, 2)
    width = heads * 2 * choices.integer(1, 2)
    return layer("ScaledDot", width=width, heads=heads, causal=choices.boolean()), _sequence(width)


def _encoder(*, masked: bool) -> Any:
    def draw(choices: Choices) -> Drawn:
        heads = choices.integer(1, 2)
        width = 2 * heads
        layers = choices.integer(1, 2)
        return layer("Encoder", width=width, heads=heads, layers=layers, masked=masked), _sequence(width)

    return draw


# Name → the facts of the family.
SEQUENCES: Final[Mapping[str, dict[str, Any]]] = MappingProxyType(
    {
        "layernorm": {"summary": "LayerNorm and a linear layer", "draw": _layernorm, "precision": "deep"},
        "rmsnorm": {"summary": "RMSNorm", "draw": _rmsnorm, "precision": "deep"},
        "embedding": {"summary": "Embedding and a linear layer", "draw": _embedding},
        "bag": {"summary": "EmbeddingBag", "draw": _bag(mode="sum"), "precision": "deep"},
        "bag-mean": {"summary": "EmbeddingBag of means", "draw": _bag(mode="mean"), "precision": "deep"},
        "bag-padding": {
            "summary": "EmbeddingBag with padding_idx",
            "draw": _bag(mode="sum", padding_idx=0),
            "precision": "deep",
        },
        "lstm": {"summary": "LSTM", "draw": _recurrent("LSTM"), "precision": "deep", "general": True},
        "lstm-projected": {
            "summary": "LSTM with proj_size",
            "draw": _recurrent("LSTM", hidden_size=4, proj_size=2, bidirectional=False, num_layers=1),
            "precision": "deep",
        },
        "lstm-states": {
            "summary": "LSTM with its states as nested outputs",
            "draw": _recurrent("LSTM", head=False),
            "precision": "deep",
        },
        "gru": {"summary": "GRU", "draw": _recurrent("GRU"), "precision": "deep"},
        "rnn": {"summary": "RNN", "draw": _recurrent("RNN"), "precision": "deep"},
        "rnn-given-state": {"summary": "GRU with a given first state", "draw": _with_state, "precision": "deep"},
        "rnn-cells": {"summary": "a loop of LSTMCell, GRUCell and RNNCell", "draw": _cells, "precision": "deep"},
        "attention": {
            "summary": "MultiheadAttention",
            "draw": _attention(),
            "precision": "deep",
            "general": True,
        },
        "attention-masked": {
            "summary": "MultiheadAttention with a causal mask",
            "draw": _attention(masked=True),
            "precision": "deep",
        },
        "attention-kdim": {
            "summary": "MultiheadAttention with keys of another width",
            "draw": _attention(kdim=3),
            "precision": "deep",
        },
        "scaled-dot": {"summary": "scaled_dot_product_attention", "draw": _scaled, "precision": "deep"},
        "encoder": {"summary": "TransformerEncoder", "draw": _encoder(masked=False), "precision": "deep"},
        "encoder-masked": {
            "summary": "TransformerEncoder with a causal mask",
            "draw": _encoder(masked=True),
            "precision": "deep",
        },
    }
)
