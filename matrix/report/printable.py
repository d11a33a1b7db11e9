"""Text of a run as it can be shown anywhere: what a file named may hold control and direction marks."""

from __future__ import annotations

import unicodedata
from typing import Any, Final

# Controls, direction and other format marks, halves of surrogate pairs, and what is assigned to nothing:
# XML admits few of them, and a direction mark can make a line read as another.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Cn", "Co"})


def printable(text: str) -> str:
    r"""The text with every character that cannot be seen as its Python escape: a NUL becomes `\x00`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c == "\n" or unicodedata.category(c) not in _HIDDEN else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def printable_json(value: Any) -> Any:
    """JSON values in which every text, keys included, is printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): printable_json(kept) for key, kept in value.items()}
    if isinstance(value, list | tuple):
        return [printable_json(kept) for kept in value]
    return value
