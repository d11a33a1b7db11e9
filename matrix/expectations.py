"""What should happen in each cell: formats' claims, and the known differences of `known/*.toml`.

A known difference is an incompatibility that exists in the world: recorded as data with a reason, and with a
link or a reproducer that needs torch alone. It is strict both ways: it must happen as recorded, and an entry
that matches no cell is an error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from importlib import resources
from typing import Any, Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from matrix.outcomes import FINE, KINDS, Expectation

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FIELDS: Final = {
    "id", "cells", "except", "covers", "outcome", "stage", "message", "facets",
    "reason", "link", "reproducer", "versions",
}  # fmt: skip
_NEEDED: Final = {"id", "cells", "outcome", "reason"}
_TYPES: Final[Mapping[str, type]] = {
    "cells": list, "except": list, "facets": list, "versions": dict, "covers": int,
}  # fmt: skip
_WORDS: Final = {str: "text", int: "a number", list: "a list of texts", dict: "a table of texts"}

# The stages of an export: what fails at one does not come to the next.
STAGES: Final = ("export", "save", "load", "run", "recover")

# An entry that covers more cells says how many, so that it cannot come to hide what no one looked at.
MOST_COVERED: Final = 400


class KnownError(ValueError):
    """An entry of the known differences that breaks their rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One known difference.

    Attributes:
        id: its stable name; cells: patterns of cell ids; exempt: patterns of those it leaves out.
        expectation: what happens there.
        versions: library → range in which it happens, such as {"torch": ">=2.6"}.
        covers_count: how many cells it covers; None where it does not say.
    """

    id: str
    cells: tuple[re.Pattern[str], ...]
    exempt: tuple[re.Pattern[str], ...]
    expectation: Expectation
    versions: Mapping[str, SpecifierSet]
    covers_count: int | None = None

    def covers(self, cell_id: str) -> bool:
        """Whether a cell falls under it."""
        return any(p.match(cell_id) for p in self.cells) and not any(p.match(cell_id) for p in self.exempt)

    def applies(self, versions: Mapping[str, str]) -> bool:
        """Whether it happens with these releases of the libraries."""
        return all(
            name in versions and allowed.contains(Version(versions[name]).base_version, prereleases=True)
            for name, allowed in self.versions.items()
        )


def parse(text: str, origin: str) -> list[Known]:
    """The entries of one TOML text.

    Raises:
        KnownError: the text is no TOML, or an entry has an unknown or missing field, no evidence, or a
            pattern that is too broad.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise KnownError(f"{origin} is no TOML: {error}") from error
    strange = sorted(set(data) - {"known"})
    if strange:
        raise KnownError(f"{origin} has {strange[0]!r}; expected [[known]] tables alone")
    return [_entry(table, origin) for table in data.get("known", [])]


def _entry(table: dict[str, Any], origin: str) -> Known:
    where = f"{origin}: {table.get('id', 'an entry without id')}"
    _check_fields(table, where)
    try:
        versions = {name: SpecifierSet(text) for name, text in table.get("versions", {}).items()}
    except InvalidSpecifier as error:
        raise KnownError(f"{where} has a broken range: {error}") from error
    return Known(
        id=table["id"],
        cells=tuple(_pattern(text, where) for text in table["cells"]),
        exempt=tuple(_pattern(text, where) for text in table.get("except", [])),
        expectation=Expectation(
            kind=table["outcome"],
            reason=table["reason"],
            link=table.get("link") or table.get("reproducer", ""),
            source=f"known:{table['id']}",
            message=table.get("message", ""),
            stage=table.get("stage", ""),
            facets=frozenset(table.get("facets", ())),
        ),
        versions=versions,
        covers_count=table.get("covers"),
    )


def _check_fields(table: dict[str, Any], where: str) -> None:
    """Refuse an entry that does not say what it must, or says what no one reads."""
    unknown = sorted(set(table) - _FIELDS)
    if unknown:
        expected = ", ".join(sorted(_FIELDS))
        raise KnownError(f"{where} has the unknown field {unknown[0]!r}; expected {expected}")
    missing = sorted(name for name in _NEEDED if not table.get(name))
    if missing:
        raise KnownError(f"{where} has no {missing[0]!r}")
    for name, value in table.items():
        kind = _TYPES.get(name, str)
        texts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not isinstance(value, kind) or not all(isinstance(text, str) for text in texts):
            raise KnownError(f"{where} has {value!r} for {name!r}; expected {_WORDS[kind]}")
    if not (table.get("link") or table.get("reproducer")):
        raise KnownError(f"{where} has no evidence; give a link, or a reproducer that needs torch alone")
    outcome, failures = table["outcome"], ", ".join(KINDS[:4])
    if outcome not in KINDS[:4]:
        raise KnownError(f"{where} has the outcome {outcome!r}; expected one of {failures}")
    if outcome == "mismatch" and not table.get("facets"):
        raise KnownError(f"{where} is a mismatch without facets; name what differs")
    if outcome in ("refused", "crashed") and not table.get("message"):
        raise KnownError(f"{where} has no message; give the beginning of what is said")


