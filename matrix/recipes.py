"""The recipes by which tutorials save models, each with the call of ours that has them back.

A recipe saves something of an example's module, by torch or by compat, and has one state back, which must be the one
that is expected. Nothing here is compared; `matrix/checks/recipe.py` does.
"""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from matrix.implementations import Implementation, ReadMode, RecipeCalls, WriteMode


class UnpickledError(Exception):
    """Torch does not pickle the module as a whole, which only its own author can change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kitchen:
    """What a recipe works with.

    Attributes:
        fresh: makes the module of the example.
        blank: overwrites the state of a module with zeros; that makes another one, too.
        tutorial: torch, as tutorials save; who: the implementation that is tried, with its `calls`.
        path: where the file goes; mode: its format.
    """

    fresh: Callable[[], torch.nn.Module]
    blank: Callable[[torch.nn.Module], torch.nn.Module]
    tutorial: Implementation
    who: Implementation
    calls: RecipeCalls
    path: Path
    mode: WriteMode

    def another(self) -> torch.nn.Module:
        """A module like the example's, with other values."""
        return self.blank(self.fresh())

    def save(self, state: Any) -> None:
        """Save as tutorials do."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sources that cannot be kept
            self.tutorial.write(state, self.path, self.mode)

    def save_whole(self, state: Any) -> None:
        """Save what holds a module itself, as tutorials do.

        Raises:
            UnpickledError: its class, or something it holds, cannot be named in a pickle.
        """
        try:
            pickle.dumps(self.fresh())
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UnpickledError(f"torch.save(module) does not pickle it: {error}") from error
        self.save(state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What came of a recipe.

    Attributes:
        expected: the state that should have come back; seen: the one that did.
        module, twin: where a module came back, it and the one whose outputs it must give.
    """

    expected: Any
    seen: Any
    module: torch.nn.Module | None = None
    twin: torch.nn.Module | None = None


def _whole(kitchen: Kitchen) -> Served:
    kitchen.save_whole(kitchen.fresh())
    module = kitchen.who.read(kitchen.path, ReadMode(weights_only=False))
    twin = kitchen.fresh()
    return Served(expected=twin.state_dict(), seen=module.state_dict(), module=module, twin=twin)


def _recoverable(module: torch.nn.Module) -> Any:
    """The state that can be had without the classes: only those of torch have a version that is known."""
    state = module.state_dict()
    parts = dict(module.named_modules(remove_duplicate=False))
    metadata = getattr(state, "_metadata", {})
    known = [name for name in metadata if type(parts[name]).__module__.startswith("torch.")]
    vars(state)["_metadata"] = OrderedDict((name, metadata[name]) for name in known)
    if not known:
        del vars(state)["_metadata"]
    return state


def _whole_state(kitchen: Kitchen) -> Served:
    kitchen.save_whole(kitchen.fresh())
    return Served(expected=_recoverable(kitchen.fresh()), seen=kitchen.calls.weights(kitchen.path, None))


def _whole_parallel(kitchen: Kitchen) -> Served:
    kitchen.save_whole(torch.nn.DataParallel(kitchen.fresh()))
    return Served(expected=_recoverable(kitchen.fresh()), seen=kitchen.calls.weights(kitchen.path, None))


def _whole_inside(kitchen: Kitchen) -> Served:
    kitchen.save_whole({"epoch": 3, "net": kitchen.fresh(), "loss": 0.5})
    return Served(expected=_recoverable(kitchen.fresh()), seen=kitchen.calls.weights(kitchen.path, "net"))


def _weights(kitchen: Kitchen) -> Served:
    kitchen.save(kitchen.fresh().state_dict())
    return _into(kitchen, kitchen.another(), kitchen.fresh())


def _parallel(kitchen: Kitchen) -> Served:
    kitchen.save(torch.nn.DataParallel(kitchen.fresh()).state_dict())
    return _into(kitchen, kitchen.another(), kitchen.fresh())


