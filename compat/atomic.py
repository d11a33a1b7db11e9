"""Write a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from compat.errors import TargetExists, Unreadable


@contextlib.contextmanager
def atomic_target(target: Path, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """A temporary file beside `target` that takes its place when the block ends without an error.

    What was written is on disk by then: the file and its folder are synced.

    Raises:
        TargetExists: there is a file and `overwrite` is False; it stays untouched.
        Unreadable: the folder cannot be written.
    """
    check_target(target, overwrite=overwrite)
    try:
        file = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed below, before it is renamed
            prefix=f".{target.name[:64]}.", suffix=".tmp", dir=target.parent, delete=False
        )
    except OSError as error:
        raise Unreadable(f"cannot be written: {error.strerror}", source=target) from error
    temporary = Path(file.name)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _adopt_mode(temporary, target)
        _move(temporary, target, overwrite=overwrite)
        _sync_folder(target.parent)
    except OSError as error:
        raise Unreadable(f"cannot be written: {error.strerror or error}", source=target) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot or must not be written, before any work is done.

    Raises:
        TargetExists, Unreadable: as `atomic_target`.
    """
    if target.is_dir():
        raise Unreadable("is a directory", source=target, expected="the name of a file to write")
    if target.exists() and not target.is_file():
        raise Unreadable("is a device or a pipe", source=target, expected="the name of a regular file to write")
    if target.exists() and not overwrite:
        raise TargetExists(target)
    if not target.parent.is_dir():
        raise Unreadable(f"cannot be written: there is no folder {str(target.parent)!r}", source=target)


def _move(temporary: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(target)
        return
    # A link fails where a rename would replace: whoever came first keeps the name.
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise TargetExists(target) from None
    except OSError:  # a filesystem without hard links
        temporary.replace(target)


def _adopt_mode(temporary: Path, target: Path) -> None:
    """Give the new file the permissions of the old one, or those that any new file would get here."""
    if target.exists():
        mode = stat.S_IMODE(target.stat().st_mode)
    else:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    temporary.chmod(mode)


def _sync_folder(folder: Path) -> None:
    flags = getattr(os, "O_DIRECTORY", None)
    if flags is None:  # no such thing as syncing a folder here
        return
    descriptor = os.open(folder, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_to(target: Any, content: IO[bytes]) -> None:
    """Copy a finished temporary file into an open file object."""
    content.seek(0)
    while piece := content.read(1 << 20):
        target.write(piece)
