"""Follow a pickle stream without running it: every name in it, where it stands, how it is used, what holds it.

The stream is walked once, opcode by opcode, on a stack of shadows: a shadow knows what it would be made by and
what would lie in it, and is nothing itself. Unlike `vet`, the walk forgives: what would stop an unpickler is
noted, and the walk goes on, because a hostile stream often breaks right behind what it came to do.

Source of the opcodes: CPython's `Lib/pickle.py`, `Lib/pickletools.py` and `Modules/_pickle.c`; of the names that
Python 2 had for the same things: `Lib/_compat_pickle.py`.
"""

from __future__ import annotations

import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import Any, Final

from compat.checkpoint import Attribute
from compat.pickles import literals
from compat.pickles.frames import Cursor
from compat.pickles.literals import Raw
from compat.pickles.shadows import COMPUTED, Named, Shadow, Trace, used
from compat.records import GlobalName

_NEWEST: Final = 5
_PYTHON3: Final = 3  # from this protocol on, names are those of Python 3
# How a checkpoint or a pickle begins that lies in a stream as bytes.
_INNER: Final = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(1, _NEWEST + 1)))
_INNER_TEXTS: Final = tuple(opening.decode("latin-1") for opening in _INNER)
_STORAGE_FIELDS: Final = 5
_NOTHING: Final = memoryview(b"")


def trace(data: bytes | bytearray | memoryview, start: int = 0) -> Trace:
    """Follow the stream that begins at `start`; never raises, whatever the bytes are."""
    tracer = _Tracer(memoryview(data), start)
    found = tracer.run()
    if tracer.cursor.crossed:
        # There are two readings: a straight one, and that of an unpickler which loses the rest of a frame.
        found.error = found.error or "an opcode crosses the end of its frame"
        other = _Tracer(memoryview(data), start, drops=True).run()
        known = {(str(named.name), named.offset) for named in found.names}
        found.names += [named for named in other.names if (str(named.name), named.offset) not in known]
        found.inner += other.inner
    return found


_MARK: Final = object()


class _Tracer:
    def __init__(self, data: memoryview, start: int, *, drops: bool = False) -> None:
        self.data = data
        self.cursor = Cursor(data, drops=drops)
        self.start = start
        self.position = start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.found = Trace(end=start)

    def run(self) -> Trace:
        data, end, found = self.data, len(self.data), self.found
        position = self.start
        while position < end:
            self.position = position
            step = _STEPS.get(data[position])
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
        self.wrong(why)
        self.found.end = self.position
        return self.found

    def wrong(self, why: str) -> None:
        """Note the first thing that would stop an unpickler."""
        self.found.error = self.found.error or f"{why} (at byte {self.position - self.start:,})"

    def pop(self) -> Any:
        if self.marks and self.marks[-1] >= len(self.stack):
            self.wrong("takes what lies below a mark")
            return None
        if not self.stack:
            self.wrong("takes from an empty stack")
            return None
        return self.stack.pop()

    def top(self) -> Any:
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
        self.stack.append(value)

    def name(self, module: Any, name: Any) -> Named:
        """Note that the stream names something."""
        parts = [part if isinstance(part, str) else COMPUTED for part in (module, name)]
        written = GlobalName(*parts)
        if self.found.protocol < _PYTHON3:
            if (parts[0], parts[1]) in NAME_MAPPING:
                parts = list(NAME_MAPPING[parts[0], parts[1]])
            else:
                parts[0] = IMPORT_MAPPING.get(parts[0], parts[0])
        full = GlobalName(*parts)
        made = Named(full, "" if full == written else str(written), self.position, self.found.protocol)
        self.found.names.append(made)
        return made

    def call(self, what: Any, args: Any, kwargs: Any = None) -> None:
        """Push what a call would give."""
        used(what, "called")
        made = Shadow("made", what)
        made.add(Attribute("args"), args)
        made.add(Attribute("kwargs"), kwargs)
        self.push(made)

    def hold(self, items: list[Any], kind: str = "tuple") -> None:
        """Push a container of these."""
        self.push(_held(items, kind))

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