def _into_parallel(kitchen: Kitchen) -> Served:
    kitchen.save(kitchen.fresh().state_dict())
    module = torch.nn.DataParallel(kitchen.another())
    kitchen.calls.load_into(module, kitchen.path, None)
    return Served(expected=kitchen.fresh().state_dict(), seen=module.module.state_dict())


def _general(kitchen: Kitchen) -> Served:
    module = kitchen.fresh()
    optimizer = torch.optim.Adam([*module.parameters(), torch.nn.Parameter(torch.ones(1))])
    state = {"epoch": 3, "model_state_dict": module.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    kitchen.save({**state, "scheduler_state_dict": None, "loss": torch.tensor(0.5)})
    return _into(kitchen, kitchen.another(), kitchen.fresh())


def _several(kitchen: Kitchen) -> Served:
    kitchen.save(
        {"modelA_state_dict": kitchen.fresh().state_dict(), "modelB_state_dict": kitchen.another().state_dict()}
    )
    return _into(kitchen, kitchen.fresh(), kitchen.another(), "modelB_state_dict")


def _several_saved(kitchen: Kitchen) -> Served:
    kitchen.calls.save_models({"generator": kitchen.fresh(), "critic": kitchen.another()}, kitchen.path, kitchen.mode)
    expected = kitchen.another().state_dict()
    return Served(expected=expected, seen=kitchen.calls.weights(kitchen.path, "critic_state_dict"))


def _several_loaded(kitchen: Kitchen) -> Served:
    kitchen.calls.save_models({"generator": kitchen.fresh(), "critic": kitchen.another()}, kitchen.path, kitchen.mode)
    # By name, in whatever order they are given.
    models = {"critic": kitchen.fresh(), "generator": kitchen.another()}
    kitchen.calls.load_models(models, kitchen.path)
    return Served(
        expected=[kitchen.another().state_dict(), kitchen.fresh().state_dict()],
        seen=[module.state_dict() for module in models.values()],
    )


def _best(kitchen: Kitchen) -> Served:
    module = kitchen.fresh()
    best = kitchen.calls.snapshot(module.state_dict())
    kitchen.blank(module)  # the training that goes on
    kitchen.who.write(best, kitchen.path, kitchen.mode)
    return _into(kitchen, kitchen.another(), kitchen.fresh())


def _into(kitchen: Kitchen, module: torch.nn.Module, wanted: torch.nn.Module, key: str | None = None) -> Served:
    kitchen.calls.load_into(module, kitchen.path, key)
    return Served(expected=wanted.state_dict(), seen=module.state_dict(), module=module, twin=wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe, in a few words, and whether it is torch that saves by it."""

    summary: str
    cook: Callable[[Kitchen], Served]
    by_torch: bool = True


RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "weights": Recipe(summary="state_dict() saved, loaded into a new module", cook=_weights),
        "whole": Recipe(summary="the module saved, loaded with weights_only=False", cook=_whole),
        "whole-weights": Recipe(summary="the module saved, its weights had without its class", cook=_whole_state),
        "whole-parallel": Recipe(summary="the same of a module in DataParallel", cook=_whole_parallel),
        "whole-inside": Recipe(summary="the same of a module inside a checkpoint", cook=_whole_inside),
        "parallel": Recipe(summary="state_dict() of DataParallel, loaded into a plain module", cook=_parallel),
        "into-parallel": Recipe(summary="state_dict(), loaded into a module in DataParallel", cook=_into_parallel),
        "general": Recipe(summary="epoch, model, optimizer, no scheduler, loss", cook=_general),
        "several": Recipe(summary="two models in one file, the second loaded by its key", cook=_several),
        "several-one": Recipe(
            summary="save_training of two models, one had by its key", cook=_several_saved, by_torch=False
        ),
        "several-all": Recipe(
            summary="save_training of two models, both loaded by name", cook=_several_loaded, by_torch=False
        ),
        "best": Recipe(summary="snapshot of a state_dict(), saved after training went on", cook=_best, by_torch=False),
    }
)
