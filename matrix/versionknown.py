"""Known differences between releases: what happens and why, written by hand, and where, generated from measurement.

`known/versions/torch.toml` and `others.toml` hold the differences: an outcome, how its message begins, a reason and its
evidence. The first one that explains an outcome is its reason. `known/versions/places.toml` says between which
releases each happens, and is written by `matrix measure` alone. Strict both ways: in a place of a difference it must
happen as it says; a difference without a place, and a place without a difference, are errors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from matrix.covering import Place
from matrix.expectations import KnownError
from matrix.outcomes import FINE, KINDS, Expectation, Outcome

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DIFFERENCES: Final = (Path("known") / "versions" / "torch.toml", Path("known") / "versions" / "others.toml")
PLACES: Final = Path("known") / "versions" / "places.toml"
_LISTS: Final = ("what", "reader", "message", "facets")
_TEXTS: Final = ("id", "outcome", "reason", "link", "reproducer")
_CHANCE: Final = "chance"
_NEEDED: Final = ("id", "outcome", "reason")
_AXES: Final = ("format", "mode", "what", "writer", "reader")
_SPECIFIERS: Final = ("<", ">", "=", "!", "~")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Who:
    """Some of those who write or read: by ranges of torch's releases, or by name."""

    ranges: tuple[SpecifierSet, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Who:
        """Those whom texts stand for: `>=1.6,<2` is a range, anything else a name.

        Raises:
            InvalidSpecifier: a range is none.
        """
        listed = list(texts)
        ranges = tuple(SpecifierSet(text) for text in listed if text.startswith(_SPECIFIERS))
        return cls(ranges=ranges, names=tuple(text for text in listed if not text.startswith(_SPECIFIERS)))

    def covers(self, name: str) -> bool:
        """Whether one of this name is among them."""
        return _covers(self, name)


@cache
def _covers(who: Who, name: str) -> bool:
    if name in who.names:
        return True
    version = _version(name)
    return version is not None and any(found.contains(version, prereleases=True) for found in who.ranges)


@cache
def _version(name: str) -> Version | None:
    try:
        return Version(name)
    except InvalidVersion:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionKnown:
    """One known difference between releases.

    Attributes:
        id: its stable name.
        outcome: the kind; messages: how what is said begins; facets: in what a mismatch differs.
        what: patterns of what such files hold; reader: patterns of the names of who reads them so.
        reason: why; link: where that is recorded, or a reproducer.
        chance: whether it depends on memory that no one wrote, so that all may as well be fine.
    """

    id: str
    outcome: str
    messages: tuple[str, ...]
    facets: frozenset[str]
    what: tuple[str, ...]
    reader: tuple[str, ...]
    reason: str
    link: str
    chance: bool = False

    def explains(self, axes: Mapping[str, str], outcome: Outcome) -> bool:
        """Whether this is the reason of an outcome."""
        meant = _matches(axes["what"], self.what) and _matches(axes["reader"], self.reader)
        return meant and self.expectation(outcome).explains(outcome)

    def expectation(self, outcome: Outcome) -> Expectation:
        """What should happen; of several messages, the one that an outcome begins with."""
        said = next((text for text in self.messages if outcome.message.startswith(text)), "")
        return Expectation(
            kind=self.outcome,
            reason=self.reason,
            link=self.link,
            source=f"known:{self.id}",
            message=said or next(iter(self.messages), ""),
            facets=self.facets,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPlace:
    """Where a known difference happens."""

    known: VersionKnown
    format: frozenset[str]
    mode: frozenset[str]
    what: frozenset[str]
    writer: Who
    reader: Who

    def may_hold(self, format_: str, mode: str, what: str) -> bool:
        """Whether such files, asked for in this mode, are meant."""
        return format_ in self.format and mode in self.mode and ("*" in self.what or what in self.what)


def _matches(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def parse(text: str, origin: str) -> list[VersionKnown]:
    """The differences of one TOML text.

    Raises:
        KnownError: the text is no TOML, or an entry has an unknown or missing field, or no evidence.
    """
    tables = _toml(text, origin).get("known", [])
    return [_entry(table, f"{origin}: {table.get('id', 'an entry without id')}") for table in tables]


def _toml(text: str, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise KnownError(f"{origin} is no TOML: {error}") from error


def _entry(table: dict[str, Any], where: str) -> VersionKnown:
    _check(table, where)
    return VersionKnown(
        id=table["id"],
        outcome=table["outcome"],
        messages=tuple(table.get("message", [])),
        facets=frozenset(table.get("facets", [])),
        what=tuple(table.get("what", ["*"])),
        reader=tuple(table.get("reader", ["[0-9]*", "compat"])),
        reason=table["reason"],
        link=table.get("link") or table.get("reproducer", ""),
        chance=table.get(_CHANCE, False),
    )


def _check(table: dict[str, Any], where: str) -> None:
    unknown = sorted(set(table) - {*_LISTS, *_TEXTS, _CHANCE})
    if unknown:
        expected = ", ".join((*_TEXTS, *_LISTS, _CHANCE))
        raise KnownError(f"{where} has the unknown field {unknown[0]!r}; expected {expected}")
    missing = [name for name in _NEEDED if not table.get(name)]
    if missing:
        raise KnownError(f"{where} has no {missing[0]!r}")
    for name, value in table.items():
        if not _is_right(name, value):
            wanted = "text" if name in _TEXTS else "texts" if name in _LISTS else "true or false"
            raise KnownError(f"{where} has {value!r} for {name!r}; expected {wanted}")
    failures = KINDS[:4]
    if table["outcome"] not in failures:
        raise KnownError(f"{where} has the outcome {table['outcome']!r}; expected one of {', '.join(failures)}")
    if table["outcome"] == "mismatch" and not table.get("facets"):
        raise KnownError(f"{where} is a mismatch without facets; name what differs")
    if table["outcome"] in ("refused", "crashed") and not table.get("message"):
        raise KnownError(f"{where} has no message; give the beginning of what is said")


def _is_right(name: str, value: Any) -> bool:
    if name == _CHANCE:
        return isinstance(value, bool)
    return isinstance(value, str) if name in _TEXTS else _is_texts(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def parse_places(text: str, origin: str, known: Sequence[VersionKnown]) -> list[VersionPlace]:
    """The places of one TOML text.

    Raises:
        KnownError: a place is broken, or of no difference.
    """
    by_id = {entry.id: entry for entry in known}
    return [_place(table, origin, by_id) for table in _toml(text, origin).get("place", [])]


def _place(table: dict[str, Any], origin: str, by_id: Mapping[str, VersionKnown]) -> VersionPlace:
    name = str(table.get("known"))
    if name not in by_id:
        raise KnownError(f"{origin} has a place of {name!r}, which is no known difference between releases")
    if set(table) != {"known", *_AXES} or not all(_is_texts(table[axis]) for axis in _AXES):
        raise KnownError(f"{origin} has a broken place of {name}; expected known and texts for {', '.join(_AXES)}")
    try:
        writer, reader = Who.of(table["writer"]), Who.of(table["reader"])
    except InvalidSpecifier as error:
        raise KnownError(f"{origin} has a broken range for {name}: {error}") from error
    format_, mode, what = (frozenset(table[axis]) for axis in _AXES[:3])
    return VersionPlace(known=by_id[name], format=format_, mode=mode, what=what, writer=writer, reader=reader)


def places_text(places: Mapping[str, Sequence[Place]]) -> str:
    """The places of each difference as the text of TOML that `parse_places` reads."""
    lines = ["# Where the differences of torch.toml happen. Written by `matrix measure`; do not edit."]
    for name, found in places.items():
        for place in found:
            lines += ["", "[[place]]", f"known = {json.dumps(name)}"]
            lines += [f"{axis} = {json.dumps(list(getattr(place, axis)))}" for axis in _AXES]
    return "\n".join(lines) + "\n"


class VersionKnowns:
    """All known differences between releases, in order.

    Raises:
        KnownError: two have one name, or one happens nowhere.
    """

    def __init__(self, entries: Sequence[VersionKnown], places: Sequence[VersionPlace]) -> None:
        names = [entry.id for entry in entries]
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise KnownError(f"two known differences between releases are named {doubled!r}")
        placed = {place.known.id for place in places}
        lost = next((name for name in names if name not in placed), None)
        if lost is not None:
            raise KnownError(f"the known difference {lost!r} happens nowhere that was measured; it must go")
        self.entries = tuple(entries)
        self.places = tuple(places)

    @cached_property
    def _held(self) -> dict[tuple[str, str, str], list[VersionPlace]]:
        return {}

    def covering(self, axes: Mapping[str, str]) -> list[VersionKnown]:
        """The differences that happen in a cell, in order; more than one only where nothing was measured."""
        key = (axes["format"], axes["mode"], axes["what"])
        if key not in self._held:
            self._held[key] = [place for place in self.places if place.may_hold(*key)]
        writer, reader = axes["writer"], axes["reader"]
        found = [p.known for p in self._held[key] if p.writer.covers(writer) and p.reader.covers(reader)]
        return list(dict.fromkeys(found))

    def expected(self, axes: Mapping[str, str], outcome: Outcome) -> Expectation:
        """What should happen in a cell; of several things that may, the one that did."""
        found = self.covering(axes)
        explaining = next((entry for entry in found if entry.explains(axes, outcome)), None)
        if explaining is not None:
            return explaining.expectation(outcome)
        certain = [entry for entry in found if not entry.chance]
        if certain or (found and outcome.kind != "ok"):
            return (certain or found)[0].expectation(outcome)
        return FINE


def differences() -> list[VersionKnown]:
    """The known differences, without their places."""
    found = []
    for path in DIFFERENCES:
        found += parse(resources.files("matrix").joinpath(str(path)).read_text(encoding="utf-8"), str(path))
    return found


def load() -> VersionKnowns:
    """Every known difference between releases, with its places."""
    known = differences()
    text = resources.files("matrix").joinpath(str(PLACES)).read_text(encoding="utf-8")
    return VersionKnowns(known, parse_places(text, str(PLACES), known))
