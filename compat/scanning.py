"""What a file names, where, and what an unrestricted unpickler would do about it; nothing of it is executed.

- listed: every class and function that any pickle stream of the file names, also one that ends nowhere in the
  content, also in a stream that breaks behind it, in archives within archives and in bytes within a stream.
- judged: by name alone. What is not known to be harmless counts as executed, since to name it is to import it.
- not claimed: that a file without findings is what it says it is, or that its weights do no harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from compat.advice import Advice, advise
from compat.allowlist import ALLOWED
from compat.checkpoint import Path, path_text
from compat.dangers import ERROR, HARMLESS, WARNING, Judgement, judge
from compat.errors import CompatError, Corrupt, UnknownFormat, Unsupported
from compat.loading import local
from compat.pickles.shadows import Named, places
from compat.rebuild import MEANINGS
from compat.recovery import is_module, recover
from compat.runnable import what_runs
from compat.sources import SourceLike, open_source
from compat.streams import PickleStream, Search, is_plain, search
from compat.tardir import is_tar
from compat.zipdir import LOCAL_SIGNATURE

# How many places of one name are listed; all are counted.
_LISTED: Final = 10
_MAX_TEXT: Final = 300
_ORDER: Final = (HARMLESS, WARNING, ERROR)
_TRANSPARENT: Final = frozenset(MEANINGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One name in one stream.

    Attributes:
        name: the class or function that Python 3 would look up.
        written: the name in the file, where Python 2 had another for it; else the same.
        stream: the record, member or following pickle that names it; empty where that is the file itself.
        offsets: bytes of the record, or of the file, at which it is named, the first ones.
        count: how often it is named.
        paths: where in the content it is used, the first ones; none where it ends nowhere.
        places: how many such paths there are.
        uses: `called`, `built` (given a state), `changed` (given a state itself); none where it is only named.
        severity: `none`, `warning` (unknown code would run) or `error` (known to do harm).
        reason: what an unrestricted load would do with it.
        allowed_since: the first torch that lets it in with `weights_only=True`; empty where none does.
        allowed_until: the first torch that does not any more; empty where there is none.
        file_offset: the byte of the file at which it is first named; None where the stream is compressed.
    """

    name: str
    written: str
    stream: str
    offsets: tuple[int, ...]
    count: int
    paths: tuple[str, ...]
    places: int
    uses: tuple[str, ...]
    severity: str
    reason: str
    allowed_since: str
    allowed_until: str
    file_offset: int | None

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a scan found in one file.

    Attributes:
        source: the file's name as the user gave it.
        format: what it is: a format's name, `pickle` for plain pickles, `archive` for an archive that holds some
            and is no checkpoint, empty where it is unknown.
        findings: every name of every stream.
        streams: how many pickle streams there are.
        error: why the file could not be read to its end; the findings are those up to there.
        notes: what a reader should know, such as what else in the file can run.
        advice: the lines that load it.
    """

    source: str
    format: str
    findings: tuple[Finding, ...]
    streams: int
    error: CompatError | None
    notes: tuple[str, ...]
    advice: Advice

    @property
    def executed(self) -> tuple[Finding, ...]:
        """What an unrestricted load would import and run, the worst first."""
        found = [finding for finding in self.findings if finding.severity != HARMLESS]
        return tuple(sorted(found, key=lambda finding: finding.severity != ERROR))

    @property
    def outside(self) -> tuple[Finding, ...]:
        """What no torch's `weights_only=True` lets in by default."""
        return tuple(finding for finding in self.findings if not finding.allowed_since)

    @property
    def exit_code(self) -> int:
        """0 where nothing would be executed, 1 where something would, 2 where the file cannot be read."""
        if self.error is not None:
            return 2
        return 1 if self.executed else 0

    def to_json(self) -> dict[str, Any]:
        """The findings as a JSON object."""
        return {
            "file": self.source,
            "format": self.format,
            "streams": self.streams,
            "executes": bool(self.executed),
            "complete": self.error is None,
            "globals": [finding.to_json() for finding in self.findings],
            "load": self.advice.to_json(),
            "notes": list(self.notes),
            "error": None if self.error is None else self.error.to_json(),
        }