def _push_text(tracer: _Tracer, raw: Raw) -> None:
    text = literals.text(raw)
    # Protocol 2 has no bytes, and writes them as text of the same codes.
    if text.startswith(_INNER_TEXTS):
        tracer.found.inner.append((tracer.position, text.encode("latin-1", "replace")))
    tracer.push(text)


def _push_bytes(tracer: _Tracer, raw: Raw) -> None:
    if bytes(raw[:4]).startswith(_INNER):
        tracer.found.inner.append((tracer.position, bytes(raw)))
    tracer.push(None)


def _push_string(tracer: _Tracer, raw: Raw) -> None:
    _push_bytes(tracer, raw)
    tracer.stack[-1] = literals.text(raw)


def _unicode(tracer: _Tracer, raw: Raw) -> None:
    text = literals.unicode(raw)
    if text is None:
        tracer.wrong("a text is escaped in no way that pickle escapes")
    tracer.push(text or "")


def _put(tracer: _Tracer, index: int) -> None:
    tracer.memo[index] = tracer.top()


def _get(tracer: _Tracer, index: int) -> None:
    if index not in tracer.memo:
        tracer.wrong(f"looks for {index:,} in its memo, where nothing is")
    tracer.push(tracer.memo.get(index))


def _proto(tracer: _Tracer, raw: Raw) -> None:
    if raw[0] > _NEWEST:
        tracer.wrong(f"declares the protocol {raw[0]}, which there is not")
    tracer.found.protocol = raw[0]


def _global(tracer: _Tracer, raw: Raw) -> None:
    tracer.push(tracer.name(*literals.lines(raw)))


def _stack_global(tracer: _Tracer, _raw: Raw) -> None:
    is_there = len(tracer.stack) > (tracer.marks[-1] if tracer.marks else 0)
    name, module = tracer.pop(), tracer.pop()
    # On an empty stack there is nothing to look up, in bytes that are no pickle.
    tracer.push(tracer.name(module, name) if is_there else None)


def _extension(tracer: _Tracer, raw: Raw) -> None:
    # What the number stands for is registered in the program that reads, not said in the stream.
    code = int.from_bytes(raw, "little")
    tracer.push(tracer.name("copyreg._extension_registry", str(code)))


def _inst(tracer: _Tracer, raw: Raw) -> None:
    args = tracer.above()
    tracer.call(tracer.name(*literals.lines(raw)), _held(args))


def _obj(tracer: _Tracer, _raw: Raw) -> None:
    args = tracer.above()
    tracer.call(args[0] if args else None, _held(args[1:]))


def _held(items: list[Any], kind: str = "tuple") -> Shadow:
    made = Shadow(kind)
    made.size = len(items)
    for index, item in enumerate(items):
        made.add(index, item)
    return made


def _reduce(tracer: _Tracer, _raw: Raw) -> None:
    args, what = tracer.pop(), tracer.pop()
    tracer.call(what, args)


def _newobj_ex(tracer: _Tracer, _raw: Raw) -> None:
    kwargs, args, what = tracer.pop(), tracer.pop(), tracer.pop()
    tracer.call(what, args, kwargs)


def _build(tracer: _Tracer, _raw: Raw) -> None:
    state, what = tracer.pop(), tracer.top()
    if isinstance(what, Named):
        what.uses.add("changed")
        tracer.stack[-1] = made = Shadow("made", what)
        made.add(Attribute("state"), state)
    elif isinstance(what, Shadow):
        used(what, "built")
        what.add(Attribute("state"), state)


def _persistent(tracer: _Tracer, pid: Any) -> None:
    made = Shadow("stored")
    made.add(Attribute("id"), pid)
    # ("module", class, file, source) against ("storage", class, key, device, size…).
    tracer.found.carried += isinstance(pid, Shadow) and 0 < pid.size < _STORAGE_FIELDS
    tracer.push(made)


