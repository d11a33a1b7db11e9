"""Which part of a checkpoint holds the weights."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch

import compat
from compat.errors import Mismatch
from compat.unwrapping import find
from tests.compat.making import torch_dumped

STATE = {"w": torch.ones(2), "b": torch.zeros(1)}
OTHER = {"w": torch.zeros(2), "b": torch.ones(1)}


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        (STATE, ""),
        ({"model_state_dict": STATE, "loss": torch.tensor(0.3)}, "model_state_dict"),
        ({"loss": torch.tensor(0.3), "generator": STATE}, "generator"),
        ({"ema": {"module": STATE, "decay": 0.9}}, "ema.module"),
        ({"state_dict": STATE, "hyper_parameters": {"class_weights": torch.ones(2)}}, "state_dict"),
        ({"model": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}}, "model"),
        ({"model": STATE, "opt": {"state": {"w": {"exp_avg": torch.ones(2)}}, "param_groups": []}}, "model"),
        ({"critic": STATE, "rng_state": {"torch": torch.ones(3)}}, "critic"),
        ({"last": {"accuracy": torch.tensor(0.5), "model": STATE}}, "last.model"),
        ({"state_dict": OrderedDict()}, "state_dict"),
        ({"w": torch.ones(1), "a._extra_state": {"x": torch.ones(1)}}, ""),
    ],
    ids=str,
)
def test_the_weights_are_found(tree: Any, key: str) -> None:
    assert find(tree).key == key


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"state_dict": STATE, "state_dict_ema": OTHER}, "'state_dict', 'state_dict_ema'"),
        ({"params": STATE, "params_ema": OTHER}, "'params', 'params_ema'"),
        ({"modelA_state_dict": STATE, "modelB_state_dict": OTHER}, "'modelA_state_dict', 'modelB_state_dict'"),
        ({"netG": STATE, "netD": OTHER}, "'netG', 'netD'"),
        ({"teacher": {"backbone": STATE}, "student": {"backbone": OTHER}}, "'teacher.backbone', 'student.backbone'"),
        ({"w": torch.ones(1), "stats": STATE}, "'', 'stats'"),
    ],
    ids=str,
)
def test_two_that_could_be_meant_are_named(tree: Any, named: str) -> None:
    with pytest.raises(Mismatch) as caught:
        find(tree)
    first = named.partition("'")[2].partition("'")[0]
    assert f"holds several states: {named}" in str(caught.value)
    assert f"key={first!r}" in str(caught.value)
    assert find(tree, first).key == first


def test_what_was_not_taken_is_said() -> None:
    found = find({"state_dict": STATE, "ema": {"module": OTHER}})
    assert found.key == "state_dict"
    assert found.notes == ["other weights lie at 'ema.module'"]


def test_a_key_may_lead_deep_and_have_dots() -> None:
    tree = {"models": [{"a.b": STATE}, {"a.b": OTHER}]}
    assert find(tree, "models.1.a.b").state is OTHER
    assert find(tree, "models.1.a.b").path == ("models", 1, "a.b")
    for key in ("models.2", "models.x", "models.1.a", "models.0.a.b.w.x"):
        with pytest.raises(Mismatch, match=r"has no key|leads to"):
            find(tree, key)


def test_the_weights_of_a_pickled_module_are_found_and_said() -> None:
    content = torch_dumped({"epoch": 1, "model": torch.nn.Linear(2, 2)})
    target = torch.nn.Linear(2, 2)
    report = compat.load_into(target, content)
    assert report.key == "model"
    assert "recovered from a pickled torch.nn.modules.linear.Linear" in report.notes[0]


def test_containers_that_hold_each_other_end() -> None:
    node: Any = {"x": 1}
    for _ in range(200):
        node = {f"k{n}": node for n in range(50)}
    with pytest.raises(Mismatch, match="holds no state_dict"):
        find(node)
