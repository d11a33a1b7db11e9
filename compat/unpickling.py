"""The one door to real unpickling, for `weights_only=False` alone: torch's own, with classes found again.

A pickled module says where its class was imported from, not what it was. When the class has moved, the file does not
load until it is said where it is now: `renamed={"old.module": "new.module"}`, or of one class
`{"old.module.Net": "new.module.Net"}`.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any, Final

from compat.errors import MissingClass, Unsupported
from compat.sources import Source

_MOST_FOUND: Final = 3


def load_unsafe(
    torch: Any, source: Source, map_location: Any, *, mmap: bool | None, renamed: Mapping[str, str] | None
) -> Any:
    """What `torch.load(weights_only=False)` gives, with names of the file looked up where they are now.

    Raises:
        MissingClass: the file names what is not there.
        Unsupported: its own code failed, or what it says is not for this torch.
    """
    options = {"mmap": True} if mmap else {}
    target = io.BytesIO(source.read(0, source.size)) if source.path is None else source.path
    module = _pickle_module(dict(renamed or {}), source.name)
    try:
        return torch.load(target, map_location=map_location, weights_only=False, pickle_module=module, **options)
    except MissingClass:
        raise
    except Exception as error:  # the file's own code runs here, and may raise anything
        heeded = module.made or not isinstance(error, (ImportError, AttributeError))
        raise Unsupported(
            f"torch could not unpickle it: {type(error).__name__}: {error!s:.300}",
            feature="unpickling",
            source=source.name,
            expected="a file for this torch and these versions of its classes"
            if heeded
            # torch 1.13 has the argument pickle_module and uses its own.
            else f"torch 2.0 or newer, as torch {torch.__version__} does not let a class be looked up where it is now",
            hint="compat.load_state_dict gives the weights of pickled modules without any of its code.",
        ) from error


def _pickle_module(renamed: Mapping[str, str], source: str) -> Any:
    """What torch takes for the module `pickle`."""
    stand_in = SimpleNamespace(__name__="pickle", made=False)

    class Unpickler(pickle.Unpickler):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            stand_in.made = True

        def find_class(self, module: str, name: str, /) -> Any:
            place, attribute = _renamed(renamed, module, name)
            try:
                return super().find_class(place, attribute)
            except (ImportError, AttributeError) as error:
                raise _missing(f"{module}.{name}", place, attribute, error, source) from error

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    stand_in.Unpickler, stand_in.load = Unpickler, load
    return stand_in


def _renamed(renamed: Mapping[str, str], module: str, name: str) -> tuple[str, str]:
    """The module and the attribute that stand for those of a file; the longest name in the map decides."""
    whole = f"{module}.{name}"
    for old in sorted(renamed, key=len, reverse=True):
        if whole == old:
            place, _, attribute = renamed[old].rpartition(".")
            return place, attribute
        if module == old or module.startswith(f"{old}."):
            return renamed[old] + module[len(old) :], name
    return module, name


def _missing(name: str, place: str, attribute: str, error: Exception, source: str) -> MissingClass:
    found = sys.modules.get(place) if isinstance(error, AttributeError) else None
    looked = f"in {getattr(found, '__file__', None) or place}" if found is not None else f"in a module {place}"
    near = _elsewhere(attribute)
    return MissingClass(name, looked=looked, reason=str(error), near=near, source=source)


def _elsewhere(attribute: str) -> list[str]:
    """Where else, among what is imported, there is a class or function of that name."""
    found: dict[int, str] = {}
    for module in [*sys.modules.values()]:
        held = vars(module).get(attribute) if isinstance(module, ModuleType) else None
        home = getattr(held, "__module__", None)
        if callable(held) and isinstance(home, str) and getattr(held, "__qualname__", None) == attribute:
            found[id(held)] = f"{home}.{attribute}"
    return sorted(found.values())[:_MOST_FOUND]
