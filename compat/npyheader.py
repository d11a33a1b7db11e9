"""The header of a `.npy` array: the text of a Python dict of literals, read without Python's own parser.

That parser is no place for what a file says: its stack is bounded by the machine, and it warns about what it reads.

Source of the layout: `numpy/lib/_format_impl.py` (`dtype_to_descr`, `_read_array_header`), NEP 1; Python 2 wrote
whole numbers with an `L` behind them.
"""

from __future__ import annotations

import re
from typing import Any, Final

from compat.errors import Corrupt, brief

# Structured dtypes nest as deep as their author did.
_MAX_DEPTH: Final = 32
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<sign>[][(){},:])|(?P<number>[0-9]{1,20})[lL]?(?![\w.])|(?P<word>True|False|None)(?!\w)
    |[uUbB]?(?:'(?P<single>(?:[^'\\]|\\.)*)'|"(?P<double>(?:[^"\\]|\\.)*)"))""",
    re.VERBOSE | re.DOTALL,
)
_WORDS: Final = {"True": True, "False": False, "None": None}
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def parse(text: str, name: str) -> dict[str, Any]:
    """The dict that a header spells out.

    Args:
        text: of dicts with text as keys, tuples, lists, text, whole numbers from zero on, True, False and None.
        name: the array's.

    Raises:
        Corrupt: it is anything else.
    """
    reader = _Reader(text, name)
    facts = reader.value()
    if reader.token() is not None or not isinstance(facts, dict):
        raise reader.corrupt()
    return facts


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self.text = text.rstrip()
        self.name = name
        self.position = 0

    def corrupt(self) -> Corrupt:
        return Corrupt(
            f"the header of the array {brief(self.name)} is {brief(self.text)}",
            expected="a dict of literals, as numpy writes it",
        )

    def token(self) -> re.Match[str] | None:
        """The next token; None at the end."""
        if self.position == len(self.text):
            return None
        found = _TOKEN.match(self.text, self.position)
        if found is None:
            raise self.corrupt()
        self.position = found.end()
        return found

    def take(self, sign: str) -> bool:
        """Whether this sign comes next; if so, it is behind us."""
        found = _TOKEN.match(self.text, self.position)
        if found is None or found["sign"] != sign:
            return False
        self.position = found.end()
        return True

    def value(self, depth: int = 0) -> Any:
        found = self.token()
        if found is None or depth > _MAX_DEPTH:
            raise self.corrupt()
        if found["number"]:
            return int(found["number"])
        if found["word"]:
            return _WORDS[found["word"]]
        if found["sign"] == "{":
            return self.pairs(depth)
        if found["sign"] == "[":
            return self.items("]", depth)[0]
        if found["sign"] == "(":
            items, is_open = self.items(")", depth)
            # Parentheses alone make no tuple; the comma does.
            return items[0] if len(items) == 1 and not is_open else tuple(items)
        if found["sign"]:
            raise self.corrupt()
        return self.unescaped(found["single"] if found["single"] is not None else found["double"])

    def items(self, end: str, depth: int) -> tuple[list[Any], bool]:
        """What a list or a tuple holds, and whether a comma follows the last of it."""
        found: list[Any] = []
        is_open = False
        while not self.take(end):
            if found and not is_open:
                raise self.corrupt()
            found.append(self.value(depth + 1))
            is_open = self.take(",")
        return found, is_open

    def pairs(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        is_open = True
        while not self.take("}"):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in found or not is_open or not self.take(":"):
                raise self.corrupt()
            found[key] = self.value(depth + 1)
            is_open = self.take(",")
        return found

    def unescaped(self, text: str) -> str:
        if "\\" not in text:
            return text
        try:
            return _ESCAPE.sub(_unescape, text)
        except (ValueError, OverflowError) as error:
            raise self.corrupt() from error


def _unescape(found: re.Match[str]) -> str:
    digits = found[1] or found[2] or found[3]
    if digits:
        return chr(int(digits, 16))
    return _ESCAPED.get(found[4], found[4] if found[4] in "\\'\"" else found[0])
