"""What an error said, in one line that is the same on every machine and in every run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_LONGEST: Final = 300
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
# Addresses, names of records that are addresses, and what was read from memory that no one wrote.
_ADDRESSES: Final = re.compile(r"-?\b(?:0x[0-9a-f]{5,}|\d{5,})\b")
# Where a module of an interpreter lies.
_PLACES: Final = re.compile(r" (?:from|\() ?'?/[^'\s>)]+\.(?:py|so)'?\)?")
# What torch's weights_only reader wraps the reason in, which stands behind two paragraphs of advice.
_WRAPPED: Final = re.compile(r"Weights only load failed.*pickler error:\s*([^\n]+)", re.DOTALL)
_ADVICE: Final = re.compile(r"( was not an allowed global| Please use|\. Check the documentation).*")


def in_one_line(text: str, path: Path | None = None) -> str:
    """The first line of a message, without what differs from run to run: paths, addresses, colours.

    Args:
        text: the message.
        path: the file it is about, which becomes FILE.
    """
    if path is not None:
        text = text.replace(str(path), "FILE")
    text = _COLOURS.sub("", text)
    wrapped = _WRAPPED.search(text)
    if wrapped is not None:
        text = f"Weights only load failed: {_ADVICE.sub('', wrapped.group(1).strip())}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _ADDRESSES.sub("N", _PLACES.sub("", lines[0]))[:_LONGEST] if lines else ""
