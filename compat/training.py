"""Training checkpoints: everything a run needs to go on as if it had never stopped, in one file.

The file holds tensors and plain values alone, under the keys that tutorials use (`model_state_dict`,
`optimizer_state_dict`, `epoch`…), so that `torch.load(weights_only=True)` of every torch reads it too. Files
that training scripts wrote by those recipes load as well.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from compat.errors import KeyCollision, Mismatch, Unsupported
from compat.formats import Written
from compat.keys import strip_prefix
from compat.loading import MapLocation, load, local
from compat.loadreport import LoadReport
from compat.optimizers import (
    Aligned,
    Names,
    aligned,
    check_named,
    load_exactly,
    names_of,
    parameter_names,
    scheduler_state,
)
from compat.rng import rng_states, set_rng_states
from compat.saving import save
from compat.sources import SourceLike, open_source

_OWN: Final = "compat.training"
_VERSION: Final = 1
_RNG: Final = "rng_state"

# Where training scripts put the parts when there is one of each, most telling key first.
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "model": ("model_state_dict", "state_dict", "model_state", "model", "net", "module", "weights"),
    "optimizer": ("optimizer_state_dict", "optimizer", "optim_state_dict", "optim", "opt", "optimizer_states"),
    "scheduler": ("scheduler_state_dict", "scheduler", "lr_scheduler", "lr_scheduler_state_dict", "lr_schedulers"),
    "scaler": ("scaler_state_dict", "scaler", "grad_scaler", "amp"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What a training checkpoint gave back beside what it was loaded into.

    Attributes:
        extras: the values that were saved by name, such as `epoch`; `resumed["epoch"]` is one of them.
        models: for each model, what loading it did; see `load_into`.
        notes: what did not come back as it was, in words.
    """

    extras: dict[str, Any]
    models: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.extras[name]


def save_training(
    dst: Any,
    *,
    models: Any,
    optimizers: Any = None,
    schedulers: Any = None,
    scaler: Any = None,
    rng: bool = True,
    format: str | None = None,  # noqa: A002 - as in save
    keep_last: int | None = None,
    overwrite: bool = True,
    **extras: Any,
) -> Written:
    """Save everything a training run needs to go on.

    The file is a copy: what training changes later does not change it. It appears whole or not at all, and takes
    the place of an older one of that name only when it is complete.

    Args:
        dst: a path, or a file object open for writing bytes. With `keep_last`, its name has one field for a number
            among the extras, such as `step-{step}.pt`.
        models: a module, or several by name; wrappers' prefixes are left out of their keys.
        optimizers: an optimizer, or several by name; their state is kept by parameter name.
        schedulers: a learning rate scheduler, or several by name.
        scaler: a GradScaler.
        rng: keep the states of all random generators.
        format: the format's name; None goes by the suffix.
        keep_last: remove all but the newest n files of that name, by their number.
        overwrite: replace an existing file.
        extras: tensors and plain values by name: `epoch=3, best_accuracy=0.91`.

    Raises:
        KeyCollision: an extra has the name of something else in the file.
        Unsupported: something in there is no tensor and no plain value; nothing is written then.
        TargetExists: there is a file and `overwrite` is False.
    """
    parts = {
        "model": _named(models, "model"),
        "optimizer": _named(optimizers, "optimizer"),
        "scheduler": _named(schedulers, "scheduler"),
        "scaler": _named(scaler, "scaler"),
    }
    known = parameter_names(parts["model"])
    names: dict[str, Names] = {}
    tree: dict[str, Any] = {}
    for kind, objects in parts.items():
        for name, part in objects.items():
            state = part.state_dict()
            tree[f"{name}_state_dict"] = strip_prefix(state) if kind == "model" else _plain(state)
            if kind == "optimizer":
                names[name] = names_of(part, known)
                check_named(names[name], name)
    own = {"version": _VERSION, "parameters": names, **{kind: list(objects) for kind, objects in parts.items()}}
    own["classes"] = {
        name: type(part).__name__ for kind in ("optimizer", "scheduler") for name, part in parts[kind].items()
    }
    tree[_OWN] = own
    if rng:
        tree[_RNG] = rng_states()
    taken = sorted(tree.keys() & extras.keys())
    if taken:
        raise KeyCollision({taken[0]: [f"the extra {taken[0]}", f"the part {taken[0]}"]}, hint="Name it otherwise.")
    if keep_last is None:
        return save(tree | extras, dst, format=format, overwrite=overwrite)
    target, older = _numbered(dst, extras, keep_last)
    written = save(tree | extras, target, format=format, overwrite=overwrite)
    for path in older:
        path.unlink(missing_ok=True)
    return written


