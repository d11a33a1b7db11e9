"""`compat diff`: how two checkpoints differ, or which tensor of the one is which of the other."""

from __future__ import annotations

from dataclasses import asdict

import click

from compat.checkpoint import Checkpoint, path_text, walk
from compat.cli._output import FOUND, guarded, json_option, print_json, printable, shorten
from compat.diffing import FACETS, Change, Difference, describe, diff
from compat.errors import counted
from compat.loading import open_checkpoint
from compat.matching import AMBIGUOUS, Correspondence, Group, Pair, correspond

# So many tensors that differ in the same way are shown as one line.
_ALIKE = 3
_LINES = 50
# The facets that are worth a word where nothing differs.
_COMPARED = {"dtype": "dtype", "shape": "shape", "stride": "stride", "aliasing": "sharing", "bytes": "every byte"}


@click.command("diff")
@click.argument("left")
@click.argument("right")
@click.option(
    "--ignore",
    multiple=True,
    metavar="FACET",
    type=click.Choice(FACETS),
    help=f"Let them differ in this; may be given again. One of: {', '.join(FACETS)}.",
)
@click.option("--by-value", is_flag=True, help="Find LEFT's tensors in RIGHT by their bytes, whatever they are called.")
@click.option(
    "--ambiguous",
    type=click.Choice(AMBIGUOUS),
    default="keep",
    show_default=True,
    help="With --by-value: show tensors of equal values as a group, or pair them by name or by order.",
)
@click.option("--all", "show_all", is_flag=True, help="Show every difference or pair, however many there are.")
@json_option
@guarded
def command(
    left: str,
    right: str,
    *,
    ignore: tuple[str, ...],
    by_value: bool,
    ambiguous: str,
    show_all: bool,
    as_json: bool,
) -> int:
    """Compare two checkpoints of any formats: tensors by their bytes, everything else by type and value.

    The exit code is 0 when they hold the same, 1 when they differ. With --by-value it is 0 when every tensor of LEFT
    has a partner in RIGHT, which may hold more.
    """
    lines = None if show_all else _LINES
    if by_value:
        if ignore:
            raise click.UsageError("--by-value looks at values alone; it has nothing to --ignore.")
        matched = correspond(left, right, ambiguous=ambiguous)
        if as_json:
            print_json("correspondence", {"complete": matched.complete, **asdict(matched)})
        else:
            _print_matched(matched, lines)
        return 0 if matched.complete else FOUND
    if ambiguous != "keep":
        raise click.UsageError("--ambiguous says how to pair tensors --by-value.")
    with open_checkpoint(left) as a, open_checkpoint(right) as b:
        found = diff(a, b, ignore=ignore)
        if as_json:
            print_json("diff", {"same": not found, **asdict(found)})
        else:
            _print(found, {"left": a, "right": b}, lines)
    return FOUND if found else 0


def _print(found: Difference, sides: dict[str, Checkpoint], lines: int | None) -> None:
    equal = counted(found.equal_tensors, "tensor")
    if found.tensors:
        click.echo(f"{counted(len(found.tensors), 'difference')} in tensors ({equal} without any):")
        _list(_joined(found.tensors), lines)
    else:
        facets = [word for facet, word in _COMPARED.items() if facet not in found.ignored]
        click.echo(f"no difference in tensors: {equal}, equal in {', '.join(facets)}")
    if found.extras:
        click.echo(f"{counted(len(found.extras), 'difference')} beside the tensors:")
        _list(_joined(found.extras), lines)
    elif found.equal_extras:
        click.echo(f"no difference beside the tensors: {counted(found.equal_extras, 'equal value')}")
    if found.ignored:
        click.echo(f"not compared, as asked: {', '.join(found.ignored)}")
    for side, checkpoint in sides.items():
        _print_carried([path for path, holder in found.carried.items() if holder == side], checkpoint)


def _joined(changes: list[Change]) -> list[str]:
    """One line per change; what many tensors have in common, such as another device, is said once."""
    alike: dict[tuple[str, str | None, str | None], list[Change]] = {}
    for change in changes:
        alike.setdefault((change.facet, change.left, change.right), []).append(change)
    lines = []
    for (facet, left, right), same in alike.items():
        if len(same) <= _ALIKE or facet in ("bytes", "missing"):
            lines += [str(change) for change in same]
        else:
            paths = shorten([change.path for change in same])
            lines.append(f"{paths}: {facet} is {left} on the left, {right} on the right")
    return lines


def _print_carried(paths: list[str], checkpoint: Checkpoint) -> None:
    """Say what the file holds only for compat: another reader of it finds tensors and nothing else."""
    if not paths:
        return
    values = {path_text(path): leaf for path, leaf in walk(checkpoint.tree)}
    shown = [f"{path} ({describe(values[path])})" if path in values else path for path in paths]
    click.echo(
        f"changed its place: {printable(checkpoint.source)} carries {shorten(shown)} in its metadata, where only "
        "compat finds it; other readers see the tensors alone"
    )


def _print_matched(found: Correspondence, lines: int | None) -> None:
    renamed = sum(pair.left != pair.right for pair in found.pairs)
    click.echo(f"{counted(len(found.pairs), 'tensor')} found by value, {renamed:,} of them under another name:")
    width = min(max((len(pair.left) for pair in found.pairs), default=0), 60)
    _list([_pair_text(pair, width) for pair in found.pairs], lines)
    if found.groups:
        click.echo("equal among themselves, so that values cannot tell which is which (see --ambiguous):")
        _list([_group_text(group) for group in found.groups], lines)
    for side, source, names in (
        ("left", found.left, found.only_left),
        ("right", found.right, found.only_right),
    ):
        if names:
            click.echo(f"only on the {side}, in {printable(source)}: {counted(len(names), 'tensor')}")
            _list(names, lines)
    if found.alike:
        click.echo(
            f"{len(found.alike):,} of those only on the left have the dtype and shape of one only on the right, and "
            "other values: as of one model trained twice, or further"
        )


def _pair_text(pair: Pair, width: int) -> str:
    how = [] if pair.how == "same" else [f"{pair.how}: {pair.detail}"]
    how += {"value": [], "sharing": ["one tensor of several names"]}.get(pair.by, [f"chosen by {pair.by}"])
    return f"{pair.left.ljust(width)} = {pair.right}" + (f"  ({', '.join(how)})" if how else "")


def _group_text(group: Group) -> str:
    how = "" if group.how == "same" else f", {group.how}"
    short = f"; {counted(group.short, 'tensor')} of the left without a partner" if group.short else ""
    return f"{group.what}{how}: {shorten(group.left)} = {shorten(group.right)}{short}"


def _list(lines: list[str], limit: int | None) -> None:
    for line in lines[:limit]:
        click.echo(f"  {printable(line)}")
    if limit is not None and len(lines) > limit:
        click.echo(f"  … and {len(lines) - limit:,} more (--all shows them)")
