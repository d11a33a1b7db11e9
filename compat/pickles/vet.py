"""Bound what a pickle stream can cost before the C unpickler runs it.

The C unpickler allocates by what a stream declares: a 9-byte stream makes it reserve a gigabyte of memo, a
length prefix as much again. It hashes whatever is used as a key: a tuple that holds itself twice per level
takes 2**n steps, a tuple nested 100,000 deep overflows the C stack. So a stream is first walked once, in
linear time, on a stack that holds only the *weights* of the values: whatever is not a tuple weighs nothing.

Source of the opcodes and their stack effects: CPython's `Lib/pickletools.py` and `Modules/_pickle.c`.
"""

from __future__ import annotations

import pickletools
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from compat.errors import Corrupt, Unsupported


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a stream may ask for.

    Attributes:
        opcodes: steps of one stream.
        tuple_depth: how deep a tuple that is used as a key may nest.
        globals: distinct classes and functions that one stream may name.
        hashed_per_byte: elements hashed as keys, per byte of the stream.
        passed_per_byte: elements and characters handed to what is called, per byte of the stream. What is
            called copies them, and a stream can hand over one large value again and again.
    """

    opcodes: int = 100_000_000
    tuple_depth: int = 100
    globals: int = 20_000
    hashed_per_byte: int = 16
    passed_per_byte: int = 16


DEFAULT_LIMITS: Final = Limits()

# A weight is the number of elements that hashing a tuple visits, with its nesting depth in the high bits.
_DEPTH_SHIFT: Final = 48
_WEIGHT_MASK: Final = (1 << _DEPTH_SHIFT) - 1
_WEIGHT_CAP: Final = _WEIGHT_MASK >> 8  # what no budget admits need not be counted further
_SLACK: Final = 4096
_NO_FRAME: Final = 1 << 62
_INDEX_DIGITS: Final = 18

# What `repr` of Python 2 made of a byte string.
_QUOTED: Final = re.compile(rb"""(['"])(?:[^\\]|\\(?:[\\'"nrt]|x[0-9a-fA-F]{2}))*\1""")

_LINE: Final = -1
_TWO_LINES: Final = -2
_SIZED: Final = -3  # a little-endian length, then that many bytes: _LENGTH_WIDTH says how wide
_LENGTH_WIDTH: Final = {
    ord(code): width
    for code, width in zip("BUCTX\x8c\x8d\x8e\x96\x8a\x8b", (4, 1, 1, 4, 4, 1, 8, 8, 8, 1, 4), strict=True)
}


class _Effect(NamedTuple):
    """What one opcode does: its argument's length, what it takes, what it gives."""

    name: str
    argument: int
    taken: int = 0
    to_mark: bool = False
    gives: str = "value"  # nothing | value | tuple
    keys: str = ""  # which of the taken values are hashed: "" | one | pairs | all
    special: str = ""


_SPECIAL: Final = {
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), "put"),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), "get"),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"), "refused"),
    **{name: name.lower() for name in ("STRING", "MARK", "MEMOIZE", "POP", "DUP", "FRAME", "STOP", "PROTO")},
}
_TAKEN: Final = {
    **dict.fromkeys(("BINPERSID", "TUPLE1", "APPENDS", "SETITEMS", "ADDITEMS"), 1),
    **dict.fromkeys(("REDUCE", "BUILD", "NEWOBJ", "STACK_GLOBAL", "APPEND", "TUPLE2"), 2),
    **dict.fromkeys(("NEWOBJ_EX", "SETITEM", "TUPLE3"), 3),
}
_TO_MARK: Final = frozenset(
    ("LIST", "DICT", "INST", "OBJ", "FROZENSET", "TUPLE", "APPENDS", "SETITEMS", "ADDITEMS", "POP_MARK")
)
_KEYS: Final = {"SETITEM": "one", "SETITEMS": "pairs", "DICT": "pairs", "ADDITEMS": "all", "FROZENSET": "all"}


