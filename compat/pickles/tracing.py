"""Follow a pickle stream without running it: every name in it, where it stands, how it is used, what holds it.

The stream is walked once, opcode by opcode, on a stack of shadows: a shadow knows what it would be made by and
what would lie in it, and is nothing itself. Unlike `vet`, the walk forgives: what would stop an unpickler is
noted, and the walk goes on, because a hostile stream often breaks right behind what it came to do.

Source of the opcodes: CPython's `Lib/pickle.py`, `Lib/pickletools.py` and `Modules/_pickle.c`; of the names that
Python 2 had for the same things: `Lib/_compat_pickle.py`.
"""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Any, Final

from compat.checkpoint import Attribute
from compat.pickles.frames import Cursor
from compat.pickles.opcodes import STEPS
from compat.pickles.shadows import COMPUTED, Memo, Named, Shadow, Trace, used
from compat.records import GlobalName

_PYTHON3: Final = 3  # from this protocol on, names are those of Python 3
# Bounds of what a trace may take: without a shadow a name has no place, and is found all the same.
_SHADOWS: Final = 200_000
_BYTES_PER_SHADOW: Final = 8
_REPEATED: Final = 100_000
_DIFFERENT: Final = 50_000
_NOTHING: Final = memoryview(b"")


def trace(data: bytes | bytearray | memoryview, start: int = 0) -> Trace:
    """Follow the stream that begins at `start`; never raises, whatever the bytes are."""
    tracer = Tracer(memoryview(data), start)
    found = tracer.run()
    if tracer.cursor.crossed:
        # There are two readings: a straight one, and that of an unpickler which loses the rest of a frame.
        found.error = found.error or "an opcode crosses the end of its frame"
        other = Tracer(memoryview(data), start, drops=True).run()
        known = {(str(named.name), named.offset) for named in found.names}
        found.names += [named for named in other.names if (str(named.name), named.offset) not in known]
        found.inner += other.inner
    return found


class Tracer:
    """One walk over one stream; what each opcode does to it is said in `compat.pickles.opcodes`."""

    def __init__(self, data: memoryview, start: int, *, drops: bool = False) -> None:
        self.data = data
        self.cursor = Cursor(data, drops=drops)
        self.start = start
        self.position = start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: Memo = Memo()
        self.left = _SHADOWS + len(data) // _BYTES_PER_SHADOW
        self.first: dict[tuple[str, str, int], Named] = {}
        self.found = Trace(end=start)

    def run(self) -> Trace:
        """Walk to the end of the stream, or to where nothing can be told any more."""
        data, end, found = self.data, len(self.data), self.found
        position = self.start
        while position < end:
            self.position = position
            step = STEPS.get(data[position])
            if step is None:
                return self.broken(f"unknown opcode 0x{data[position]:02x}")
            name, size, do = step
            following = position + 1 + size
            argument: bytes | memoryview = data[position + 1 : following] if size else _NOTHING
            if size < 0 or following > self.cursor.frame_end:
                argument, following = self.cursor.argument(name, size, position + 1)
            if following > end:
                return self.broken(f"ends inside the argument of {name}")
            found.opcodes.add(name)
            if name == "STOP":
                found.root = self.pop()
                found.end = following
                return found
            do(self, argument)
            position = following if name != "FRAME" else self.frame(argument, following)
        self.position = position
        return self.broken("ends before its STOP opcode")

    def frame(self, argument: bytes | memoryview, following: int) -> int:
        """Enter a frame; where its content begins."""
        size = int.from_bytes(argument, "little")
        if following + size > len(self.data):
            self.wrong(f"declares a frame of {size:,} bytes")
        return self.cursor.begin_frame(following, size)

    def broken(self, why: str) -> Trace:
        """What was found up to here, and why it ends."""
        self.wrong(why)
        self.found.end = self.position
        return self.found

    def wrong(self, why: str) -> None:
        """Note the first thing that would stop an unpickler."""
        self.found.error = self.found.error or f"{why} (at byte {self.position - self.start:,})"

    def pop(self) -> Any:
        """Take what lies on top; None where nothing does."""
        if self.marks and self.marks[-1] >= len(self.stack):
            self.wrong("takes what lies below a mark")
            return None
        if not self.stack:
            self.wrong("takes from an empty stack")
            return None
        return self.stack.pop()

    def top(self) -> Any:
        """What lies on top; None where nothing does."""
        if not self.stack:
            self.wrong("looks at an empty stack")
            return None
        return self.stack[-1]

    def above(self) -> list[Any]:
        """Everything above the last mark."""
        if not self.marks:
            self.wrong("looks for a mark that is not there")
            taken, self.stack = self.stack, []
            return taken
        mark = self.marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken

    def push(self, value: Any) -> None:
        """Put a value on top."""
        self.stack.append(value)

    def name(self, module: Any, name: Any) -> Named | None:
        """Note that the stream names something; None where it names too much."""
        parts = [part if isinstance(part, str) else COMPUTED for part in (module, name)]
        key = (parts[0], parts[1], self.found.protocol)
        known = self.first.get(key)
        if known is not None and len(self.found.names) >= _REPEATED:
            return known
        if len(self.first) >= _DIFFERENT:
            self.wrong(f"names more than {_DIFFERENT:,} different things")
            return known
        written = GlobalName(*parts)
        if self.found.protocol < _PYTHON3:
            if (parts[0], parts[1]) in NAME_MAPPING:
                parts = list(NAME_MAPPING[parts[0], parts[1]])
            else:
                parts[0] = IMPORT_MAPPING.get(parts[0], parts[0])
        full = GlobalName(*parts)
        made = Named(full, "" if full == written else str(written), self.position, self.found.protocol)
        self.first.setdefault(key, made)
        self.found.names.append(made)
        return made

    def shadow(self, kind: str, by: Any = None) -> Shadow | None:
        """A new shadow; None where there are too many."""
        self.left -= 1
        return Shadow(kind, by) if self.left >= 0 else None

    def call(self, what: Any, args: Any, kwargs: Any = None) -> None:
        """Push what a call would give."""
        used(what, "called")
        made = self.shadow("made", what)
        if made is not None:
            made.add(Attribute("args"), args)
            made.add(Attribute("kwargs"), kwargs)
        self.push(made)

    def held(self, items: list[Any], kind: str = "tuple") -> Shadow | None:
        """A container of these."""
        made = self.shadow(kind)
        if made is not None:
            made.size = len(items)
            for index, item in enumerate(items):
                made.add(index, item)
        return made

    def hold(self, items: list[Any], kind: str = "tuple") -> None:
        """Push a container of these."""
        self.push(self.held(items, kind))

    def grow(self, items: list[Any]) -> None:
        """Append to what lies on top."""
        holder = self.top()
        if isinstance(holder, Shadow):
            for item in items:
                holder.add(holder.size if holder.kind == "list" else Attribute("items"), item)
                holder.size += 1

    def fill(self, items: list[Any]) -> None:
        """Set items of what lies on top."""
        holder = self.top()
        if not isinstance(holder, Shadow):
            return
        for key, value in zip(items[::2], items[1::2], strict=False):
            if isinstance(key, (Shadow, Named)):
                holder.add(Attribute(f"key {len(holder.below)}"), key)
                holder.add(Attribute("value of an object"), value)
            else:
                holder.add(key, value)
