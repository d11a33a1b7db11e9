"""The values that a pickle stream spells out, as Python reads them; large ones are left out.

Source: CPython's `Lib/pickle.py` (`load_string`, `load_unicode`, `load_int`…) and `Lib/pickletools.py`.
"""

from __future__ import annotations

import re
from typing import Final

Raw = bytes | memoryview

_MAX_INT: Final = 32
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|(.))", re.DOTALL)
_ESCAPED: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


def text(raw: Raw) -> str:
    """A text in UTF-8; Python 2 wrote other bytes too, which survive as surrogates."""
    return bytes(raw).decode("utf-8", "surrogateescape")


def lines(raw: Raw) -> tuple[str, str]:
    """The two lines of GLOBAL and INST: a module and a name in it."""
    module, _, name = text(raw).removesuffix("\n").partition("\n")
    return module, name


def _unescape(found: re.Match[bytes]) -> bytes:
    if found[1]:
        return bytes([int(found[1], 16)])
    if found[2]:
        return bytes([int(found[2], 8) & 0xFF])
    return _ESCAPED.get(found[3], found[3] if found[3] in b"\\'\"" else found[0])


def string(raw: Raw) -> str:
    """The line of STRING: a byte string as Python 2 shows it, in quotes."""
    return _ESCAPE.sub(_unescape, bytes(raw).strip()[1:-1]).decode("utf-8", "surrogateescape")


def unicode(raw: Raw) -> str | None:
    """The line of UNICODE; None where its escapes are none."""
    try:
        return bytes(raw)[:-1].decode("raw-unicode-escape")
    except UnicodeDecodeError:
        return None


def long(raw: Raw) -> int | None:
    """A whole number in two's complement; None for a large one."""
    return int.from_bytes(raw, "little", signed=True) if len(raw) <= _MAX_INT else None


def int_line(raw: Raw) -> int | None:
    """The line of INT and LONG, which also stands for False and True; None for a large one and for no number."""
    digits = bytes(raw[: _MAX_INT + 1]).strip().rstrip(b"L")
    if digits in (b"00", b"01"):
        return digits == b"01"
    return int(digits) if len(raw) <= _MAX_INT and digits.lstrip(b"+-").isdigit() else None


def index(raw: Raw) -> int:
    """The line of GET and PUT; -1 where it is no number."""
    digits = bytes(raw[:_MAX_INT]).strip()
    return int(digits) if digits.isdigit() else -1
