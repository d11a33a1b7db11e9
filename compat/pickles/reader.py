"""Run a vetted pickle stream on the C unpickler, with inert stand-ins for everything it names.

`find_class` never imports. It asks a table for the few names that have a meaning in the neutral model, and
answers every other name with a class of its own whose instances only remember what they were given.

Source of the rules: CPython's `Modules/_pickle.c` (BUILD calls `__setstate__`, APPENDS calls `extend`…).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from compat.checkpoint import GlobalName, Opaque, TensorRecord, TorchValue
from compat.data import MemoryData
from compat.errors import Corrupt, brief
from compat.pickles.textid import parse_text_id
from compat.pickles.vet import DEFAULT_LIMITS, Limits, vet

# Python 2 names of modules, as `pickle.Unpickler(fix_imports=True)` would map them.
_PYTHON2_MODULES: Final = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_PASSED_FREE: Final = 65536
_COUNTED: Final = (str, bytes, bytearray, list, tuple, dict, set, frozenset)


# Pays for the arguments of a call, and raises when the stream's budget is used up.
Spend = Callable[[tuple[Any, ...]], None]


def _free(_args: tuple[Any, ...]) -> None:
    """Outside of a stream nothing is paid for."""


class StandIn(Opaque):
    """The base of the classes that stand for names of the file; one subclass per name and stream.

    Every hook that the unpickler may call is defined here, and none does more than remember.
    """

    __slots__ = ()
    global_name: str = ""
    spend: ClassVar[Spend] = staticmethod(_free)

    def __new__(cls, *_args: Any, **_kwargs: Any) -> StandIn:
        """A bare instance; `NEWOBJ` calls this without `__init__`."""
        cls.spend(_args)
        made = super().__new__(cls)
        Opaque.__init__(made, cls.global_name, _args, _kwargs)
        return made

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        # `REDUCE` gets here, `NEWOBJ` does not.
        self.made_by = "call"

    def __call__(self, *args: Any, **kwargs: Any) -> StandIn:
        """What REDUCE calls on a made object, such as a functools.partial: remembered too, and no more."""
        made = type(self)(*args, **kwargs)
        made.callee = self
        return made

    def __setstate__(self, state: Any) -> None:
        """What BUILD calls."""
        type(self).spend((state,))
        self.state = state if self.state is None else (self.state, state)

    def append(self, item: Any) -> None:
        """What `APPEND` calls on what is no list."""
        self.items.append(item)

    def extend(self, items: Any) -> None:
        """What `APPENDS` calls on what is no list."""
        self.items.extend(items)

    def add(self, item: Any) -> None:
        """What `ADDITEMS` calls on what is no set."""
        self.items.append(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))


class Meaning:
    """A callable that a name stands for. It cannot be changed by the stream: BUILD on it is refused."""

    __slots__ = ("_call", "_spend", "name")

    def __init__(self, name: str, call: Callable[..., Any], spend: Spend = _free) -> None:
        self.name = name
        self._call = call
        self._spend = spend

    def counted(self, spend: Spend) -> Meaning:
        """The same meaning, whose every call is paid for."""
        return Meaning(self.name, self._call, spend)

    def __call__(self, *args: Any) -> Any:
        """What REDUCE calls: our own function, with the stream's arguments."""
        self._spend(args)
        made = self._call(*args)
        if isinstance(made, TensorRecord) and isinstance(made.storage.data, MemoryData):
            # Bytes of the stream that become a tensor's: every such tensor will have its own copy of them.
            self._spend((made.storage.data.buffer,))
        return made

    def __setstate__(self, state: object) -> None:
        """What BUILD calls: refused."""
        raise pickle.UnpicklingError(f"{self.name} is given a state")


