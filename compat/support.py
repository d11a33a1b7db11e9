"""Which releases of torch do with which traits of files: `support.json`, made of what was measured on real releases.

For every format and trait (`compat.traits`) the table has the first release that was seen to write it, and one letter
per measured release and mode: `o` loads, `w` gives other data without an error, `r` refuses, `c` ends the process,
`?` is not known. The modes are `weights_only`, and `unrestricted`, which is `weights_only=False` or, for releases
before 1.13, the one call there is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from compat.allowlist import ALLOWED, order
from compat.traits import NAME, OWN

MODES: Final = ("weights_only", "unrestricted")
LOADS: Final = "o"
UNKNOWN: Final = "?"
# Worst first: a file fares as the worst of its traits.
_WORST: Final = "crw?o"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What one release does with a file, asked in one way.

    Attributes:
        letter: see this module; trait: what decides it, empty where it loads; reason: why, in one sentence.
    """

    letter: str
    trait: str = ""
    reason: str = ""


@cache
def _table() -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(resources.files("compat").joinpath("support.json").read_text(encoding="utf-8"))
    return found


def releases() -> tuple[str, ...]:
    """The measured releases of torch, oldest first."""
    return tuple(_table()["releases"])


def measured(format_: str) -> bool:
    """Whether torch was asked for files of this format."""
    return format_ in _table()["traits"]


def fates(format_: str, held: Iterable[str], mode: str) -> Iterator[tuple[str, Fate]]:
    """Every measured release, oldest first, with what it does with a file.

    Args:
        format_: the file's format.
        held: its traits.
        mode: one of `MODES`.
    """
    rows = [(trait, _table()["traits"][format_].get(trait)) for trait in sorted(held)]
    for number, release in enumerate(releases()):
        seen = [_fate(trait, row, mode, number) for trait, row in rows]
        yield release, min(seen, key=lambda fate: _WORST.index(fate.letter), default=Fate(letter=UNKNOWN))


def _fate(trait: str, row: Mapping[str, Any] | None, mode: str, number: int) -> Fate:
    if row is None:
        return _of_unknown(trait, mode)
    letter = row[mode][number]
    if letter == LOADS:
        return Fate(letter=letter)
    return Fate(letter=letter, trait=trait, reason=_reason(row.get(f"{mode} because", ()), number))


def _of_unknown(trait: str, mode: str) -> Fate:
    """The fate by a trait that no measured file had: a name may be one that weights_only never allows."""
    if mode == MODES[0] and trait.startswith(NAME) and trait.removeprefix(NAME) not in ALLOWED:
        return Fate(letter="r", trait=trait, reason="weights_only does not allow this name by default")
    return Fate(letter=UNKNOWN, trait=trait, reason="it was not measured")


def _reason(runs: Iterable[tuple[int, int]], number: int) -> str:
    for which, count in runs:
        if number < count:
            return str(_table()["reasons"][which]) if which >= 0 else ""
        number -= count
    return ""


def since(format_: str, held: Iterable[str]) -> str:
    """The first measured release that can have written a file with these traits; empty where none is seen to."""
    rows = _table()["traits"][format_]
    seen = {rows[trait]["since"] for trait in held if rows.get(trait, {}).get("since")}
    return max(seen, key=order, default="")


def needs_classes(held: Iterable[str]) -> bool:
    """Whether an unrestricted load imports classes that are not torch's."""
    return OWN in held
