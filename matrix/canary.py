"""Things that a pickle can call, each of which leaves a trace when it is called.

Files that name them are made for the check `inert`: whoever reads such a file without being asked to execute
it must leave no trace. The ways are those by which a pickle stream can run code.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

# What was called since `clear`, by the names of the ways.
TOUCHED: Final[list[str]] = []


def clear() -> None:
    """Forget what was called."""
    TOUCHED.clear()


def touch(way: str = "reduce") -> dict[str, str]:
    """Leave a trace."""
    TOUCHED.append(way)
    return {"touched": way}


class Reduced:
    """Pickled as a call of `touch`."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return touch, ("reduce",)


class Made:
    """Its `__new__` leaves a trace, which NEWOBJ calls."""

    def __new__(cls, *_args: object) -> Made:
        """Leave a trace."""
        touch("newobj")
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple[str]:
        return ("argument",)


class MadeByName:
    """Its `__new__` takes keywords, which NEWOBJ_EX (protocol 4) or a partial call brings."""

    def __new__(cls, **_kwargs: object) -> MadeByName:
        """Leave a trace."""
        touch("newobj-ex")
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, str]]:
        return (), {"name": "value"}


class Built:
    """Its `__setstate__` leaves a trace, which BUILD calls."""

    def __getstate__(self) -> dict[str, int]:
        return {"state": 1}

    def __setstate__(self, state: object) -> None:
        touch("build")


class Listed(list[int]):
    """Its `extend` leaves a trace, which APPENDS calls."""

    def extend(self, items: Any) -> None:
        """Leave a trace."""
        touch("appends")
        super().extend(items)

    def append(self, item: int) -> None:
        """Leave a trace."""
        touch("appends")
        super().append(item)

    def __reduce__(self) -> tuple[Any, ...]:
        return Listed, (), None, iter([1, 2])


class Keyed(dict[str, int]):
    """Its `__setitem__` leaves a trace, which SETITEMS calls."""

    def __setitem__(self, key: str, value: int) -> None:
        touch("setitems")
        super().__setitem__(key, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return Keyed, (), None, None, iter([("a", 1), ("b", 2)])


WAYS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "reduce": Reduced,
        "newobj": Made,
        "newobj-ex": MadeByName,
        "build": Built,
        "appends": Listed,
        "setitems": Keyed,
    }
)