Meanings = Mapping[str, Any]


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, stream: memoryview, meanings: Meanings, persistent: Callable[[Any], Any] | None, limits: Limits
    ) -> None:
        # Python 2 wrote byte strings where Python 3 has text: undecodable bytes survive as surrogates.
        super().__init__(io.BytesIO(stream), encoding="utf-8", errors="surrogateescape")
        self._meanings = meanings
        self._persistent = persistent
        self._limit = limits.globals
        self._left = limits.passed_per_byte * stream.nbytes + _PASSED_FREE
        self.named: dict[str, Any] = {}

    def _spend(self, passed: Any) -> None:
        """Count the elements and characters of arguments, those of nested lists and tuples too."""
        waiting = [passed]
        while waiting:
            value = waiting.pop()
            self._left -= len(value) + 1
            if self._left < 0:
                raise pickle.UnpicklingError("calls are given the same large values over and over")
            if isinstance(value, (list, tuple)):
                waiting += [item for item in value if isinstance(item, _COUNTED)]

    def find_class(self, module: str, name: str, /) -> Any:
        """What a name of the stream stands for; nothing is imported."""
        self._spend((module, name))
        named = GlobalName(_PYTHON2_MODULES.get(module, module), name)
        full = str(named)
        found = self.named.get(full)
        if found is None:
            if len(self.named) >= self._limit:
                raise pickle.UnpicklingError(f"more than {self._limit:,} different globals")
            # A constant that pickle takes for `torch.channels_last` of whatever module imports torch.
            constant = self._meanings.get(name)
            found = self._meanings.get(full, constant if isinstance(constant, TorchValue) else None)
            if isinstance(found, Meaning):
                found = found.counted(self._spend)
            elif isinstance(found, type):
                found = type("StandIn", (found,), {"__slots__": (), "spend": staticmethod(self._spend)})
            elif found is None:
                facts = {"__slots__": (), "global_name": named, "spend": staticmethod(self._spend)}
                found = type("StandIn", (StandIn,), facts)
            self.named[full] = found
        return found

    def persistent_load(self, pid: Any, /) -> Any:
        """What a persistent id stands for."""
        if isinstance(pid, str):
            self._spend((pid,))
            pid = parse_text_id(pid, self.find_class)
        if self._persistent is None:
            raise pickle.UnpicklingError(f"refers to a persistent object {brief(pid)}, which this format has none of")
        return self._persistent(pid)


@dataclass(frozen=True, slots=True)
class Stream:
    """Where a pickle stream was read: the bytes, the offset in them, and whom they belong to."""

    data: memoryview
    start: int
    source: str


_WATCHING: Final[ContextVar[list[Stream] | None]] = ContextVar("watching", default=None)


@contextmanager
def watched() -> Iterator[list[Stream]]:
    """A list of every stream that is read meanwhile, whichever format it lies in, before it is vetted."""
    streams: list[Stream] = []
    token = _WATCHING.set(streams)
    try:
        yield streams
    finally:
        _WATCHING.reset(token)


def read_pickle(
    data: bytes | bytearray | memoryview,
    start: int = 0,
    *,
    meanings: Meanings,
    persistent: Callable[[Any], Any] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    source: object = None,
) -> tuple[Any, int, list[str]]:
    """Read the pickle stream at `start`.

    Args:
        data: the stream, and perhaps more behind it.
        start: where it begins.
        meanings: what names stand for, by full name; every other name becomes a `StandIn`.
        persistent: what persistent ids stand for.
        limits: what the stream may cost.
        source: whom to name in errors.

    Returns:
        The tree, the offset just behind the stream, and every global it names, in order.

    Raises:
        Corrupt: the stream breaks the rules of pickles, or those of what its names stand for.
        Unsupported: it refers to things outside the file.
    """
    watching = _WATCHING.get()
    if watching is not None:
        watching.append(Stream(memoryview(data), start, "" if source is None else str(source)))
    end = vet(data, start, limits=limits, source=source)
    unpickler = _Unpickler(memoryview(data)[start:end], meanings, persistent, limits)
    try:
        tree = unpickler.load()
    except Corrupt as error:
        if error.source is None and source is not None:
            error.source = str(source)
        raise
    # The stream drives the unpickler into these by calling what cannot be called, or with wrong arguments.
    except (
        pickle.UnpicklingError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        KeyError,
        EOFError,
        OverflowError,
        RecursionError,
    ) as error:
        raise Corrupt(
            f"the pickle stream is damaged: {type(error).__name__}: {error!s:.200}",
            source=source,
            offset=start,
        ) from error
    return tree, end, list(unpickler.named)
