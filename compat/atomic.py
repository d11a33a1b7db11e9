"""Write a file, or a checkpoint of several files, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from compat.data import Buffer
from compat.errors import TargetExists, Unreadable


@contextlib.contextmanager
def atomic_target(target: Path, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """A temporary file beside `target` that takes its place when the block ends without an error.

    What was written is on disk by then: the file and its folder are synced. A symbolic link stays one: what it
    points to is written, as `cp` does.

    Raises:
        TargetExists: there is a file and `overwrite` is False; it stays untouched.
        Unreadable: the folder cannot be written.
    """
    check_target(target, overwrite=overwrite)
    target = _behind_links(target)
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
        _sync(target.parent)
    except OSError as error:
        raise Unreadable(f"cannot be written: {error.strerror or error}", source=target) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_files(target: Path, *, overwrite: bool, folder: bool) -> Iterator[Path]:
    """A folder beside `target`; what is written into it takes its place when the block ends without an error.

    With `folder`, the whole folder becomes `target`. Without, its files move beside `target`, which is one of
    them and goes last: a reader finds an index only when all that it names is there.

    Raises:
        TargetExists: one of the names is taken and `overwrite` is False; everything stays as it was.
        Unreadable: the folder cannot be written.
    """
    check_target(target, overwrite=overwrite, folder=folder)
    if folder:  # shards lie beside the index itself, wherever a link to it lies
        target = _behind_links(target)
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name[:64]}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise Unreadable(f"cannot be written: {error.strerror}", source=target) from error
    try:
        yield staging
        for file in staging.rglob("*"):
            _sync(file)
        _sync(staging)
        if folder:
            _move_folder(staging, target, overwrite=overwrite)
        else:
            _move_files(staging, target, overwrite=overwrite)
        _sync(target.parent)
    except OSError as error:
        raise Unreadable(f"cannot be written: {error.strerror or error}", source=target) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _behind_links(target: Path) -> Path:
    """What a path leads to when its last part is a symbolic link.

    Raises:
        Unreadable: it leads in a circle, or into a folder that is not there.
    """
    if not target.is_symlink():
        return target
    try:
        place = target.resolve()
    except (OSError, RuntimeError) as error:
        raise Unreadable("is a symbolic link that leads in a circle", source=target) from error
    if place.is_symlink():
        raise Unreadable("is a symbolic link that leads in a circle", source=target)
    if not place.parent.is_dir():
        raise Unreadable(f"is a symbolic link into {str(place.parent)!r}, which is not there", source=target)
    return place


def _move_folder(staging: Path, target: Path, *, overwrite: bool) -> None:
    mask = os.umask(0)
    os.umask(mask)
    staging.chmod(0o777 & ~mask)
    if not (target.exists() and overwrite):
        staging.rename(target)
        return
    # A folder that is not empty cannot be renamed over; the old one steps aside until the new one is there.
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name[:64]}.", suffix=".old", dir=target.parent))
    target.rename(aside / target.name)
    try:
        staging.rename(target)
    except OSError:
        (aside / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _move_files(staging: Path, target: Path, *, overwrite: bool) -> None:
    names = sorted(file.name for file in staging.iterdir() if file.name != target.name)
    for name in names:
        check_target(target.parent / name, overwrite=overwrite)
    if overwrite:
        # The old index must not name new shards, whenever this is interrupted.
        target.unlink(missing_ok=True)
    moved: list[Path] = []
    try:
        for name in [*names, target.name]:
            place = target.parent / name
            _adopt_mode(staging / name, place)
            _move(staging / name, place, overwrite=overwrite)
            moved.append(place)
    except BaseException:
        for place in moved:
            place.unlink(missing_ok=True)
        raise


class Counted:
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


def target_path(dst: str | os.PathLike[str]) -> Path:
    """The path to write to, which must not be empty.

    Raises:
        Unreadable: it is.
    """
    if not os.fspath(dst):
        raise Unreadable("the path is empty", expected="the name of a file to write")
    return Path(dst)


def check_target(target: Path, *, overwrite: bool, folder: bool = False) -> None:
    """Refuse a target that cannot or must not be written, before any work is done.

    Raises:
        TargetExists, Unreadable: as `atomic_target`.
    """
    if folder and target.exists() and not target.is_dir():
        raise Unreadable("is a file", source=target, expected="the name of a folder to write")
    if folder and target.is_dir() and not any(target.iterdir()):
        return
    if not folder and target.is_dir():
        raise Unreadable("is a directory", source=target, expected="the name of a file to write")
    if target.exists() and not target.is_file() and not target.is_dir():
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


def _sync(path: Path) -> None:
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):  # no such thing as syncing a folder here
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_to(target: Any, content: IO[bytes]) -> None:
    """Copy a finished temporary file into an open file object."""
    content.seek(0)
    while piece := content.read(1 << 20):
        target.write(piece)
