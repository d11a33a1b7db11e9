"""What each opcode of a pickle stream does to a trace of it.

Source: CPython's `Lib/pickle.py` (the methods `load_*` of `_Unpickler`) and `Lib/pickletools.py`.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from compat.checkpoint import Attribute
from compat.pickles import literals
from compat.pickles.literals import Raw
from compat.pickles.shadows import Named, Shadow, used

if TYPE_CHECKING:
    from compat.pickles.tracing import Tracer

_NEWEST: Final = 5
# How a checkpoint or a pickle begins that lies in a stream as bytes.
_INNER: Final = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(1, _NEWEST + 1)))
_INNER_TEXTS: Final = tuple(opening.decode("latin-1") for opening in _INNER)
_STORAGE_FIELDS: Final = 5


def _push_text(tracer: Tracer, raw: Raw) -> None:
    text = literals.text(raw)
    # Protocol 2 has no bytes, and writes them as text of the same codes.
    if text.startswith(_INNER_TEXTS):
        tracer.found.inner.append((tracer.position, text.encode("latin-1", "replace")))
    tracer.push(text)


def _push_bytes(tracer: Tracer, raw: Raw) -> None:
    if bytes(raw[:4]).startswith(_INNER):
        tracer.found.inner.append((tracer.position, bytes(raw)))
    tracer.push(None)


def _push_string(tracer: Tracer, raw: Raw) -> None:
    _push_bytes(tracer, raw)
    tracer.stack[-1] = literals.text(raw)


def _unicode(tracer: Tracer, raw: Raw) -> None:
    text = literals.unicode(raw)
    if text is None:
        tracer.wrong("a text is escaped in no way that pickle escapes")
    tracer.push(text or "")


def _put(tracer: Tracer, index: int) -> None:
    tracer.memo.store(index, tracer.top())


def _get(tracer: Tracer, index: int) -> None:
    if index not in tracer.memo:
        tracer.wrong(f"looks for {index:,} in its memo, where nothing is")
    tracer.push(tracer.memo.load(index))


def _proto(tracer: Tracer, raw: Raw) -> None:
    if raw[0] > _NEWEST:
        tracer.wrong(f"declares the protocol {raw[0]}, which there is not")
    tracer.found.protocol = raw[0]


def _global(tracer: Tracer, raw: Raw) -> None:
    tracer.push(tracer.name(*literals.lines(raw)))


def _stack_global(tracer: Tracer, _raw: Raw) -> None:
    is_there = len(tracer.stack) > (tracer.marks[-1] if tracer.marks else 0)
    name, module = tracer.pop(), tracer.pop()
    # On an empty stack there is nothing to look up, in bytes that are no pickle.
    tracer.push(tracer.name(module, name) if is_there else None)


def _extension(tracer: Tracer, raw: Raw) -> None:
    # What the number stands for is registered in the program that reads, not said in the stream.
    code = int.from_bytes(raw, "little")
    tracer.push(tracer.name("copyreg._extension_registry", str(code)))


def _inst(tracer: Tracer, raw: Raw) -> None:
    args = tracer.above()
    tracer.call(tracer.name(*literals.lines(raw)), tracer.held(args))


def _obj(tracer: Tracer, _raw: Raw) -> None:
    args = tracer.above()
    tracer.call(args[0] if args else None, tracer.held(args[1:]))


def _reduce(tracer: Tracer, _raw: Raw) -> None:
    args, what = tracer.pop(), tracer.pop()
    tracer.call(what, args)


def _newobj_ex(tracer: Tracer, _raw: Raw) -> None:
    kwargs, args, what = tracer.pop(), tracer.pop(), tracer.pop()
    tracer.call(what, args, kwargs)


def _build(tracer: Tracer, _raw: Raw) -> None:
    state, what = tracer.pop(), tracer.top()
    if isinstance(what, Named):
        used(what, "changed")
        tracer.stack[-1] = made = tracer.shadow("made", what)
        if made is not None:
            made.add(Attribute("state"), state)
    elif isinstance(what, Shadow):
        used(what, "built")
        what.add(Attribute("state"), state)


def _persistent(tracer: Tracer, pid: Any) -> None:
    made = tracer.shadow("stored")
    if made is not None:
        made.add(Attribute("id"), pid)
    # ("module", class, file, source) against ("storage", class, key, device, size…).
    tracer.found.carried += isinstance(pid, Shadow) and 0 < pid.size < _STORAGE_FIELDS
    tracer.push(made)


def _text_id(tracer: Tracer, raw: Raw) -> None:
    text = literals.text(raw).rstrip("\n")
    made = Shadow("stored")
    # The repr of a tuple with a class in it, as protocol 0 writes torch's ids: looked up by some readers.
    for named in re.findall(r"<class '([\w.<>]+)'>", text[:1000]):
        module, _, name = named.rpartition(".")
        made.add(Attribute("id"), tracer.name(module, name))
    tracer.push(made)


def _pop(tracer: Tracer, _raw: Raw) -> None:
    if tracer.marks and tracer.marks[-1] == len(tracer.stack):
        tracer.marks.pop()
    else:
        tracer.pop()


def _setitem(tracer: Tracer, _raw: Raw) -> None:
    value, key = tracer.pop(), tracer.pop()
    tracer.fill([key, value])


def _dict(tracer: Tracer, _raw: Raw) -> None:
    items = tracer.above()
    tracer.push(tracer.shadow("dict"))
    tracer.fill(items)


def _tuple_of(count: int) -> Callable[[Tracer, Raw], None]:
    def do(tracer: Tracer, _raw: Raw) -> None:
        tracer.hold([tracer.pop() for _ in range(count)][::-1])

    return do


def _constant(value: Any) -> Callable[[Tracer, Raw], None]:
    return lambda tracer, _raw: tracer.push(value)


def _fresh(kind: str) -> Callable[[Tracer, Raw], None]:
    return lambda tracer, _raw: tracer.push(tracer.shadow(kind))


def _outside(tracer: Tracer, _raw: Raw) -> None:
    tracer.wrong("takes a buffer from outside of the file")
    tracer.push(None)


_Do = Callable[["Tracer", Raw], None]
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
STEPS: Final[dict[int, tuple[str, int, _Do]]] = {
    ord(code.code): (code.name, 0 if code.arg is None else code.arg.n, _DO[code.name]) for code in pickletools.opcodes
}
