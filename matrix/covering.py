"""Where something happens, as few products of lists and ranges of releases: exact on every cell that was measured.

A cell that was not measured, since there is no such file or the reader has no such option, may fall on either side;
so ranges run through it, and say something of releases that were not measured too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from matrix.measured import Group, Pair, in_order

# Of each pair that was measured, whether it happens there.
Table = Mapping[Pair, bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A product: everything of these lists happens between these writers and these readers."""

    format: tuple[str, ...]
    mode: tuple[str, ...]
    what: tuple[str, ...]
    writer: tuple[str, ...]
    reader: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """Lists of formats, modes and contents that have one table."""

    lists: tuple[tuple[str, ...], ...]
    table: Table


def places(tables: Mapping[Group, Table]) -> list[Place]:
    """The places of what happens where a table says True.

    Args:
        tables: every group that was measured.
    """
    groups = [group for group, table in tables.items() if any(table.values())]
    found: list[_Block] = []
    for format_, mode in dict.fromkeys((format_, mode) for format_, mode, _ in groups):
        rows = [
            _Block(lists=((format_,), (mode,), (g[2],)), table=tables[g]) for g in groups if g[:2] == (format_, mode)
        ]
        held = {what: table for (*at, what), table in tables.items() if at == [format_, mode]}
        found += [_everything(block, held) for block in _merged(rows, 2)]
    for axis in (1, 0):
        found = _merged(found, axis)
    return [place for block in found for place in _products(block)]


def _everything(block: _Block, held: Mapping[str, Table]) -> _Block:
    """The block for whatever a file holds, where nothing that was measured stands against it."""
    others = [table for what, table in held.items() if what not in block.lists[2]]
    table = dict(block.table)
    if len(block.lists[2]) < len(others) or any(_conflict(table, other) for other in others):
        return block
    for other in others:
        table |= other
    return _Block(lists=(block.lists[0], block.lists[1], ("*",)), table=table)


def _merged(blocks: Sequence[_Block], axis: int) -> list[_Block]:
    """The blocks, those that differ on one axis alone and do not contradict each other put together."""
    done: list[_Block] = []
    for block in blocks:
        for number, other in enumerate(done):
            same = all(other.lists[a] == block.lists[a] for a in range(3) if a != axis)
            if same and not _conflict(other.table, block.table):
                lists = list(block.lists)
                lists[axis] = tuple(dict.fromkeys((*other.lists[axis], *block.lists[axis])))
                done[number] = _Block(lists=tuple(lists), table={**other.table, **block.table})
                break
        else:
            done.append(block)
    return done


def _conflict(one: Table, other: Table) -> bool:
    small, large = sorted((one, other), key=len)
    return any(large.get(pair, happens) != happens for pair, happens in small.items())


def _products(block: _Block) -> Iterator[Place]:
    columns: dict[str, dict[str, bool]] = {}
    for (writer, reader), happens in block.table.items():
        columns.setdefault(reader, {})[writer] = happens
    format_, mode, what = block.lists
    for reader, column in _columns(columns):
        if any(column.values()):
            writers = tuple(_ranges(column))
            yield Place(format=format_, mode=mode, what=tuple(sorted(what)), writer=writers, reader=(reader,))


def _columns(columns: Mapping[str, Mapping[str, bool]]) -> Iterator[tuple[str, Mapping[str, bool]]]:
    """Readers for whom the same can be said, as ranges, with what is said of each writer."""
    runs: list[tuple[list[str], dict[str, bool]]] = []
    for reader in in_order(set(columns)):
        column = columns[reader]
        fits = (
            runs
            and _is_release(reader)
            and not any(runs[-1][1].get(name, value) != value for name, value in column.items())
        )
        if fits:
            runs[-1][0].append(reader)
            runs[-1][1].update(column)
        else:
            runs.append(([reader], dict(column)))
    for number, (readers, column) in enumerate(runs):
        if not _is_release(readers[0]):
            yield readers[0], column
            continue
        following = runs[number + 1][0][0] if number + 1 < len(runs) else ""
        upper = following if following and _is_release(following) else ""
        yield _range(readers[0] if number else "", upper), column


def _ranges(column: Mapping[str, bool]) -> Iterator[str]:
    """The writers of whom something is said, as ranges; those that are no releases, by name."""
    names = [name for name in in_order(set(column)) if _is_release(name)]
    lower: str | None = None
    before = False
    for name in names:
        if column[name] and lower is None:
            lower = name if before else ""
        elif not column[name] and lower is not None:
            yield _range(lower, name)
            lower = None
        before = before or not column[name]
    if lower is not None:
        yield _range(lower, "")
    yield from (name for name in in_order(set(column)) if column[name] and not _is_release(name))


def _range(lower: str, upper: str) -> str:
    return ",".join([f">={lower}" if lower else ">=0", *([f"<{upper}"] if upper else [])])


def _is_release(name: str) -> bool:
    try:
        Version(name)
    except InvalidVersion:
        return False
    return True
