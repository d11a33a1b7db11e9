"""What a file is, which torch can have written it, which ones load it, and the line that makes the others load it.

- answered: by the file's traits, and what real releases were measured to do with each (`compat.support`).
- not claimed: that a file loads whose classes an unrestricted load cannot import; that code in a TorchScript archive
  runs; anything of releases between those that were measured, or of formats that torch is not asked for.
- executed: nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

from compat import support
from compat.scanning import scan
from compat.sources import SourceLike, open_source
from compat.streams import search
from compat.support import Fate
from compat.traits import ASKED, LOAD, OWN, traits

_SAID: Final = {
    "o": "loads",
    "w": "loads, with other data than was saved",
    "r": "refuses",
    "c": "ends the process",
    "?": "not known",
}
_MODULES: Final = "the name torch.nn.modules."


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What some releases that follow each other do with a file.

    Attributes:
        first, last: the releases; letter: see `compat.support`; trait: what decides it; reason: why.
    """

    first: str
    last: str
    letter: str
    trait: str
    reason: str

    @property
    def text(self) -> str:
        """The answer as a sentence."""
        who = self.first if self.first == self.last else f"{self.first} to {self.last}"
        why = ": ".join(part for part in (self.trait, self.reason) if part)
        return f"torch {who}: {_SAID[self.letter]}" + (f" ({why})" if why else "")

    def to_json(self) -> dict[str, str]:
        """The answer as a JSON object."""
        said = {"first": self.first, "last": self.last, "does": _SAID[self.letter]}
        return {**said, "trait": self.trait, "reason": self.reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What is known of a file.

    Attributes:
        source: the file's name as the user gave it; format: what it is; empty where it is unknown.
        since: the first measured torch that can have written it; empty where that is not known.
        weights_only, unrestricted: what each measured torch does with it, with `weights_only=True` and with False.
        line: the line that loads it with compat; torch: the one with torch alone; either is empty where there is none.
        fix: the command that makes a file of it which today's torch loads; empty where it does already.
        notes: what a reader should know.
    """

    source: str
    format: str
    since: str
    weights_only: tuple[Answer, ...]
    unrestricted: tuple[Answer, ...]
    line: str
    torch: str
    fix: str
    notes: tuple[str, ...]

    @property
    def call(self) -> str:
        """The call of torch that loads files of this format; empty where none was measured."""
        return ASKED.get(self.format, "")

    @property
    def loads(self) -> bool:
        """Whether the newest measured torch loads it: with `weights_only=True`, where there is such an argument."""
        asked = self.weights_only or self.unrestricted
        return not asked or asked[-1].letter == support.LOADS

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as a JSON object."""
        return {
            "file": self.source,
            "format": self.format,
            "written_by": self.since,
            "call": self.call,
            "loads": self.loads,
            "weights_only": [answer.to_json() for answer in self.weights_only],
            "unrestricted": [answer.to_json() for answer in self.unrestricted],
            "compat": self.line,
            "torch": self.torch,
            "fix": self.fix,
            "notes": list(self.notes),
        }


def doctor(src: SourceLike) -> Diagnosis:
    """Say what a file is and who can load it.

    Args:
        src: a path, a URL, a file object open for reading bytes, or bytes.

    Raises:
        UnknownFormat, Corrupt, Unsupported, Unreadable: it is no checkpoint that can be read.
    """
    with open_source(src) as source:
        found = search(source)
        if found.checkpoint is None and found.error is not None:
            raise found.error
        held = traits(found, source)
        name = source.name
        findings = scan(source)
    format_ = findings.format
    known = support.measured(format_)
    safe, free = (_answers(format_, held, mode) if known else () for mode in support.MODES)
    made = Diagnosis(
        source=name,
        format=format_,
        since=support.since(format_, held) if known else "",
        weights_only=safe,
        unrestricted=free,
        line=findings.advice.line,
        torch=findings.advice.torch,
        fix="",
        notes=(*findings.notes, *_notes(format_, held, known=known)),
    )
    return made if made.loads or not made.line else _with_fix(made, held)


def _answers(format_: str, held: Iterable[str], mode: str) -> tuple[Answer, ...]:
    told = list(support.fates(format_, held, mode))
    if ASKED[format_] != LOAD and mode == support.MODES[0]:
        return ()
    runs = (list(run) for _, run in groupby(told, key=lambda pair: pair[1]))
    return tuple(_answer(run) for run in runs if not _absent(run))


def _absent(run: list[tuple[str, Fate]]) -> bool:
    """Whether nothing is said of some releases: they have no such argument, or were not asked."""
    return run[0][1].letter == support.UNKNOWN and not run[0][1].reason


def _answer(run: list[tuple[str, Fate]]) -> Answer:
    fate = run[0][1]
    return Answer(first=run[0][0], last=run[-1][0], letter=fate.letter, trait=fate.trait, reason=fate.reason)


def _notes(format_: str, held: frozenset[str], *, known: bool) -> list[str]:
    if not known:
        return ["torch was not measured on this format; compat reads it"]
    if ASKED[format_] != LOAD:
        return ["what the code in the archive calls was not looked at, and may be newer than its version"]
    if support.needs_classes(held):
        return ["an unrestricted load imports classes that are not torch's, and runs their code"]
    return []


def _with_fix(made: Diagnosis, held: frozenset[str]) -> Diagnosis:
    whole = OWN in held or any(trait.startswith(_MODULES) for trait in held)
    what = "convert" if ASKED[made.format] == LOAD and not whole else "extract"
    return replace(made, fix=f"compat {what} {shlex.quote(made.source)} fixed.pt")
