"""Whole modules by torch's own unpickler, when it was asked for in so many words, and their classes have moved."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import compat
from compat.errors import MissingClass, UnsafeGlobals, Unsupported

# Torch's, which keeps the source of classes in its old format.
pytestmark = pytest.mark.filterwarnings("ignore:.*source code.*")


class Net(torch.nn.Linear):
    """What the class is now."""


@pytest.fixture(params=["zip", "legacy"])
def moved(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A whole module whose class lay in `once.nets` when it was saved."""
    package, module = ModuleType("once"), ModuleType("once.nets")
    made: Any = type("Net", (torch.nn.Linear,), {"__module__": "once.nets"})
    vars(module)["Net"] = made
    sys.modules |= {"once": package, "once.nets": module}
    path = tmp_path / "whole.pt"
    old = made(2, 3)
    torch.save({"model": old, "n": 1}, path, _use_new_zipfile_serialization=request.param == "zip")
    torch.save(old.state_dict(), tmp_path / "state.pt")
    del sys.modules["once"], sys.modules["once.nets"]
    yield path
    for name in ("once", "once.nets"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("renamed", [{"once.nets.Net": f"{__name__}.Net"}, {"once.nets": __name__}])
def test_a_class_that_moved_is_named_and_found_again(moved: Path, renamed: dict[str, str]) -> None:
    with pytest.raises(MissingClass) as caught:
        compat.load(moved, weights_only=False)
    assert caught.value.name == "once.nets.Net"
    assert f"{__name__}.Net" in caught.value.near
    said = str(caught.value)
    assert "looked for in a module once.nets: No module named 'once'" in said
    assert "renamed={'once.nets.Net': " in said
    assert "compat.load_state_dict" in said
    loaded = compat.load(moved, weights_only=False, renamed=renamed)
    assert type(loaded["model"]) is Net
    state = torch.load(moved.with_name("state.pt"), weights_only=True)
    assert {k: v.numpy().tobytes() for k, v in loaded["model"].state_dict().items()} == {
        k: v.numpy().tobytes() for k, v in state.items()
    }


def test_a_module_without_the_class_says_where_it_looked(moved: Path) -> None:
    sys.modules |= {"once": ModuleType("once"), "once.nets": ModuleType("once.nets")}
    sys.modules["once.nets"].__file__ = "once/nets.py"
    with pytest.raises(MissingClass, match=r"names once\.nets\.Net, looked for in once/nets\.py: .*attribute 'Net'"):
        compat.load(moved, weights_only=False)
    with pytest.raises(MissingClass, match="in a module nowhere"):
        compat.load(moved, weights_only=False, renamed={"once": "nowhere", "once.nets": "nowhere"})


def test_the_weights_need_no_class(moved: Path) -> None:
    assert list(compat.load_state_dict(moved)) == ["weight", "bias"]
    with pytest.raises(UnsafeGlobals, match="load_state_dict"):
        compat.load(moved)
    with pytest.raises(ValueError, match="weights_only=False"):
        compat.load(moved, renamed={"once": "now"})
    assert "once" not in sys.modules


class Fails:
    """Its state is not for this version."""

    def __setstate__(self, state: Any) -> None:
        raise RuntimeError("not of this version")


def test_what_its_own_code_says_is_told(tmp_path: Path) -> None:
    made = Fails()
    vars(made)["x"] = 1
    torch.save(made, tmp_path / "x.pt")
    with pytest.raises(Unsupported, match=r"RuntimeError: not of this version"):
        compat.load(tmp_path / "x.pt", weights_only=False)