def _text_id(tracer: _Tracer, raw: Raw) -> None:
    text = literals.text(raw).rstrip("\n")
    made = Shadow("stored")
    # The repr of a tuple with a class in it, as protocol 0 writes torch's ids: looked up by some readers.
    for named in re.findall(r"<class '([\w.<>]+)'>", text[:1000]):
        module, _, name = named.rpartition(".")
        made.add(Attribute("id"), tracer.name(module, name))
    tracer.push(made)


def _pop(tracer: _Tracer, _raw: Raw) -> None:
    if tracer.marks and tracer.marks[-1] == len(tracer.stack):
        tracer.marks.pop()
    else:
        tracer.pop()


def _setitem(tracer: _Tracer, _raw: Raw) -> None:
    value, key = tracer.pop(), tracer.pop()
    tracer.fill([key, value])


def _dict(tracer: _Tracer, _raw: Raw) -> None:
    items = tracer.above()
    tracer.push(Shadow("dict"))
    tracer.fill(items)


def _tuple_of(count: int) -> Callable[[_Tracer, Raw], None]:
    def do(tracer: _Tracer, _raw: Raw) -> None:
        tracer.hold([tracer.pop() for _ in range(count)][::-1])

    return do


def _constant(value: Any) -> Callable[[_Tracer, Raw], None]:
    return lambda tracer, _raw: tracer.push(value)


def _fresh(kind: str) -> Callable[[_Tracer, Raw], None]:
    return lambda tracer, _raw: tracer.push(Shadow(kind))


def _outside(tracer: _Tracer, _raw: Raw) -> None:
    tracer.wrong("takes a buffer from outside of the file")
    tracer.push(None)


_Do = Callable[[_Tracer, Raw], None]
_DO: Final[dict[str, _Do]] = {
    **dict.fromkeys(("NONE", "FLOAT", "BINFLOAT"), _constant(None)),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _push_bytes),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    **dict.fromkeys(("BININT1", "BININT2"), lambda t, raw: t.push(int.from_bytes(raw, "little"))),
    **dict.fromkeys(("BININT", "LONG1", "LONG4"), lambda t, raw: t.push(literals.long(raw))),
    **dict.fromkeys(("INT", "LONG"), lambda t, raw: t.push(literals.int_line(raw))),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _push_string),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _push_text),
    "STRING": lambda t, raw: t.push(literals.string(raw)),
    "UNICODE": _unicode,
    "EMPTY_LIST": _fresh("list"),
    "EMPTY_DICT": _fresh("dict"),
    "EMPTY_SET": _fresh("set"),
    "EMPTY_TUPLE": _constant(None),
    "TUPLE": lambda t, _: t.hold(t.above()),
    "LIST": lambda t, _: t.hold(t.above(), "list"),
    "FROZENSET": lambda t, _: t.hold(t.above(), "set"),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "DICT": _dict,
    "APPEND": lambda t, _: t.grow([t.pop()]),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda t, _: t.grow(t.above())),
    "SETITEM": _setitem,
    "SETITEMS": lambda t, _: t.fill(t.above()),
    "MARK": lambda t, _: t.marks.append(len(t.stack)),
    "POP": _pop,
    "POP_MARK": lambda t, _: t.above().clear(),
    "DUP": lambda t, _: t.push(t.top()),
    "MEMOIZE": lambda t, _: _put(t, len(t.memo)),
    "PUT": lambda t, raw: _put(t, literals.index(raw)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda t, raw: _put(t, int.from_bytes(raw, "little"))),
    "GET": lambda t, raw: _get(t, literals.index(raw)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda t, raw: _get(t, int.from_bytes(raw, "little"))),
    "PROTO": _proto,
    "FRAME": lambda _t, _raw: None,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _extension),
    "INST": _inst,
    "OBJ": _obj,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _reduce),
    "NEWOBJ_EX": _newobj_ex,
    "BUILD": _build,
    "BINPERSID": lambda t, _: _persistent(t, t.pop()),
    "PERSID": _text_id,
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), _outside),
    "STOP": lambda _t, _raw: None,
}
_STEPS: Final[dict[int, tuple[str, int, _Do]]] = {
    ord(code.code): (code.name, 0 if code.arg is None else code.arg.n, _DO[code.name]) for code in pickletools.opcodes
}