def _named(given: Any, kind: str) -> dict[str, Any]:
    """One object under its kind's name, or several under theirs."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(name): part for name, part in given.items() if part is not None}
    return {kind: given}


def _plain(state: Any) -> Any:
    """A state in containers that every torch's `weights_only=True` knows."""
    if isinstance(state, Counter):
        return {"counter": dict(state)}
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(map(_plain, state)) if type(state) in (list, tuple) else list(map(_plain, state))
    return state


def _numbered(dst: Any, extras: Mapping[str, Any], keep_last: int) -> tuple[Path, list[Path]]:
    """The path for this number, and those of the files that are more than `keep_last` behind it."""
    name = Path(dst).name
    found = re.fullmatch(r"(.*)\{(\w+)\}(.*)", name)
    if found is None or keep_last < 1 or type(extras.get(found[2])) is not int:
        raise Unsupported(
            f"keep_last={keep_last} with the name {name!r}",
            feature="keep_last",
            expected="one or more, and a name with one whole number of the extras in braces",
            hint='For instance save_training("step-{step}.pt", step=step, keep_last=3, …).',
        )
    number = extras[found[2]]
    pattern = re.compile(rf"{re.escape(found[1])}(-?\d+){re.escape(found[3])}")
    folder = Path(dst).parent
    earlier = {int(m[1]): path for path in folder.iterdir() if (m := pattern.fullmatch(path.name)) and path.is_file()}
    earlier.pop(number, None)
    newest = sorted(earlier)[::-1][: keep_last - 1]
    return folder / f"{found[1]}{number}{found[3]}", [path for n, path in earlier.items() if n not in newest]


def load_training(
    src: SourceLike,
    *,
    models: Any = None,
    optimizers: Any = None,
    schedulers: Any = None,
    scaler: Any = None,
    rng: bool = True,
    strict: bool = True,
    map_location: MapLocation = "cpu",
) -> Resumed:
    """Load a training checkpoint into live objects, which go on as if they had never stopped.

    Models first, where they are; each optimizer's state follows its parameters by name to their device. Nothing is
    changed when something does not fit. Files of the plain tutorial recipes load too; their optimizer state has no
    names, and is matched by order and shape.

    Args:
        src: a path, a file object open for reading bytes, or bytes.
        models: as for `save_training`; what is None stays in the file.
        optimizers: the same.
        schedulers: the same.
        scaler: the same.
        rng: continue all random generators where they were.
        strict: models must have exactly the keys of the file.
        map_location: where tensors of the extras go; what is loaded into objects goes where they are.

    Raises:
        Mismatch: the file lacks a part, or a part does not fit.
        CompatError: the file cannot be read; see `open`.
    """
    with open_source(local(src)) as source:
        tree = load(source, map_location)
        name = source.name
    if not isinstance(tree, dict):
        raise Mismatch(f"holds {type(tree).__name__}", source=name, expected="a dict, as a training checkpoint is")
    wanted = {
        "model": _named(models, "model"),
        "optimizer": _named(optimizers, "optimizer"),
        "scheduler": _named(schedulers, "scheduler"),
        "scaler": _named(scaler, "scaler"),
    }
    own = tree.get(_OWN, {})
    found = dict(_parts(tree, own, wanted, name))
    states = {(kind, part): tree[key] if at is None else tree[key][at] for (kind, part), (key, at) in found.items()}
    known = parameter_names(wanted["model"])
    notes: list[str] = []
    ready: dict[str, Aligned] = {}
    for part, optimizer in wanted["optimizer"].items():
        names = own.get("parameters", {}).get(part)
        if names is None:
            notes.append(f"the file does not name the parameters of {part}: its state was matched by order and shape")
        ready[part] = aligned(states["optimizer", part], names, optimizer, names_of(optimizer, known), name)
    notes += _other_classes(own, wanted)
    with _all_or_nothing() as changing:
        _load_small(wanted, states, ready, changing)
        reports = _load_models(wanted["model"], states, changing, strict=strict)
        for part, optimizer in wanted["optimizer"].items():
            load_exactly(optimizer, ready[part].state)
    if rng and _RNG in tree:
        notes += set_rng_states(tree[_RNG], name)
    held = {f"{part}_state_dict" for kind in wanted for part in own.get(kind, ())} | {key for key, _ in found.values()}
    extras = {key: value for key, value in tree.items() if key not in held | {_OWN, _RNG}}
    return Resumed(extras=extras, models=reports, notes=notes)


