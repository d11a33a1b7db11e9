"""What a trace of a pickle stream finds: the names in it, and shadows of what it would make.

A shadow knows what it would be made by and what would lie in it, and is nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from compat.checkpoint import MAX_DEPTH, Attribute, Path
from compat.records import GlobalName

# Names that are not text in the stream, but what some call gives.
COMPUTED: Final = "<computed>"
_DOTTED: Final = 4  # from this protocol on, a dot in a name leads into what the name before it stands for


@dataclass(slots=True, eq=False)
class Named:
    """A class or function that a stream names, at one place.

    Attributes:
        name: what Python 3 would look up.
        written: what the stream says, where that is another name, as Python 2 had it.
        offset: the byte of the stream at which the opcode stands that names it.
        uses: `called`, `built` (given a state), `changed` (given a state itself), or nothing: only named.
        protocol: the stream's protocol at that place.
    """

    name: GlobalName
    written: str
    offset: int
    protocol: int
    uses: frozenset[str] = frozenset()

    @property
    def dotted(self) -> bool:
        """Whether the name leads through attributes of what the module holds."""
        return self.protocol >= _DOTTED and "." in self.name.qualname


# There are few ways to be used: a set of them is kept once.
_USES: Final[dict[frozenset[str], frozenset[str]]] = {}


class Memo:
    """What a stream stored under numbers; they mostly count up, so that a list holds them."""

    __slots__ = ("counted", "others")

    def __init__(self) -> None:
        self.counted: list[Any] = []
        self.others: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.counted) + len(self.others)

    def __contains__(self, index: int) -> bool:
        return 0 <= index < len(self.counted) or index in self.others

    def store(self, index: int, value: Any) -> None:
        """Store a value under any number."""
        if index == len(self.counted):
            self.counted.append(value)
        elif 0 <= index < len(self.counted):
            self.counted[index] = value
        else:
            self.others[index] = value

    def load(self, index: int) -> Any:
        """What was stored there; None where nothing was."""
        return self.counted[index] if 0 <= index < len(self.counted) else self.others.get(index)


class Shadow:
    """What a stream would make at one place.

    Attributes:
        kind: `list`, `dict`, `tuple`, `set`, `made` (by a call), `stored` (a persistent id) or `value`.
        by: what would make it, for what is made.
        named: the name that all of it began with: what is made by what is made… by a call of this name.
        below: the steps and values below it that lead to a name.
        size: how many items were appended to it.
    """

    __slots__ = ("below", "by", "kind", "named", "size")

    def __init__(self, kind: str, by: Any = None) -> None:
        self.kind = kind
        self.by = by
        self.named: Named | None = by.named if isinstance(by, Shadow) else by
        self.below: list[tuple[Any, Any]] | tuple[()] = ()
        self.size = 0

    def add(self, step: Any, value: Any) -> None:
        """Put a value below it, unless it is a plain one that leads nowhere."""
        if isinstance(value, (Shadow, Named)):
            if not self.below:
                self.below = []
            self.below.append((step, value))


@dataclass(slots=True, eq=False)
class Trace:
    """What one stream says.

    Attributes:
        names: every name, in the stream's order.
        root: what the whole stream would make; None where it breaks before.
        end: the offset behind the stream, or the place where it breaks.
        error: why an unpickler would stop, and at which byte; empty where it would not.
        protocol: the largest protocol that it declares.
        opcodes: the names of its opcodes.
        carried: how many classes it brings along with their source, as whole modules in old files do.
        inner: bytes in it that begin like a pickle or an archive, and where they stand.
    """

    names: list[Named] = field(default_factory=list)
    root: Any = None
    end: int = 0
    error: str = ""
    protocol: int = 0
    opcodes: set[str] = field(default_factory=set)
    carried: int = 0
    inner: list[tuple[int, bytes]] = field(default_factory=list)


def used(what: Any, how: str) -> None:
    """Say of a name how it is used; of what is made, say it of what made it."""
    if isinstance(what, Shadow):
        what = what.named
    if isinstance(what, Named):
        uses = what.uses | {how}
        what.uses = _USES.setdefault(uses, uses)


def places(root: Any, transparent: frozenset[str]) -> Iterator[tuple[Named, Path]]:
    """Every name that a tree of shadows holds, with the path that leads to it; each shadow is entered once.

    Args:
        root: what the stream would make.
        transparent: names of calls whose arguments are no places of their own: those that make a tensor lie
            where the tensor lies.
    """
    seen: set[int] = set()
    waiting = [iter([(root, (), False)])]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
            continue
        node, path, inside = found
        if isinstance(node, Named):
            yield node, path
        elif isinstance(node, Shadow) and id(node) not in seen:
            seen.add(id(node))
            waiting.append(_below(node, path, transparent, inside=inside))


def _below(node: Shadow, path: Path, transparent: frozenset[str], *, inside: bool) -> Iterator[tuple[Any, Path, bool]]:
    """What makes a shadow and what lies in it, with the path of each, and whether that is a place of its own."""
    if node.by is not None:
        yield node.by, path, False
    through = node.kind == "stored" or (isinstance(node.by, Named) and node.by.name in transparent)
    for step, value in node.below:
        hidden = (through and isinstance(step, Attribute)) or (inside and node.kind == "tuple")
        yield value, path if hidden or len(path) > MAX_DEPTH else (*path, step), hidden