def scan(src: SourceLike) -> Findings:
    """List every class and function that a file names, and what loading it without limits would execute.

    Args:
        src: a path (of a file, or of a folder that is one checkpoint), a URL, a file object open for reading
            bytes, or bytes. A file that is no checkpoint but a plain pickle is scanned too.

    Returns:
        The findings. A file that breaks has its `error` there, and the names up to where it does.

    Raises:
        Unreadable: there is nothing to read there.
    """
    with open_source(local(src)) as source:
        found = search(source)
        error = _error(found, source.name, plain=is_plain(found, source))
        if found.checkpoint is not None:
            kind = found.checkpoint.format
        elif found.streams:
            kind = "archive" if source.head.startswith(LOCAL_SIGNATURE) or is_tar(source) else "pickle"
        else:
            kind = ""
        findings = tuple(finding for stream in found.streams for finding in _findings(stream, kind))
        worst = max((finding.severity for finding in findings), key=_ORDER.index, default=HARMLESS)
        notes = [*found.notes, *what_runs(kind, source, found.checkpoint), *_left_behind(found)]
        if isinstance(found.error, Unsupported) and error is None:
            notes.append(f"compat does not load it: {found.error.seen}")
        return Findings(
            source=source.name,
            format=kind,
            findings=findings,
            streams=len(found.streams),
            error=error,
            notes=tuple(notes),
            advice=advise(found, source, kind, broken=error is not None, dangerous=worst == ERROR),
        )


def _left_behind(found: Search) -> list[str]:
    """What the state_dict of a pickled module lacks when it is recovered without the module's class."""
    tree = found.checkpoint.tree if found.checkpoint is not None else None
    below = list(dict.values(tree)) if isinstance(tree, dict) else []
    modules = [value for value in (tree, *below) if is_module(value)]
    try:
        left = [f"{path} {why}" for module in modules for path, why in recover(module).left.items()]
    except CompatError as error:
        return [f"its module's state cannot be recovered: {error.seen}"]
    return [f"without the classes, its state_dict may lack something: {why}" for why in left[:_LISTED]]


def _error(found: Search, source: str, *, plain: bool) -> CompatError | None:
    """Why the scan cannot vouch for the whole file; None where every stream of it was followed to its end."""
    damage = found.damage
    error = found.error
    if found.missed:
        return Corrupt(found.missed, source=source)
    if isinstance(error, Unsupported) and found.streams and not damage and not found.searched:
        return None
    if damage and (error is None or isinstance(error, UnknownFormat)):
        return Corrupt(f"a pickle stream breaks: {damage}", source=source)
    return None if plain else error


@dataclass(slots=True)
class _Group:
    """The places of one name in one stream."""

    first: Named
    judged: Judgement
    offsets: list[int] = field(default_factory=list)
    uses: set[str] = field(default_factory=set)
    paths: list[Path] = field(default_factory=list)
    places: int = 0


def _findings(stream: PickleStream, kind: str) -> Iterator[Finding]:
    groups: dict[str, _Group] = {}
    for named in stream.trace.names:
        judged = judge(named, inside=kind)
        group = groups.setdefault(str(named.name), _Group(named, judged))
        group.offsets.append(named.offset)
        group.uses |= named.uses
        group.judged = max(group.judged, judged, key=lambda judged: (_ORDER.index(judged.severity), judged.reason))
    for named, path in places(stream.trace.root, _TRANSPARENT):
        group = groups[str(named.name)]
        group.places += 1
        if len(group.paths) < _LISTED and path not in group.paths:
            group.paths.append(path)
    for name, group in groups.items():
        allowed = ALLOWED.get(name)
        yield Finding(
            name=name,
            written=group.first.written or name,
            stream=stream.where,
            offsets=tuple(group.offsets[:_LISTED]),
            count=len(group.offsets),
            paths=_texts(group.paths),
            places=group.places,
            uses=tuple(sorted(group.uses)),
            severity=group.judged.severity,
            reason=group.judged.reason,
            allowed_since=allowed.since if allowed else "",
            allowed_until=allowed.until if allowed else "",
            file_offset=None if stream.base is None else stream.base + group.offsets[0],
        )


def _texts(paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(path_text(tuple(_cut(step) for step in path))[-_MAX_TEXT:] for path in paths)


def _cut(step: Any) -> Any:
    return step[:_MAX_TEXT] if isinstance(step, str) else step