@contextlib.contextmanager
def _all_or_nothing() -> Iterator[list[Callable[[], None]]]:
    """What undoes each change so far, for when a later one fails."""
    undone: list[Callable[[], None]] = []
    try:
        yield undone
    except BaseException:
        for undo in reversed(undone):
            undo()
        raise


def _load_small(
    wanted: Mapping[str, dict[str, Any]],
    states: Mapping[tuple[str, str], Any],
    ready: Mapping[str, Aligned],
    changing: list[Callable[[], None]],
) -> None:
    """Load schedulers and scalers: before the models, since they are put back at no cost."""
    for part, scheduler in wanted["scheduler"].items():
        of = next((name for name, o in wanted["optimizer"].items() if o is getattr(scheduler, "optimizer", None)), None)
        state = _restored(states["scheduler", part])
        changing.append(_put_back(scheduler))
        scheduler.load_state_dict(state if of is None else scheduler_state(state, ready[of].groups))
    for part, target in wanted["scaler"].items():
        changing.append(_put_back(target))
        target.load_state_dict(states["scaler", part])


def _put_back(part: Any) -> Callable[[], None]:
    """What gives an object the attributes back that it has now."""
    # A scheduler of schedulers loads those inside, too.
    every = [part, *getattr(part, "_schedulers", ())]
    held = [(one, dict(vars(one))) for one in every]

    def put_back() -> None:
        for one, attributes in held:
            vars(one).clear()
            vars(one).update(attributes)

    return put_back


def _load_models(
    models: Mapping[str, Any],
    states: Mapping[tuple[str, str], Any],
    changing: list[Callable[[], None]],
    *,
    strict: bool,
) -> dict[str, LoadReport]:
    """Load models one by one; of all but the last a copy is kept, as a later one may not fit."""
    from compat.modules import load_into
    from compat.rehearsing import Undo

    reports = {}
    for number, (part, module) in enumerate(models.items(), 1):
        if number < len(models):
            changing.append(Undo(module))
        reports[part] = load_into(module, states["model", part], strict=strict)
    return reports


def _other_classes(own: Mapping[str, Any], wanted: Mapping[str, dict[str, Any]]) -> list[str]:
    """Notes of optimizers and schedulers that go on as another class than the one that was saved."""
    saved = own.get("classes", {})
    return [
        f"the state of {part} is that of {saved[part]}, and {type(target).__name__} goes on with it"
        for kind in ("optimizer", "scheduler")
        for part, target in wanted[kind].items()
        if saved.get(part, type(target).__name__) != type(target).__name__
    ]


def _parts(
    tree: Mapping[str, Any], own: Mapping[str, Any], wanted: Mapping[str, dict[str, Any]], source: str
) -> Iterator[tuple[tuple[str, str], tuple[str, int | None]]]:
    """For each kind and name that is wanted, the key that holds it, and the place in a list under that key."""
    for kind, objects in wanted.items():
        for number, part in enumerate(objects):
            candidates = [f"{part}_state_dict", part]
            if not own and len(objects) == 1:
                candidates += [key for key in _KEYS[kind] if key not in candidates]
            key = next((key for key in candidates if isinstance(tree.get(key), (dict, list))), None)
            listed = [key for key in _KEYS[kind] if isinstance(tree.get(key), list)] if key is None else []
            if key is None and listed and not own:
                key = listed[0]
            if key is None or (isinstance(tree[key], list) and number >= len(tree[key])):
                raise Mismatch(
                    f"holds no {kind} {part!r}; its keys are {', '.join(map(repr, list(tree)[:12]))}",
                    source=source,
                    expected=f"one of {', '.join(candidates)}",
                )
            # Lightning keeps a list of each.
            yield (kind, part), (key, number if isinstance(tree[key], list) else None)


def _restored(state: Any) -> Any:
    """A state in the containers it had; see `_plain`."""
    if isinstance(state, dict):
        if set(state) == {"counter"}:
            return Counter(state["counter"])
        return {key: _restored(value) for key, value in state.items()}
    return list(map(_restored, state)) if isinstance(state, list) else state


def snapshot(state: Any) -> Any:
    """A copy of a state_dict, or of any tree of tensors, that later training does not change.

    `module.state_dict()` gives references: kept as "the best model", they follow the training. Tensors that share
    storage share it in the copy, and `_metadata` is kept.
    """
    import copy

    return copy.deepcopy(state)
