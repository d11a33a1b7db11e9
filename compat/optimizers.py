"""Optimizer state by parameter name.

torch numbers parameters in the order they were given to the optimizer, and loads state by that number: another
order gives every parameter the state of another one, silently. Here names are kept beside the numbers, and state
follows them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from compat.errors import Mismatch
from compat.keys import strip_prefix

Names = list[list[str | None]]

# State that concerns all parameters at once, laid out in their order (LBFGS).
_IN_ORDER: Final = frozenset({"old_dirs", "prev_flat_grad"})
# State that has the shape of its parameter, in the optimizers of torch.
_SHAPED: Final = frozenset(
    {
        "acc_delta",
        "ax",
        "exp_avg",
        "exp_avg_sq",
        "exp_inf",
        "grad_avg",
        "max_exp_avg_sq",
        "momentum_buffer",
        "prev",
        "square_avg",
        "step_size",
        "sum",
    }
)
# What learning rate schedulers keep for each group, in the groups' order.
_PER_GROUP: Final = frozenset(
    {"base_lrs", "base_momentums", "lr_lambdas", "max_lrs", "max_momentums", "min_lrs", "_last_lr"}
)
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """An optimizer's saved state in the order of another one.

    Attributes:
        state: ready for `load_state_dict`.
        groups: for each group there, which of the saved groups it was.
    """

    state: dict[str, Any]
    groups: list[int]


def parameter_names(models: Mapping[str, Any]) -> dict[int, str]:
    """The id of each parameter of some modules → its name, without wrappers' prefixes.

    With several modules, a name begins with the module's.
    """
    found: dict[int, str] = {}
    for model_name, module in models.items():
        for name, parameter in strip_prefix(dict(module.named_parameters())).items():
            found.setdefault(id(parameter), name if len(models) == 1 else f"{model_name}.{name}")
    return found


def names_of(optimizer: Any, known: Mapping[int, str]) -> Names:
    """The names of an optimizer's parameters, group by group; None for one that no module has."""
    return [[known.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]


def check_named(names: Names, source: str) -> None:
    """Refuse names that do not tell parameters apart.

    Raises:
        Mismatch: two parameters have one name.
    """
    doubled = [name for name, count in Counter(n for group in names for n in group if n).items() if count > 1]
    if doubled:
        raise Mismatch(f"two parameters of an optimizer are named {doubled[0]!r}", source=source)


def aligned(state: Mapping[str, Any], saved: Names | None, optimizer: Any, wanted: Names, source: str) -> Aligned:
    """An optimizer's saved state in the order of another one.

    Args:
        state: what `optimizer.state_dict()` gave.
        saved: the names of its parameters, None where they are unknown.
        optimizer: the optimizer to load it into.
        wanted: the names of its parameters.
        source: the file's name, for messages.

    Raises:
        Mismatch: the parameters are not the same ones, or groups with other options would have to be mixed.
    """
    groups = _groups(state, source)
    numbers = [number for group in groups for number in group["params"]]
    flat = None if saved is None else [name for group in saved for name in group]
    if flat is None or None in flat or any(None in group for group in wanted):
        made = Aligned(state=_by_order(state, groups, optimizer, source), groups=[*range(len(groups))])
    else:
        if len(flat) != len(numbers):
            raise Mismatch(f"names {len(flat):,} parameters, and has state for {len(numbers):,}", source=source)
        made = _by_name(state, groups, dict(zip(numbers, map(str, flat), strict=True)), wanted, source)
    _check_shapes(made.state, optimizer, source)
    return made


def _groups(state: Mapping[str, Any], source: str) -> list[dict[str, Any]]:
    groups = state.get("param_groups")
    if not isinstance(groups, list) or not isinstance(state.get("state"), dict):
        raise Mismatch(
            f"holds no optimizer state: its keys are {', '.join(map(repr, list(state)[:_SHOWN]))}",
            source=source,
            expected="'state' and 'param_groups', as optimizer.state_dict() gives them",
        )
    return groups


def _by_order(state: Mapping[str, Any], groups: list[dict[str, Any]], optimizer: Any, source: str) -> dict[str, Any]:
    had = [len(group["params"]) for group in groups]
    has = [len(group["params"]) for group in optimizer.param_groups]
    if had != has:
        raise Mismatch(
            f"has optimizer state for groups of {had} parameters",
            source=source,
            expected=f"groups of {has}",
            hint="Nothing was loaded.",
        )
    return dict(state)


def _by_name(
    state: Mapping[str, Any], groups: list[dict[str, Any]], names: Mapping[Any, str], wanted: Names, source: str
) -> Aligned:
    number_of = {name: number for number, name in names.items()}
    flat = [str(name) for group in wanted for name in group]
    _check_same(number_of, flat, source)
    if list(number_of) != flat and any(_IN_ORDER & set(found) for found in state["state"].values()):
        raise Mismatch(
            "its optimizer keeps one state for all parameters, in another order",
            source=source,
            expected="the same parameters in the same order",
        )
    made: list[dict[str, Any]] = []
    were: list[int] = []
    renumbered: dict[int, Any] = {}
    for group in wanted:
        start = len(renumbered)
        renumbered |= {start + at: number_of[str(name)] for at, name in enumerate(group)}
        was, options = _options(groups, [number_of[str(name)] for name in group], source)
        were.append(was)
        made.append({**options, "params": [*range(start, len(renumbered))]})
    kept = {new: state["state"][old] for new, old in renumbered.items() if old in state["state"]}
    return Aligned(state={**state, "state": kept, "param_groups": made}, groups=were)


def _check_same(saved: Collection[str], wanted: Collection[str], source: str) -> None:
    here = set(wanted)
    apart = {
        "not in the file": [name for name in wanted if name not in saved],
        "only in the file": [name for name in saved if name not in here],
    }
    said = [
        f"{what}: {', '.join(some[:_SHOWN])}{' …' if len(some) > _SHOWN else ''}"
        for what, some in apart.items()
        if some
    ]
    if said:
        raise Mismatch(
            f"its optimizer has other parameters ({'; '.join(said)})", source=source, hint="Nothing was loaded."
        )


def _options(groups: list[dict[str, Any]], numbers: Sequence[Any], source: str) -> tuple[int, dict[str, Any]]:
    """The group that some parameters were in, and its options; if in several, those must agree."""
    apart = ("params", "param_names")
    found = {
        at: {key: value for key, value in group.items() if key not in apart}
        for at, group in enumerate(groups)
        if set(numbers) & set(group["params"])
    }
    first = next(iter(found), 0)
    differing = sorted({k for options in found.values() for k in options if options[k] != found[first].get(k)})
    if differing:
        raise Mismatch(
            f"a group of the optimizer here mixes parameters of groups that differ in {', '.join(differing)}",
            source=source,
            expected="groups that were not mixed",
        )
    return first, found.get(first, {})


def scheduler_state(state: Any, groups: Sequence[int]) -> Any:
    """A learning rate scheduler's saved state for an optimizer whose groups have another order."""
    if type(state) is dict:
        return {
            key: [value[was] for was in groups]
            if key in _PER_GROUP and isinstance(value, list) and len(value) > max(groups, default=0)
            else scheduler_state(value, groups)
            for key, value in state.items()
        }
    return [scheduler_state(value, groups) for value in state] if isinstance(state, list) else state


def _check_shapes(state: Mapping[str, Any], optimizer: Any, source: str) -> None:
    """Refuse state that has not the shape of its parameter: it belongs to another one."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for key in sorted(_SHAPED & set(state["state"].get(number, ()))):
            shape = tuple(getattr(state["state"][number][key], "shape", parameter.shape))
            if shape != tuple(parameter.shape):
                raise Mismatch(
                    f"its optimizer state {key!r} number {number} has shape {list(shape)}",
                    source=source,
                    expected=f"{list(parameter.shape)}, the parameter's",
                    hint="The parameters are other ones, or in another order. Nothing was loaded.",
                )


def load_exactly(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Load aligned state, and keep the dtype that each tensor of it had.

    torch casts state to the parameter's dtype, which would round float32 moments of a bfloat16 parameter.
    """
    import torch

    optimizer.load_state_dict(state)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        live = optimizer.state.get(parameter, {})
        for key, value in state["state"].get(number, {}).items():
            if (
                isinstance(value, torch.Tensor)
                and isinstance(live.get(key), torch.Tensor)
                and live[key].dtype != value.dtype
            ):
                live[key] = value.to(device=live[key].device)
