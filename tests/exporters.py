"""Deliberately broken exporters, by the names under which worker processes import them; see `miniatures`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from matrix.exports.subject import COMPAT, Loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """An artefact with other calls."""

    run: Callable[..., Any]
    state: Callable[[], Mapping[str, Any]]

    def state_dict(self) -> Mapping[str, Any]:
        return self.state()


def _running(change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[..., Loaded]:
    """compat, with the artefact's call changed."""

    def load(path: Path, target: str, options: Mapping[str, Any]) -> Loaded:
        loaded = COMPAT.load(path, target, options)
        return Changed(run=change(loaded.run), state=loaded.state_dict)

    return load


def _holding(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., Loaded]:
    """compat, with the artefact's weights changed."""

    def load(path: Path, target: str, options: Mapping[str, Any]) -> Loaded:
        loaded = COMPAT.load(path, target, options)
        return Changed(run=loaded.run, state=lambda: change(dict(loaded.state_dict())))

    return load


def _forgets(run: Callable[..., Any]) -> Callable[..., Any]:
    """Answers every call of a shape as it did the first."""
    seen: dict[tuple[int, ...], Any] = {}

    def called(*args: torch.Tensor) -> Any:
        return seen.setdefault(tuple(args[0].shape), run(*args))

    return called


def _guesses(run: Callable[..., Any]) -> Callable[..., Any]:
    """Cuts inputs that do not fit until they do."""

    def called(*args: torch.Tensor) -> Any:
        for width in range(args[0].shape[-1], 0, -1):
            try:
                return run(args[0][..., :width].float(), *args[1:])
            except Exception:  # noqa: BLE001, PERF203 - that is what it does
                continue
        return run(*args)

    return called


def _pads(run: Callable[..., Any]) -> Callable[..., Any]:
    """Knows the batch of the export alone, and fills up."""

    def called(*args: torch.Tensor) -> Any:
        rows = args[0].shape[0]
        return run(*(torch.cat((tensor, tensor, tensor))[:3] for tensor in args))[:rows]

    return called


def _trains(
    module: torch.nn.Module, inputs: Sequence[torch.Tensor], path: Path, target: str, options: Mapping[str, Any]
) -> object:
    """Runs the module itself before it exports, and leaves it as that left it."""
    module.train()(*inputs)
    return COMPAT.export(module.eval(), inputs, path, target, options)


def _raises(
    module: torch.nn.Module, inputs: Sequence[torch.Tensor], path: Path, target: str, options: Mapping[str, Any]
) -> object:
    raise IndexError("list index out of range")


FORGETS = replace(COMPAT, load=_running(_forgets))
GUESSES = replace(COMPAT, load=_running(_guesses))
PADS = replace(COMPAT, load=_running(_pads))
ROUNDS = replace(COMPAT, load=_running(lambda run: lambda *args: run(*args).to(torch.bfloat16).to(torch.float32)))
UNTIES = replace(COMPAT, load=_holding(lambda state: {key: tensor.clone() for key, tensor in state.items()}))
RENAMES = replace(COMPAT, load=_holding(lambda state: {f"model.{key}": tensor for key, tensor in state.items()}))
REWRITES = replace(COMPAT, load=_holding(lambda state: {key: tensor * 1.5 for key, tensor in state.items()}))
TRAINS = replace(COMPAT, export=_trains)
RAISES = replace(COMPAT, export=_raises)


def _dies(
    module: torch.nn.Module, inputs: Sequence[torch.Tensor], path: Path, target: str, options: Mapping[str, Any]
) -> object:
    os._exit(3)


def _hangs(
    module: torch.nn.Module, inputs: Sequence[torch.Tensor], path: Path, target: str, options: Mapping[str, Any]
) -> object:
    time.sleep(100)
    return None


DIES = replace(COMPAT, export=_dies)
HANGS = replace(COMPAT, export=_hangs)
