"""Who writes and who reads in a cell: this torch, compat, the safetensors library.

Each is called the way its users call it. What it raises is told apart here: a refusal is an error that says
no; anything else is a crash.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from matrix.devices import MOVES
from matrix.trainings import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteMode:
    """How a cell writes.

    Attributes:
        format: the format's name; protocol: the pickle protocol, for formats that have one.
    """

    format: str
    protocol: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadMode:
    """How a cell reads.

    Attributes:
        map_location: the axis value's id; `MAP_LOCATIONS` says what is passed for it.
        moved: the id on the axis `moved` instead; `MOVES` says what is passed for it.
    """

    weights_only: bool = True
    mmap: bool = False
    map_location: str = "none"
    moved: str | None = None

    @property
    def passed(self) -> Any:
        """What is passed as map_location."""
        return MAP_LOCATIONS[self.map_location] if self.moved is None else MOVES[self.moved][0]


# What is passed as map_location for each value of the axis.
MAP_LOCATIONS: Final[MappingProxyType[str, Any]] = MappingProxyType(
    {
        "none": None,
        "cpu": "cpu",
        "device": torch.device("cpu"),
        "dict": {"cpu": "cpu"},
        "callable": lambda storage, _location: storage,
        "meta": "meta",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What an implementation says of loading into a module.

    Attributes:
        missing, unexpected, mismatched: the keys it names.
        warned: whether it tells of anything else.
    """

    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]
    warned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeCalls:
    """The calls of an implementation that stand for recipes.

    Attributes:
        weights: the state_dict that a file holds, or holds at a key; classes are not needed.
        load_into: loads the weights of a file, or those at a key, into a module.
        save_models: writes several models; load_models: loads several, by their names.
        snapshot: a state that does not follow what it was taken of.
    """

    weights: Callable[[Path, str | None], Any]
    load_into: Callable[[torch.nn.Module, Path, str | None], Any]
    save_models: Callable[[Mapping[str, torch.nn.Module], Path, WriteMode], Any]
    load_models: Callable[[Mapping[str, torch.nn.Module], Path], Any]
    snapshot: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """One writer and reader.

    Attributes:
        name: its id on the axes; write, read: what it does (None where it does not).
        refuses: the exceptions by which it says no.
        convert: writes one of its files again in another format, where it can.
        save_run: writes a training run; load_run: continues one from a file, where it can.
        load_into: loads a file into a module by a value of the axis `strictness`, where it can.
        recipes: its calls for whole recipes, where it has them.
        exporting: its calls for exports, by the name under which worker processes import them.
    """

    name: str
    write: Callable[[Any, Path, WriteMode], None]
    read: Callable[[Path, ReadMode], Any]
    refuses: Callable[[BaseException], bool]
    convert: Callable[[Path, Path, WriteMode], None] | None = None
    save_run: Callable[[Training, Path, WriteMode], None] | None = None
    load_run: Callable[[Training, Path], None] | None = None
    load_into: Callable[[torch.nn.Module, Path, str], Transferred] | None = None
    recipes: RecipeCalls | None = None
    exporting: str | None = None


def _torch_write(state: Any, path: Path, mode: WriteMode) -> None:
    torch.save(
        state,
        path,
        pickle_protocol=mode.protocol,
        _use_new_zipfile_serialization=mode.format == "torch-zip",
    )


def _torch_read(path: Path, mode: ReadMode) -> Any:
    options: dict[str, Any] = {"mmap": True} if mode.mmap else {}
    return torch.load(path, map_location=mode.passed, weights_only=mode.weights_only, **options)


def torch_reads_safetensors() -> bool:
    """Whether torch.load knows the suffix .safetensors, as it does since 2.13."""
    return "safetensors" in inspect.getsource(torch.load)


def _compat_write(state: Any, path: Path, mode: WriteMode) -> None:
    import compat

    compat.save(state, path, format=mode.format, overwrite=True)


def _compat_read(path: Path, mode: ReadMode) -> Any:
    import compat

    return compat.load(
        path,
        mode.passed,
        weights_only=mode.weights_only,
        mmap=mode.mmap,
    )


def _compat_convert(source: Path, target: Path, mode: WriteMode) -> None:
    import compat

    compat.convert(source, target, to=mode.format)


def _compat_save_run(run: Training, path: Path, mode: WriteMode) -> None:
    import compat

    compat.save_training(
        path,
        models=run.module,
        optimizers=run.optimizer,
        schedulers=run.scheduler,
        format=mode.format,
        step=run.step,
    )


def _compat_load_run(run: Training, path: Path) -> None:
    import compat

    loaded = compat.load_training(path, models=run.module, optimizers=run.optimizer, schedulers=run.scheduler)
    run.step = loaded["step"]


def _compat_load_into(module: torch.nn.Module, path: Path, strictness: str) -> Transferred:
    import compat

    report = compat.load_into(module, path, strict=strictness == "strict", skip_mismatched=strictness == "skip")
    return Transferred(
        missing=list(report.missing_keys),
        unexpected=list(report.unexpected_keys),
        mismatched=[key for key, *_ in report.mismatched_keys],
        warned=bool(report.notes),
    )


def _compat_recipes() -> RecipeCalls:
    import compat

    return RecipeCalls(
        weights=lambda path, key: compat.load_state_dict(path, key=key),
        load_into=lambda module, path, key: compat.load_into(module, path, key=key),
        save_models=lambda models, path, mode: compat.save_training(path, models=models, format=mode.format, rng=False),
        load_models=lambda models, path: compat.load_training(path, models=models),
        snapshot=compat.snapshot,
    )


def _compat_refuses(error: BaseException) -> bool:
    from compat.errors import CompatError

    return isinstance(error, CompatError)


def _safetensors_write(state: Any, path: Path, mode: WriteMode) -> None:
    from safetensors.torch import save_file

    del mode  # the format has no variants
    save_file(state, path)


def _safetensors_read(path: Path, mode: ReadMode) -> Any:
    from safetensors.torch import load_file

    device = MAP_LOCATIONS[mode.map_location]
    return load_file(path, device="cpu" if device is None else str(device))


def _any_exception(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, (MemoryError, RecursionError))


IMPLEMENTATIONS: Final[MappingProxyType[str, Implementation]] = MappingProxyType(
    {
        "torch": Implementation(name="torch", write=_torch_write, read=_torch_read, refuses=_any_exception),
        # Any error of ours that is not a CompatError is a defect, however it is worded.
        "compat": Implementation(
            name="compat",
            write=_compat_write,
            read=_compat_read,
            refuses=_compat_refuses,
            convert=_compat_convert,
            save_run=_compat_save_run,
            load_run=_compat_load_run,
            load_into=_compat_load_into,
            recipes=_compat_recipes(),
        ),
        "safetensors": Implementation(
            name="safetensors", write=_safetensors_write, read=_safetensors_read, refuses=_any_exception
        ),
    }
)
