"""Convert a checkpoint from any format to any other, streamed, verified, and with every loss said."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from compat import formats
from compat.atomic import check_target, target_path
from compat.checkpoint import Checkpoint
from compat.diffing import diff
from compat.errors import Mismatch, Unsupported
from compat.formats import Format, WriteOptions, Written
from compat.loading import open_checkpoint
from compat.saving import staged
from compat.sources import SourceLike

# Losses that a caller may allow, and the facets of a difference that each explains.
LOSSES = {
    "aliasing": {"aliasing", "stride", "storage_offset"},
    "dtype": set[str](),
    "hidden_bytes": set[str](),
    "strides": {"stride", "storage_offset"},
}
ALLOWABLE = ("aliasing", "dtype")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What a conversion did.

    Attributes:
        source, target: the files; source_format, target_format: their formats.
        tensors: how many; nbytes: the target's size.
        lost: feature → paths that lost it; carried: feature → paths that only compat restores.
        renamed: path → the tensor's name in the target.
        notes: what a reader should know: what stayed behind, and what was noted of the source.
        verified: whether the target was read back and compared before it took its place.
        seconds: how long it took.
    """

    source: str
    target: str
    source_format: str
    target_format: str
    tensors: int
    nbytes: int
    lost: dict[str, list[str]] = field(default_factory=dict)
    carried: dict[str, list[str]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    verified: bool
    seconds: float


def convert(
    src: SourceLike,
    dst: str | os.PathLike[str],
    *,
    to: str | None = None,
    allow_loss: Collection[str] = (),
    verify: bool = True,
    overwrite: bool = False,
    max_shard_size: int | str | None = None,
    change: Callable[[Checkpoint], Checkpoint] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Conversion:
    """Write a checkpoint again in another format; tensors are streamed and never held in memory.

    Args:
        src: a path, a file object open for reading bytes, or bytes.
        dst: the file to write, or the folder, for formats that are folders.
        to: the target's format; None goes by the suffix of `dst`.
        allow_loss: what the target may lose: `aliasing`, `dtype` (kept as raw bits that only compat restores).
        verify: read the target back and compare it with the source before it takes its place.
        overwrite: replace an existing file.
        max_shard_size: split the tensors into files of at most so many bytes, also as `5GB`, beside an index. With
            a `dst` that names a single file, such as `model.safetensors`, the index is that name and `.index.json`.
        change: what to write instead of the source's content; see `compat.rewriting`.
        progress: called with the number of bytes whenever some were written.

    Raises:
        Unsupported: the target's format cannot hold the content; nothing is written then.
        Mismatch: the target did not read back as the source; it was removed.
        TargetExists: there is a file and `overwrite` is False.
        CompatError: the source cannot be read; see `open`.
    """
    started = time.perf_counter()
    target = target_path(dst)
    unknown = sorted(set(allow_loss) - set(ALLOWABLE))
    if unknown:
        raise Unsupported(
            f"there is no loss named {unknown[0]!r} to allow",
            feature="allow_loss",
            expected=f"one of {', '.join(ALLOWABLE)}",
        )
    chosen, target = _chosen(target, to, sharded=max_shard_size is not None)
    options = WriteOptions(allow_loss=frozenset(allow_loss), progress=progress)
    if max_shard_size is not None:
        options = replace(options, max_shard_size=byte_count(max_shard_size))
    check_target(target, overwrite=overwrite, folder=chosen.shape == "folder")
    with open_checkpoint(src) as opened:
        checkpoint = opened if change is None else change(opened)
        with staged(chosen, checkpoint, target, options, overwrite=overwrite) as (place, written):
            if verify:
                _verify(checkpoint, place, written)
            return Conversion(
                source=checkpoint.source,
                target=str(target),
                source_format=checkpoint.format,
                target_format=chosen.name,
                tensors=len(checkpoint.tensors),
                nbytes=_size(chosen, place),
                lost=written.lost,
                carried=written.carried,
                renamed=written.renamed,
                notes=[*_left_behind(checkpoint, chosen), *checkpoint.notes],
                verified=verify,
                seconds=time.perf_counter() - started,
            )


def _left_behind(checkpoint: Checkpoint, chosen: Format) -> list[str]:
    """What the source has beside its content, where the target is of another format."""
    held = formats.get(checkpoint.format).left_behind
    held = held(checkpoint) if callable(held) else held
    if held is None or checkpoint.format == chosen.name:
        return []
    return [f"{held} of the {checkpoint.format} file stays behind: {chosen.name} holds its tensors and values only"]


def _chosen(target: Path, to: str | None, *, sharded: bool) -> tuple[Format, Path]:
    """The format to write; for shards that were asked for by a single file's name, the name of their index."""
    chosen = formats.get(to) if to else formats.for_target(target)
    if not sharded or chosen.shape == "files":
        return chosen, target
    able = {found.shards: found for found in formats.all_formats() if found.shards is not None}
    if chosen.name not in able:
        expected = f"one of {', '.join(found.name for found in able.values())}"
        raise Unsupported(f"{chosen.name} has no shards", feature="max_shard_size", expected=expected)
    return able[chosen.name], target.with_name(f"{target.name}.index.json")


def byte_count(size: int | str) -> int:
    """A size in bytes, also as people write it: `5GB`, `500MB`, `2GiB`.

    Raises:
        Unsupported: it is none, or not above zero.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)", str(size).strip().lower())
    powers = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
    number = float(found[1]) if found else 0.0
    unit = found[2].removesuffix("b") if found else ""
    count = int(number * (1024 if unit.endswith("i") else 1000) ** powers[unit.removesuffix("i")])
    if count < 1:
        raise Unsupported(f"{size!r} is no size", feature="max_shard_size", expected="bytes, or 500MB, 5GB, 2GiB")
    return count


def _size(chosen: Format, place: Path) -> int:
    """The bytes of everything that was written."""
    if chosen.shape == "file":
        return place.stat().st_size
    folder = place if chosen.shape == "folder" else place.parent
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _verify(checkpoint: Checkpoint, place: Path, written: Written) -> None:
    """Read what was written and compare it, all bytes of it, with the source."""
    explained: dict[str, set[str]] = {}
    for loss, paths in written.lost.items():
        for path in paths:
            explained.setdefault(path, set()).update(LOSSES[loss])
    with open_checkpoint(place) as back:
        found = diff(checkpoint, back)
    unexplained = [c for c in (*found.tensors, *found.extras) if c.facet not in explained.get(c.path, ())]
    if unexplained:
        raise Mismatch(
            f"what was written does not read back as the source: {unexplained[0]}",
            source=checkpoint.source,
            hint="Nothing was kept. This is a defect of compat: please report it with the file's `compat inspect`.",
        )