def _effect(code: pickletools.OpcodeInfo) -> _Effect:
    argument = 0 if code.arg is None else code.arg.n
    if argument < 0:
        argument = _SIZED if ord(code.code) in _LENGTH_WIDTH else _LINE
        if code.name in {"GLOBAL", "INST"}:
            argument = _TWO_LINES
    return _Effect(
        code.name,
        argument,
        _TAKEN.get(code.name, 0),
        code.name in _TO_MARK,
        "tuple" if code.name.startswith("TUPLE") else "nothing" if code.name == "POP_MARK" else "value",
        _KEYS.get(code.name, ""),
        _SPECIAL.get(code.name, ""),
    )


_EFFECTS: Final[dict[int, _Effect]] = {ord(code.code): _effect(code) for code in pickletools.opcodes}


def vet(
    data: bytes | bytearray | memoryview, start: int = 0, *, limits: Limits = DEFAULT_LIMITS, source: object = None
) -> int:
    """Walk the pickle stream that begins at `start` and return the offset just behind its STOP opcode.

    Time and memory are linear in the length of the stream; nothing is imported, called or built.

    Raises:
        Corrupt: the stream breaks the rules of pickles or would cost more than `limits` admit.
        Unsupported: it refers to things outside the file (extension registry, out-of-band buffers).
    """
    return _Walk(data, start, limits, source).run()


