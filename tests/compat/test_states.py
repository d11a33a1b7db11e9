"""The state_dict inside a checkpoint, found or asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import compat
from compat.errors import Mismatch, UnsafeGlobals
from compat.unwrapping import WRAPPER_KEYS
from tests.compat.making import FORMATS, dumped, torch_dumped

STATE = {"w": torch.ones(2), "b": torch.zeros(1)}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("key", [*WRAPPER_KEYS, "an_unusual_name"])
def test_the_only_state_is_found(key: str, name: str) -> None:
    loaded = compat.load_state_dict(dumped({"epoch": 3, key: STATE, "args": {"lr": 0.1}}, name))
    assert list(loaded) == ["w", "b"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_bare_state_is_itself(name: str) -> None:
    assert list(compat.load_state_dict(dumped(STATE, name))) == ["w", "b"]
    assert compat.load_state_dict(dumped({}, name)) == {}


def test_a_known_name_goes_before_an_unusual_one() -> None:
    assert list(compat.load_state_dict(dumped({"buffers": {"x": torch.ones(1)}, "model": STATE}))) == ["w", "b"]


@pytest.mark.parametrize(
    ("tree", "key", "message"),
    [
        ({"a": STATE, "b": STATE}, None, "holds several states: 'a', 'b'; expected one. Say which: key='a'."),
        ({"model": STATE, "ema": STATE}, None, "holds several states: 'model', 'ema'"),
        ({"a": 1}, None, "holds no state_dict at its top or below it, but dict of 'a'"),
        ([STATE], None, "but list"),
        (torch.ones(1), None, "but TensorRecord"),
        ({"a": {"b": {"c": {"d": STATE}}}}, None, "holds no state_dict"),
        ({"a": STATE}, "x", "has no key 'x' at its top; there is 'a'. Name one of these."),
        ([STATE], "x", "has no key 'x' at its top; there is list"),
    ],
)
def test_what_is_not_clear_is_refused(tree: Any, key: str | None, message: str) -> None:
    with pytest.raises(Mismatch) as caught:
        compat.load_state_dict(dumped(tree), key=key)
    assert message in str(caught.value)


def test_a_key_leads_to_what_it_names() -> None:
    two = dumped({"model": {f"module.{name}": value for name, value in STATE.items()}, "ema": STATE})
    assert list(compat.load_state_dict(two, key="ema")) == ["w", "b"]
    assert list(compat.load_state_dict(two, key="model")) == ["w", "b"]
    assert list(compat.load_state_dict(two, key="model", prefix=None)) == ["module.w", "module.b"]


def test_a_key_that_leads_to_no_dict_is_refused() -> None:
    for value in (3, [1], torch.ones(1)):
        with pytest.raises(Mismatch, match="'epoch' leads to"):
            compat.load_state_dict(dumped({"epoch": value, "model": STATE}), key="epoch")


class Config:
    pass


def test_unknown_objects_beside_the_state_do_no_harm() -> None:
    content = torch_dumped({"config": Config(), "model": STATE})
    assert list(compat.load_state_dict(content)) == ["w", "b"]
    with pytest.raises(UnsafeGlobals, match="Config"):
        compat.load(content)


def test_the_state_goes_where_it_is_told() -> None:
    assert compat.load_state_dict(dumped(STATE), map_location="meta")["w"].device.type == "meta"
