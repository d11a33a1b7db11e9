"""What a run may take: time for one example, so that a hang is an outcome, and room for files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

# Bytes that files of examples may need at once, many times over.
_ROOM: Final = 256_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How much a run tries.

    Attributes:
        examples: per content, at most; seconds: for all of it, after which each content still gets one.
        exporting: seconds for exports, after one of each; None where they are left out.
        every: whether every export to a light target is run, and heavy ones in as many cells as meet every pair of
            values; otherwise that many of the light ones, and none of the heavy ones.
    """

    examples: int
    seconds: float
    exporting: float | None = 0.0
    every: bool = False


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimeoutError in the block when it takes longer; None is as long as it takes.

    Only the main thread of a platform with timers can be interrupted; elsewhere the block runs unbounded.
    """
    if seconds is None or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def scratch() -> str | None:
    """Where files of examples go: into memory, where the system has such a folder; None for its usual place.

    Every save is synced to disk before it counts, which is most of what a cell costs on a disk.
    """
    chosen = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    memory = Path("/dev/shm")  # noqa: S108 - temporary files get folders of their own in it
    if chosen or not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < _ROOM:
        return None
    return str(memory)