def _pattern(text: str, where: str) -> re.Pattern[str]:
    """A pattern; it must say at least the format or who writes and reads, or it would hide anything."""
    fixed = [part for part in text.split(":")[1:] if part.strip("*>?")]
    if not fixed:
        raise KnownError(f"{where} has the pattern {text!r}, which is too broad")
    return re.compile(translate(text))


Claims = Callable[[str], Expectation | None]


class Expectations:
    """What should happen in each cell, for given releases of the libraries.

    Args:
        known: the known differences.
        versions: library → its release.
        claims: what formats claim to refuse, by cell id; None where they claim nothing special.
    """

    def __init__(self, known: Iterable[Known], *, versions: Mapping[str, str], claims: Claims | None = None) -> None:
        listed = list(known)
        self.known = [entry for entry in listed if entry.applies(versions)]
        self.claims = claims or (lambda _: None)
        names = [entry.id for entry in listed]
        doubled = [name for name in names if names.count(name) > 1]
        if doubled:
            raise KnownError(f"two known differences are named {doubled[0]!r}")

    def for_cell(self, cell_id: str) -> Expectation:
        """What should happen in a cell.

        Of known differences at several stages of an export, the earliest is what happens.

        Raises:
            KnownError: two known differences cover it, or one does and a format claims something else.
        """
        found = _earliest([entry for entry in self.known if entry.covers(cell_id)])
        if len(found) > 1:
            both = f"{found[0].id!r} and {found[1].id!r}"
            raise KnownError(f"{cell_id} falls under {both}; expected one: narrow one by `except`")
        claimed = self.claims(cell_id)
        if not found:
            return claimed or FINE
        expected = found[0].expectation
        if claimed is not None and expected.stage in STAGES and claimed.stage in STAGES:
            is_later = STAGES.index(expected.stage) > STAGES.index(claimed.stage)
            return claimed if is_later else expected
        if claimed is not None and claimed.kind != expected.kind:
            raise KnownError(
                f"{cell_id} is {expected.kind} by {found[0].id!r} and {claimed.kind} by its format's claim; "
                "narrow the entry by `except`"
            )
        return expected

    def combined(self, cell_ids: Iterable[str]) -> Expectation:
        """What should happen to a state that has the features of several cells.

        It is the earliest refusal, else all mismatches together.
        """
        found = [self.for_cell(cell_id) for cell_id in cell_ids]
        refused = [e for e in found if e.kind not in ("ok", "mismatch")]
        if refused:
            return min(refused, key=lambda e: (e.stage != "write", e.source))
        mismatched = [e for e in found if e.kind == "mismatch"]
        if mismatched:
            first = mismatched[0]
            facets = frozenset().union(*(e.facets for e in mismatched))
            return Expectation(
                kind="mismatch", reason=first.reason, link=first.link, source=first.source, facets=facets
            )
        return found[0] if found else FINE

    def unmatched(self, cell_ids: Sequence[str]) -> list[str]:
        """The names of the known differences that match no cell; each is an error."""
        return [e.id for e in self.known if not any(e.covers(cell_id) for cell_id in cell_ids)]

    def verify(self, cell_ids: Sequence[str]) -> None:
        """Hold the known differences against all cells there are.

        Raises:
            KnownError: one covers no cell, more than `MOST_COVERED` without saying how many, or another
                number than it says; or a cell falls under two.
        """
        for entry in self.known:
            count = sum(entry.covers(cell_id) for cell_id in cell_ids)
            if not count:
                raise KnownError(f"{entry.id!r} covers no cell; remove it or mend its patterns")
            if entry.covers_count is None and count > MOST_COVERED:
                raise KnownError(
                    f"{entry.id!r} covers {count} cells; expected {MOST_COVERED} at most: "
                    f"narrow it, or say `covers = {count}` where all of them were looked at"
                )
            if entry.covers_count not in (None, count):
                raise KnownError(f"{entry.id!r} covers {count} cells; expected {entry.covers_count}, as it says")
        for cell_id in cell_ids:
            self.for_cell(cell_id)


def _earliest(found: list[Known]) -> list[Known]:
    """Of exports that fail at two stages, the earlier one is what is seen."""
    stages = [STAGES.index(entry.expectation.stage) for entry in found if entry.expectation.stage in STAGES]
    if len(stages) < len(found) or stages.count(min(stages, default=0)) != 1:
        return found
    return [found[stages.index(min(stages))]]


def load_known() -> list[Known]:
    """Every known difference of `known/*.toml`."""
    folder = resources.files("matrix").joinpath("known")
    texts = sorted(
        (item.name, item.read_text(encoding="utf-8")) for item in folder.iterdir() if item.name.endswith(".toml")
    )
    return [entry for name, text in texts for entry in parse(text, f"known/{name}")]
