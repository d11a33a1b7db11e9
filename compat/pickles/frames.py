"""Read the arguments of opcodes as the C unpickler does, which loses bytes where one crosses the end of a frame.

No writer makes such streams: a frame holds whole opcodes (PEP 3154). `Lib/pickle.py` refuses them, and
`Modules/_pickle.c` (`_Unpickler_ReadImpl`, `_Unpickler_Readline`) drops what is left of the frame when it reads from
an object without `peek`, such as the `io.BytesIO` that `torch.load` makes of a zip's record. So a stream can say one
thing to whoever reads it from begin to end, and another to the unpickler.
"""

from __future__ import annotations

from typing import Final

_LENGTHS: Final = {-2: 1, -3: 4, -4: 4, -5: 8}  # pickletools' TAKEN_FROM_ARGUMENT…: how wide the length is
_NEVER: Final = 1 << 62


class Cursor:
    """Finds the argument of each opcode.

    Attributes:
        frame_end: where the frame ends that is being read.
        crossed: whether an argument crossed the end of a frame.
    """

    def __init__(self, data: memoryview, *, drops: bool) -> None:
        self.data = data
        self.drops = drops
        self.frame_end = _NEVER
        self.crossed = False

    def argument(self, name: str, size: int, begin: int) -> tuple[bytes | memoryview, int]:
        """The argument of an opcode, and the offset behind it; an offset behind the end where it is cut.

        Args:
            name: the opcode's.
            size: its argument's, as `pickletools` says it.
            begin: the offset behind the opcode.
        """
        if size >= 0:
            begin = self._fit(begin, size)
            return self.data[begin : begin + size], begin + size
        if size in _LENGTHS:
            at = self._fit(begin, _LENGTHS[size])
            length = int.from_bytes(self.data[at : at + _LENGTHS[size]], "little")
            content = self._fit(at + _LENGTHS[size], length)
            return self.data[content : content + length], content + length
        at, following = self._line(begin)
        if name not in ("GLOBAL", "INST") or following > len(self.data):
            return self.data[at:following], following
        second, end = self._line(following)
        return bytes(self.data[at:following]) + bytes(self.data[second:end]), end

    def begin_frame(self, content: int, size: int) -> int:
        """A frame of `size` bytes begins at `content`; where reading goes on."""
        inside = content < self.frame_end != _NEVER
        self.crossed |= inside
        if inside and content + size <= self.frame_end:
            return content
        if inside and self.drops:
            content = self.frame_end
        self.frame_end = content + size
        return content

    def _fit(self, begin: int, size: int) -> int:
        """Where `size` bytes are read that would lie at `begin`."""
        if begin + size <= self.frame_end:
            return begin
        return self._leave(begin)

    def _leave(self, begin: int) -> int:
        end, self.frame_end = self.frame_end, _NEVER
        if begin >= end:
            return begin
        self.crossed = True
        return end if self.drops else begin

    def _line(self, begin: int) -> tuple[int, int]:
        """Where a line is read that would begin at `begin`, and the offset behind it."""
        following = self._line_end(begin, min(self.frame_end, len(self.data)))
        if following <= min(self.frame_end, len(self.data)):
            return begin, following
        begin = self._leave(begin)
        return begin, self._line_end(begin, len(self.data))

    def _line_end(self, begin: int, end: int) -> int:
        step = 256
        while begin < end:
            found = bytes(self.data[begin : min(begin + step, end)]).find(b"\n")
            if found >= 0:
                return begin + found + 1
            begin += step
            step *= 2
        return end + 1
