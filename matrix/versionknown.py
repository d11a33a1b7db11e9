"""Known differences between releases: `known/versions/*.toml`, with who wrote, who reads, how, and what.

The first entry that covers a cell decides. So they stand in the order in which a reader meets things: what it has
no argument for, then the container, the pickle stream, the classes in it, and what they make. Strict both ways: what
an entry covers must happen as it says, and an entry that covers no measured cell is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any, Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from matrix.expectations import KnownError
from matrix.outcomes import FINE, KINDS, Expectation, Outcome

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LISTS: Final = ("format", "mode", "what", "except", "writer", "reader", "message", "facets")
_TEXTS: Final = ("id", "outcome", "reason", "link", "reproducer")
_NEEDED: Final = ("id", "what", "writer", "reader", "outcome", "reason")
_SPECIFIERS: Final = ("<", ">", "=", "!", "~")
_PYTHON2: Final = "-python2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Some of those who write or read: by ranges of torch's releases, or by patterns of names."""

    ranges: tuple[SpecifierSet, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Who:
        """Those whom texts stand for: `>=1.6,<2` is a range, anything else a pattern.

        Raises:
            InvalidSpecifier: a range is none.
        """
        listed = list(texts)
        ranges = tuple(SpecifierSet(text) for text in listed if text.startswith(_SPECIFIERS))
        return cls(ranges=ranges, names=tuple(text for text in listed if not text.startswith(_SPECIFIERS)))

    def covers(self, name: str) -> bool:
        """Whether one of this name is among them."""
        if any(fnmatchcase(name, pattern) for pattern in self.names):
            return True
        version = _version(name)
        return version is not None and any(found.contains(version, prereleases=True) for found in self.ranges)


@cache
def _version(name: str) -> Version | None:
    try:
        return Version(name.removesuffix(_PYTHON2))
    except InvalidVersion:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionKnown:
    """One known difference between releases.

    Attributes:
        id: its stable name.
        format, mode, what: patterns of the values on these axes; exempt: patterns of what it leaves out.
        writer, reader: between whom.
        outcome: the kind; messages: how what is said begins; facets: in what a mismatch differs.
        reason: why; link: where that is recorded, or a reproducer.
    """

    id: str
    format: tuple[str, ...]
    mode: tuple[str, ...]
    what: tuple[str, ...]
    exempt: tuple[str, ...]
    writer: Who
    reader: Who
    outcome: str
    messages: tuple[str, ...]
    facets: frozenset[str]
    reason: str
    link: str

    def covers(self, axes: Mapping[str, str]) -> bool:
        """Whether a cell falls under it."""
        return (
            _matches(axes["format"], self.format)
            and _matches(axes["mode"], self.mode)
            and _matches(axes["what"], self.what)
            and not _matches(axes["what"], self.exempt)
            and self.writer.covers(axes["writer"])
            and self.reader.covers(axes["reader"])
        )

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


def _matches(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def parse(text: str, origin: str) -> list[VersionKnown]:
    """The entries of one TOML text.

    Raises:
        KnownError: the text is no TOML, or an entry has an unknown or missing field, or no evidence.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise KnownError(f"{origin} is no TOML: {error}") from error
    return [_entry(table, f"{origin}: {table.get('id', 'an entry without id')}") for table in data.get("known", [])]


def _entry(table: dict[str, Any], where: str) -> VersionKnown:
    _check(table, where)
    try:
        writer, reader = Who.of(table["writer"]), Who.of(table["reader"])
    except InvalidSpecifier as error:
        raise KnownError(f"{where} has a broken range: {error}") from error
    return VersionKnown(
        id=table["id"],
        format=tuple(table.get("format", ["*"])),
        mode=tuple(table.get("mode", ["*"])),
        what=tuple(table["what"]),
        exempt=tuple(table.get("except", [])),
        writer=writer,
        reader=reader,
        outcome=table["outcome"],
        messages=tuple(table.get("message", [])),
        facets=frozenset(table.get("facets", [])),
        reason=table["reason"],
        link=table.get("link") or table.get("reproducer", ""),
    )


def _check(table: dict[str, Any], where: str) -> None:
    unknown = sorted(set(table) - set(_LISTS) - set(_TEXTS))
    if unknown:
        raise KnownError(f"{where} has the unknown field {unknown[0]!r}; expected {', '.join((*_TEXTS, *_LISTS))}")
    missing = [name for name in _NEEDED if not table.get(name)]
    if missing:
        raise KnownError(f"{where} has no {missing[0]!r}")
    for name, value in table.items():
        right = isinstance(value, str) if name in _TEXTS else _is_texts(value)
        if not right:
            raise KnownError(f"{where} has {value!r} for {name!r}; expected {'text' if name in _TEXTS else 'texts'}")
    failures = KINDS[:4]
    if table["outcome"] not in failures:
        raise KnownError(f"{where} has the outcome {table['outcome']!r}; expected one of {', '.join(failures)}")
    if table["outcome"] == "mismatch" and not table.get("facets"):
        raise KnownError(f"{where} is a mismatch without facets; name what differs")
    if table["outcome"] in ("refused", "crashed") and not table.get("message"):
        raise KnownError(f"{where} has no message; give the beginning of what is said")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


class VersionKnowns:
    """All known differences between releases, in order."""

    def __init__(self, entries: Sequence[VersionKnown]) -> None:
        names = [entry.id for entry in entries]
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise KnownError(f"two known differences between releases are named {doubled!r}")
        self.entries = tuple(entries)

    def entry(self, axes: Mapping[str, str]) -> VersionKnown | None:
        """The entry that decides a cell; None where nothing is known."""
        return next((entry for entry in self.entries if entry.covers(axes)), None)

    def expected(self, axes: Mapping[str, str], outcome: Outcome) -> Expectation:
        """What should happen in a cell."""
        found = self.entry(axes)
        return FINE if found is None else found.expectation(outcome)


def load() -> VersionKnowns:
    """Every known difference of `known/versions/*.toml`; files in the order of their names."""
    folder = resources.files("matrix").joinpath("known/versions")
    texts = sorted((item.name, item.read_text(encoding="utf-8")) for item in folder.iterdir())
    entries = [entry for name, text in texts if name.endswith(".toml") for entry in parse(text, f"versions/{name}")]
    return VersionKnowns(entries)
