"""Drawn values that are no tensors, and the state of an optimizer."""

from __future__ import annotations

from typing import Any

from matrix.choices import Choices
from matrix.draft import Draft
from matrix.nodes import DeviceNode, DTypeNode, FloatNode, Node, SizeNode
from matrix.spec import ITEMSIZES, to_node


def json_extras(choices: Choices) -> dict[str, Any]:
    """Return plain values that JSON can hold exactly."""
    return {
        "epoch": choices.integer(0, 1000),
        "lr": choices.pick((0.5, 0.1, 1e-3, 3.0, -0.25)),
        "best": None,
        "done": choices.boolean(),
        "name": choices.text(),
        "history": [[choices.integer(0, 9), 0.5], ["a", [None, choices.boolean()]], []],
        "config": {"depth": choices.integer(1, 9), "act": choices.pick(("relu", "gelu"))},
    }


def empty_bytes(choices: Choices) -> dict[str, Any]:
    """Return empty bytes, which pickle protocol 2 writes in another way than any other bytes."""
    return {"raw": b"", "epoch": choices.integer(0, 9)}


def python_extras(choices: Choices) -> dict[str, Any]:
    """Return one value of every plain kind that JSON has no word for."""
    big = int.from_bytes(choices.bytes(12), "little") | 1 << 80
    payload = int.from_bytes(choices.bytes(6), "little")
    return {
        "betas": (choices.pick((0.9, 0.5)), 0.999),
        "raw": choices.bytes(choices.integer(1, 9)),
        "z": complex(choices.integer(0, 3), -0.0),
        "seen": {choices.integer(2, 9), choices.text(), 1},
        "nan": FloatNode(bits=f"{0x7FF8 << 48 | payload:016x}"),
        "inf": [float("inf"), float("-inf"), -0.0],
        "big": [big, -big],
        "shape": SizeNode(sizes=tuple(choices.integer(0, 5) for _ in range(choices.integer(0, 3)))),
        "dtype": DTypeNode(name=choices.pick(tuple(ITEMSIZES)[:4])),
        "device": DeviceNode(name=choices.pick(("cpu", "cuda:1", "meta"))),
        "pairs": {(1, "a"): (), 2.5: [()], None: 0, b"k": True},
    }


def optimizer(draft: Draft) -> Node:
    """Return what Adam's state_dict() returns after some steps."""
    choices = draft.choices
    count = choices.integer(1, 3)
    state: dict[Any, Any] = {}
    for index in range(count):
        shape = draft.shape()
        step = draft.tensor("float32", ())
        averages = {name: draft.tensor("float32", shape) for name in ("exp_avg", "exp_avg_sq")}
        state[index] = {"step": step, **averages}
    group = {
        "lr": choices.pick((1e-3, 0.1)),
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": False,
        "maximize": choices.boolean(),
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
        "decoupled_weight_decay": False,
        "params": list(range(count)),
    }
    return to_node({"state": state, "param_groups": [group]})