class _Walk:
    """One pass over one stream: position, weights, and the budget of hashing."""

    def __init__(self, data: bytes | bytearray | memoryview, start: int, limits: Limits, source: object) -> None:
        self.data = data
        self.start = start
        self.end = len(data)
        self.limits = limits
        self.source = source
        self.stack: list[int] = []
        self.marks: list[int] = []
        self.memo: dict[int, int] = {}
        self.hashed = 0
        self.frame_end = _NO_FRAME

    def run(self) -> int:
        data, position, end, effects = self.data, self.start, self.end, _EFFECTS
        for _ in range(self.limits.opcodes):
            if position >= end:
                raise self.corrupt("ends before its STOP opcode", position)
            effect = effects.get(data[position])
            if effect is None:
                raise self.corrupt(f"unknown opcode 0x{data[position]:02x}", position)
            argument = effect.argument
            following = position + 1 + argument if argument >= 0 else self.argument_end(argument, position)
            if following > end:
                raise self.corrupt("ends inside an opcode's argument", position)
            if following > self.frame_end:
                # The C unpickler would lose the rest of the frame, and read something else than is vetted here.
                if position < self.frame_end:
                    raise self.corrupt("an opcode crosses the end of its frame", position)
                self.frame_end = _NO_FRAME
            if effect.special:
                if effect.special == "stop":
                    return following
                self.special(effect, position, following)
            elif effect.taken or effect.to_mark:
                self.apply(effect, position)
            else:
                self.stack.append(0)
            position = following
        raise self.corrupt(f"more than {self.limits.opcodes:,} opcodes", position)

    def apply(self, effect: _Effect, position: int) -> None:
        """Take values, weigh what is hashed among them, give the result."""
        above = self.take_to_mark(position) if effect.to_mark else []
        taken = self.take(effect.taken, position) if effect.taken else above
        if effect.keys:
            hashed = {"one": taken[1:2], "pairs": above[::2], "all": above}[effect.keys]
            self.hash_keys(hashed, position)
        if effect.gives == "tuple":
            self.stack.append(self.tuple_weight(taken))
        elif effect.gives == "value":
            self.stack.append(0)

    def special(self, effect: _Effect, position: int, following: int) -> None:
        kind, stack = effect.special, self.stack
        if kind == "put":
            index = self.index(effect, position, following)
            # The C unpickler's memo is an array: its size follows the largest index. Every stored value took a byte.
            if index > position - self.start + _SLACK:
                raise self.corrupt(f"memo index {index:,} after {position - self.start:,} bytes", position)
            self.memo[index] = self.top(position)
        elif kind == "get":
            index = self.index(effect, position, following)
            if index not in self.memo:
                raise self.corrupt(f"memo index {index:,} was never stored", position)
            stack.append(self.memo[index])
        elif kind == "mark":
            self.marks.append(len(stack))
        elif kind == "memoize":
            self.memo[len(self.memo)] = self.top(position)
        elif kind == "dup":
            stack.append(self.top(position))
        elif kind == "pop":
            self.pop(position)
        elif kind == "frame":
            size = int.from_bytes(self.data[position + 1 : following], "little")
            if size > self.end - following:
                raise self.corrupt(f"a frame of {size:,} bytes is declared", position)
            if self.frame_end != _NO_FRAME:
                raise self.corrupt("a frame begins inside of another", position)
            self.frame_end = following + size
        elif kind == "string":
            # Other escapes would make the C unpickler warn, and no writer makes them.
            if not _QUOTED.fullmatch(bytes(self.data[position + 1 : following]).strip()):
                raise self.corrupt("a text is quoted in no way that Python 2 quotes", position)
            stack.append(0)
        elif kind == "refused":
            raise Unsupported(
                f"the pickle stream uses {effect.name}, which refers to things outside the file",
                feature="pickle-extension",
                source=self.source,
            )

    def argument_end(self, argument: int, position: int) -> int:
        """The offset just behind an argument whose length the stream itself says."""
        begin = position + 1
        if argument == _SIZED:
            content = begin + _LENGTH_WIDTH[self.data[position]]
            size = int.from_bytes(self.data[begin:content], "little")
            if content + size > self.end:
                raise self.corrupt(f"a value of {size:,} bytes is declared", position)
            return content + size
        behind = self.line_end(begin)
        return self.line_end(behind) if argument == _TWO_LINES else behind

    def line_end(self, begin: int) -> int:
        step = 256
        while begin < self.end:
            found = bytes(self.data[begin : begin + step]).find(b"\n")
            if found >= 0:
                return begin + found + 1
            begin += step
            step *= 2
        raise self.corrupt("a text argument has no end", begin)

    def index(self, effect: _Effect, position: int, following: int) -> int:
        argument = bytes(self.data[position + 1 : following])
        if effect.argument != _LINE:
            return int.from_bytes(argument, "little")
        digits = argument.strip()
        if not digits.isdigit() or len(digits) > _INDEX_DIGITS:
            raise self.corrupt(f"memo index {digits[:24]!r}", position)
        return int(digits)

    def top(self, position: int) -> int:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.corrupt("stack underflow", position)
        return self.stack[-1]

    def take(self, count: int, position: int) -> list[int]:
        """Take the topmost `count` values; never from below the last mark."""
        rest = len(self.stack) - count
        if rest < (self.marks[-1] if self.marks else 0):
            raise self.corrupt("stack underflow", position)
        taken = self.stack[rest:]
        del self.stack[rest:]
        return taken

    def take_to_mark(self, position: int) -> list[int]:
        if not self.marks:
            raise self.corrupt("no mark on the stack", position)
        mark = self.marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken

    def pop(self, position: int) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.take(1, position)

    @staticmethod
    def tuple_weight(values: list[int]) -> int:
        weight, depth = len(values) + 1, 0
        for value in values:
            if value:
                weight += value & _WEIGHT_MASK
                depth = max(depth, value >> _DEPTH_SHIFT)
        return min(weight, _WEIGHT_CAP) | ((depth + 1) << _DEPTH_SHIFT)

    def hash_keys(self, keys: list[int], position: int) -> None:
        for key in keys:
            if key:
                if key >> _DEPTH_SHIFT > self.limits.tuple_depth:
                    raise self.corrupt("a key is a tuple nested too deep", position)
                self.hashed += key & _WEIGHT_MASK
        if self.hashed > self.limits.hashed_per_byte * (self.end - self.start) + _SLACK:
            raise self.corrupt("keys are tuples that hold themselves over and over", position)

    def corrupt(self, seen: str, offset: int) -> Corrupt:
        return Corrupt(f"the pickle stream is damaged: {seen}", source=self.source, offset=offset)
