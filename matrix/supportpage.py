"""The page of support, `docs/support.md`: who reads what whom wrote, feature by feature, made of the measurement alone.

A square stands for one writer and one reader, in all modes. Writers of whom the same is true share a row, and readers
share a column. Below each grid stands why its squares are not green, for whom, and how to see it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from matrix.measured import Group, Measured, Pair, in_order
from matrix.outcomes import Outcome
from matrix.supporting import FORMATS
from matrix.versionknown import VersionKnown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MODES: Final = ("default", "wo", "full", "wo-mmap", "full-mmap", "own", "inert")
_SAFE: Final = ("wo", "wo-mmap")
_SIGNS: Final[Mapping[str, str]] = {"ok": "✓", "mismatch": "≠", "refused": "✗", "crashed": "☠", "timeout": "☠"}
_ONLY_FULL: Final = "full"
_ONLY_SAFE: Final = "wo"
_MIXED: Final = "±"
_HEAD: Final = """\
# Which torch reads what which torch wrote

Generated from the measurement in `matrix/data/measured.json`; do not edit. Regenerate it with `matrix measure`, and
measure anew with `matrix measure FOLDER`, which makes and removes an environment for each release in turn.

Rows are writers, columns are readers; releases that behave alike share one. ✓ every mode gives the same bytes · `full`
only `weights_only=False` does · `wo` only `weights_only=True` does · ± some calls do · ≠ other data, without an
error · ✗ refused · ☠ the process ends · empty: there is no such file. Releases before 1.13 have no `weights_only`:
their one call counts. `compat` reads with nothing executed.

To see a square, ask two releases yourself: `matrix run --check version --peers READER --writers all --cells PATTERN`.
For one file of your own: `compat doctor FILE`.
"""


@cache
def _features() -> tuple[Mapping[str, str], ...]:
    text = resources.files("matrix").joinpath("data/support.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["feature"])


def page(found: Measured, cells: Mapping[Group, Mapping[Pair, VersionKnown]]) -> str:
    """The page, as Markdown.

    Args:
        found: the measurement.
        cells: the difference that explains each cell that is not fine.
    """
    readers = [name for name in found.readers if name[0].isdigit()] + ["compat"]
    parts = [_HEAD, f"Measured: torch {', '.join(readers[:-1])}.\n"]
    for feature in _features():
        for format_ in FORMATS:
            section = _section(found, cells, readers, format_, feature["what"])
            if section:
                parts.append(f"## {feature['title']}: `{format_}`\n\n{section}")
    return "\n".join(parts)


def _section(
    found: Measured, cells: Mapping[Group, Mapping[Pair, VersionKnown]], readers: list[str], format_: str, what: str
) -> str:
    pairs = {pair for mode in _MODES for pair in found.cells.get((format_, mode, what), {})}
    writers = in_order({writer for writer, _ in pairs})
    squares = {writer: [_square(found, format_, what, (writer, reader)) for reader in readers] for writer in writers}
    squares = {writer: row for writer, row in squares.items() if any(row)}
    if not squares:
        return ""
    columns = list(_alike([tuple(row[number] for row in squares.values()) for number in range(len(readers))], readers))
    heads = [names for names, _ in columns]
    lines = [f"| written by | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    firsts = [numbers[0] for _, numbers in columns]
    lines += [
        f"| {names} | {' | '.join(list(squares.values())[numbers[0]][first] for first in firsts)} |"
        for names, numbers in _alike([tuple(row) for row in squares.values()], list(squares))
    ]
    reasons = "".join(f"- {line}\n" for line in _reasons(cells, format_, what))
    return "\n".join(lines) + "\n" + (f"\n{reasons}" if reasons else "")


def _alike(rows: list[tuple[str, ...]], names: list[str]) -> Iterator[tuple[str, list[int]]]:
    """Neighbours with equal rows, under one name, with their numbers; what is no release stands alone."""
    groups: list[list[int]] = []
    for number, row in enumerate(rows):
        joins = groups and rows[groups[-1][0]] == row and names[number][0].isdigit()
        if joins and "-" not in names[number] + names[groups[-1][0]]:
            groups[-1].append(number)
        else:
            groups.append([number])
    for group in groups:
        first, last = names[group[0]], names[group[-1]]
        yield first if first == last else f"{first} to {last}", group


def _square(found: Measured, format_: str, what: str, pair: Pair) -> str:
    seen: dict[str, Outcome] = {}
    for mode in _MODES:
        outcome = found.cells.get((format_, mode, what), {}).get(pair)
        if outcome is not None and outcome.kind != "skipped":
            seen[mode] = outcome
    kinds = {outcome.kind for outcome in seen.values()}
    if len(kinds) < 2:  # noqa: PLR2004 - all modes agree
        return _SIGNS[next(iter(kinds))] if kinds else ""
    loads = {mode for mode, outcome in seen.items() if outcome.kind == "ok"} - {"default"}
    asked = set(seen) - {"default"}
    if loads and loads == asked - set(_SAFE):
        return _ONLY_FULL
    if loads and loads == asked & set(_SAFE):
        return _ONLY_SAFE
    return _MIXED if loads else _SIGNS[min(kinds, key=list(_SIGNS).index)]


def _reasons(cells: Mapping[Group, Mapping[Pair, VersionKnown]], format_: str, what: str) -> Iterator[str]:
    seen: dict[str, dict[str, Any]] = {}
    for mode in _MODES:
        for (writer, reader), entry in cells.get((format_, mode, what), {}).items():
            facts = seen.setdefault(entry.id, {"entry": entry, "writers": set(), "readers": set(), "modes": {}})
            facts["writers"].add(writer)
            facts["readers"].add(reader)
            facts["modes"][mode] = max(facts["modes"].get(mode, ("", "")), (writer, reader))
    for facts in seen.values():
        entry, writers, readers = facts["entry"], in_order(facts["writers"]), in_order(facts["readers"])
        mode, (writer, reader) = next(iter(facts["modes"].items()))
        link = f" [More]({entry.link})." if entry.link else ""
        who = f"written by {_span(writers)}, read by {_span(readers)} ({', '.join(facts['modes'])})"
        yield f"{who}: {entry.reason}.{link} See `version:{format_}:{writer}>{reader}:{mode}:{what}`."


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
