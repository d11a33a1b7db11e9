"""What the check `export` judges: compat's calls, by the name under which worker processes find them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

import torch


class Loaded(Protocol):
    """An artefact that is ready."""

    @property
    def run(self) -> Callable[..., Any]:
        """Calls it."""

    def state_dict(self) -> Mapping[str, Any]:
        """The weights in it, or beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One way to export, and to have back.

    Attributes:
        export: writes the artefact of a module: (module, inputs, path, target, options).
        load: makes it ready, in a process that never saw the module: (path, target, options).
        refuses: whether an error says no, and at which stage; None where it is a crash.
    """

    export: Callable[[torch.nn.Module, Sequence[torch.Tensor], Path, str, Mapping[str, Any]], object]
    load: Callable[[Path, str, Mapping[str, Any]], Loaded]
    refuses: Callable[[BaseException], str | None]


def _export(
    module: torch.nn.Module, inputs: Sequence[torch.Tensor], path: Path, target: str, options: Mapping[str, Any]
) -> object:
    import compat

    return compat.export(module, inputs, path, target=target, **options)


def _load(path: Path, target: str, options: Mapping[str, Any]) -> Loaded:
    import compat

    return compat.load_exported(path, target=target, **options)


def _refuses(error: BaseException) -> str | None:
    from compat.errors import CompatError

    if not isinstance(error, CompatError):
        return None
    feature = getattr(error, "feature", None)
    return feature if feature in ("save", "load", "run") else "export"


COMPAT: Final = Subject(export=_export, load=_load, refuses=_refuses)
NAME: Final = f"{__name__}:COMPAT"


def find(name: str) -> Subject:
    """The subject of a name, `package.module:attribute`."""
    package, _, attribute = name.partition(":")
    found: Subject = getattr(import_module(package), attribute)
    return found
