"""Training runs, deterministic from a seed: what `resume` interrupts, and what it must go on as.

A run is a module, an optimizer over it, a learning rate scheduler, and batches that depend on the step and on the
global random generators, so that a generator that was not continued shows in the values.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import torch

OPTIMIZERS: Final[MappingProxyType[str, dict[str, Any]]] = MappingProxyType(
    {
        "ASGD": {"lr": 0.01, "t0": 1},
        "Adadelta": {},
        "Adafactor": {"lr": 0.01},
        "Adagrad": {"lr": 0.01},
        "Adam": {"lr": 0.01, "amsgrad": True},
        "AdamW": {"lr": 0.01},
        "Adamax": {"lr": 0.01},
        "LBFGS": {"lr": 0.1, "max_iter": 3, "line_search_fn": "strong_wolfe"},
        "Muon": {"lr": 0.01},
        "NAdam": {"lr": 0.01},
        "RAdam": {"lr": 0.01},
        "RMSprop": {"lr": 0.01, "momentum": 0.9, "centered": True},
        "Rprop": {"lr": 0.01},
        "SGD": {"lr": 0.01, "momentum": 0.9, "nesterov": True},
        "SparseAdam": {"lr": 0.01},
    }
)
# Optimizers that take all parameters in one group.
ONE_GROUP: Final = frozenset({"LBFGS"})

_SCHEDULERS: Final = torch.optim.lr_scheduler
SCHEDULERS: Final[MappingProxyType[str, Callable[[Any], Any] | None]] = MappingProxyType(
    {
        "none": None,
        "ChainedScheduler": lambda o: _SCHEDULERS.ChainedScheduler(
            [_SCHEDULERS.ConstantLR(o, 0.5, 2), _SCHEDULERS.ExponentialLR(o, 0.9)]
        ),
        "ConstantLR": lambda o: _SCHEDULERS.ConstantLR(o, 0.5, 3),
        "CosineAnnealingLR": lambda o: _SCHEDULERS.CosineAnnealingLR(o, 5),
        "CosineAnnealingWarmRestarts": lambda o: _SCHEDULERS.CosineAnnealingWarmRestarts(o, 2),
        "CyclicLR": lambda o: _SCHEDULERS.CyclicLR(o, 0.001, 0.01, step_size_up=2, cycle_momentum=False),
        "ExponentialLR": lambda o: _SCHEDULERS.ExponentialLR(o, 0.9),
        "LambdaLR": lambda o: _SCHEDULERS.LambdaLR(o, lambda epoch: 0.9**epoch),
        "LinearLR": lambda o: _SCHEDULERS.LinearLR(o, 0.5, 1.0, 3),
        "MultiStepLR": lambda o: _SCHEDULERS.MultiStepLR(o, [1, 3]),
        "MultiplicativeLR": lambda o: _SCHEDULERS.MultiplicativeLR(o, lambda _epoch: 0.9),
        "OneCycleLR": lambda o: _SCHEDULERS.OneCycleLR(o, 0.01, total_steps=20, cycle_momentum=False),
        "PolynomialLR": lambda o: _SCHEDULERS.PolynomialLR(o, 6),
        "ReduceLROnPlateau": lambda o: _SCHEDULERS.ReduceLROnPlateau(o, patience=0, threshold=10.0),
        "SequentialLR": lambda o: _SCHEDULERS.SequentialLR(
            o, [_SCHEDULERS.ConstantLR(o, 0.5, 2), _SCHEDULERS.ExponentialLR(o, 0.9)], [2]
        ),
        "StepLR": lambda o: _SCHEDULERS.StepLR(o, 2),
    }
)


class NotTrainableError(Exception):
    """This module and this optimizer do not go together."""


@dataclass(slots=True, kw_only=True)
class Training:
    """A run that can be stopped after any step.

    Attributes:
        module, optimizer, scheduler: what is trained and how; inputs: what the module is called with.
        step: how many steps were taken.
        losses: what came of each.
    """

    module: torch.nn.Module
    inputs: Sequence[torch.Tensor]
    optimizer: Any
    scheduler: Any = None
    step: int = 0
    losses: list[torch.Tensor] = field(default_factory=list)

    def run(self, steps: int) -> None:
        """Take some steps."""
        self.module.train()
        for _ in range(steps):
            loss = self.optimizer.step(self._closure)
            if self.scheduler is not None:
                plateau = isinstance(self.scheduler, _SCHEDULERS.ReduceLROnPlateau)
                self.scheduler.step(float(loss)) if plateau else self.scheduler.step()
            self.losses.append(loss.detach().clone())
            self.step += 1

    def _closure(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        noise = torch.rand(()) * random.random()  # noqa: S311 - the generator that must go on
        parts = [o.float().abs() if not o.is_complex() else o.abs() for o in _tensors(self.module(*self.inputs))]
        loss = torch.stack([(part * (1 + noise)).square().mean() for part in parts if part.numel()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        return loss


def _tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    return [tensor for item in output for tensor in _tensors(item)] if isinstance(output, (list, tuple)) else []


def embeddings() -> torch.nn.Module:
    """A module with sparse gradients, the only ones that SparseAdam takes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Embedding(6, 4, sparse=True))


def start(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    *,
    optimizer: str,
    scheduler: str = "none",
    reordered: bool = False,
) -> Training:
    """A run at its beginning.

    Args:
        module: what is trained.
        inputs: what it is called with.
        optimizer: a name of `OPTIMIZERS`.
        scheduler: a name of `SCHEDULERS`.
        reordered: give the optimizer its groups, and the parameters of each, in the other order.

    Raises:
        NotTrainableError: the optimizer finds nothing in the module that it takes.
    """
    if optimizer == "SparseAdam":
        module, inputs = (module, inputs) if _is_sparse(module) else (embeddings(), [torch.tensor([[0, 2], [5, 2]])])
    parameters = [p for p in module.parameters() if p.requires_grad and (optimizer != "Muon" or p.ndim == 2)]  # noqa: PLR2004 - matrices
    if not parameters:
        raise NotTrainableError(f"the module has no parameter that {optimizer} takes")
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if len(parameters) > 1 and optimizer not in ONE_GROUP:
        groups = [{"params": parameters[:1], "lr": 0.02}, {"params": parameters[1:]}]
    if reordered:
        groups = [{**group, "params": group["params"][::-1]} for group in groups[::-1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = getattr(torch.optim, optimizer)(groups, **OPTIMIZERS[optimizer])
        schedule = SCHEDULERS[scheduler]
        return Training(
            module=module, inputs=inputs, optimizer=made, scheduler=schedule(made) if schedule is not None else None
        )


def start_on(device: str, module: torch.nn.Module, inputs: Sequence[torch.Tensor], *, optimizer: str) -> Training:
    """A run on a device: the module goes there first, then the optimizer is made, as tutorials say."""
    made = start(module, inputs, optimizer=optimizer)
    # Which module and inputs are trained hangs on the optimizer.
    moved, there = made.module.to(device), [tensor.to(device) for tensor in made.inputs]
    return start(moved, there, optimizer=optimizer)


def astray(run: Training) -> list[str]:
    """The state of the optimizer that is not on the device of its parameter; single numbers may be on the CPU."""
    return [
        name
        for parameter, state in run.optimizer.state.items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.numel() > 1 and value.device != parameter.device
    ]


def _is_sparse(module: torch.nn.Module) -> bool:
    return any(getattr(part, "sparse", False) for part in module.modules())


def seed(number: int) -> None:
    """Set the global generators that a run draws from."""
    random.seed(number)
    torch.manual_seed(number)
