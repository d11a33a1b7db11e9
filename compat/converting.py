"""Convert a checkpoint from any format to any other, streamed, verified, and with every loss said."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from compat import formats
from compat.atomic import atomic_target, check_target
from compat.checkpoint import Checkpoint
from compat.data import Buffer
from compat.diffing import diff
from compat.errors import Mismatch, Unsupported
from compat.formats import WriteOptions, Written
from compat.loading import open_checkpoint
from compat.saving import write
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
    progress: Callable[[int], None] | None = None,
) -> Conversion:
    """Write a checkpoint again in another format; tensors are streamed and never held in memory.

    Args:
        src: a path, a file object open for reading bytes, or bytes.
        dst: the file to write.
        to: the target's format; None goes by the suffix of `dst`.
        allow_loss: what the target may lose: `aliasing`, `dtype` (kept as raw bits that only compat restores).
        verify: read the target back and compare it with the source before it takes its place.
        overwrite: replace an existing file.
        progress: called with the number of bytes whenever some were written.

    Raises:
        Unsupported: the target's format cannot hold the content; nothing is written then.
        Mismatch: the target did not read back as the source; it was removed.
        TargetExists: there is a file and `overwrite` is False.
        CompatError: the source cannot be read; see `open`.
    """
    started = time.perf_counter()
    target = Path(dst)
    unknown = sorted(set(allow_loss) - set(ALLOWABLE))
    if unknown:
        raise Unsupported(
            f"there is no loss named {unknown[0]!r} to allow",
            feature="allow_loss",
            expected=f"one of {', '.join(ALLOWABLE)}",
        )
    chosen = formats.get(to) if to else formats.for_target(target)
    check_target(target, overwrite=overwrite)
    with open_checkpoint(src) as checkpoint, atomic_target(target, overwrite=overwrite) as file:
        options = WriteOptions(name=target.stem or "archive", allow_loss=frozenset(allow_loss))
        written = write(chosen, checkpoint, _Counted(file, progress) if progress else file, options)
        file.flush()
        if verify:
            _verify(checkpoint, file, written)
        return Conversion(
            source=checkpoint.source,
            target=str(target),
            source_format=checkpoint.format,
            target_format=chosen.name,
            tensors=len(checkpoint.tensors),
            nbytes=file.seek(0, os.SEEK_END),
            lost=written.lost,
            carried=written.carried,
            renamed=written.renamed,
            verified=verify,
            seconds=time.perf_counter() - started,
        )


class _Counted:
    """A file that tells how much was written to it."""

    def __init__(self, file: IO[bytes], progress: Callable[[int], None]) -> None:
        self._file = file
        self._progress = progress
        self.seek = file.seek

    def write(self, piece: Buffer) -> int:
        """Write, and tell."""
        count = self._file.write(piece)
        self._progress(count)
        return count

    def writelines(self, pieces: Iterable[Buffer]) -> None:
        """Write each, and tell."""
        for piece in pieces:
            self.write(piece)


def _verify(checkpoint: Checkpoint, file: IO[bytes], written: Written) -> None:
    """Read what was written and compare it, all bytes of it, with the source."""
    explained: dict[str, set[str]] = {}
    for loss, paths in written.lost.items():
        for path in paths:
            explained.setdefault(path, set()).update(LOSSES[loss])
    with open_checkpoint(file.name) as back:
        found = diff(checkpoint, back)
    unexplained = [c for c in (*found.tensors, *found.extras) if c.facet not in explained.get(c.path, ())]
    if unexplained:
        raise Mismatch(
            f"what was written does not read back as the source: {unexplained[0]}",
            source=checkpoint.source,
            hint="Nothing was kept. This is a defect of compat: please report it with the file's `compat inspect`.",
        )
