"""Where checkpoints come from: paths, open files and bytes, behind one bounded reader."""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol

from compat.data import CHUNK, Buffer
from compat.errors import Corrupt, Unreadable, Unsupported, brief
from compat.schemes import is_url

HEAD: Final = 4096


class Source:
    """Bytes that can be read at any offset, with a name for messages.

    Attributes:
        name: what the user called it.
        size: its length in bytes; 0 for a folder.
        path: the file's path; None for open files and bytes.
        folder: the folder's path where it is one, whose files `beside` opens; None for everything else.
    """

    folder: Path | None = None

    def __init__(self, name: str, size: int, path: Path | None = None) -> None:
        self.name = name
        self.size = size
        self.path = path
        # What a format found out while it was asked whether the content is its own.
        self.cache: dict[str, object] = {}
        self._beside: dict[Path, Source] = {}

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file and of those opened beside it; what was opened by the user stays open."""
        for opened in self._beside.values():
            opened.close()
        self._beside.clear()

    def beside(self, name: str) -> Source:
        """Another file of the same checkpoint, by the name that this one gives it; closed along with this one.

        Args:
            name: relative to the folder that this file lies in, or to the folder that this is.

        Raises:
            Corrupt: the name leads out of the folder, also by a symbolic link, or there is no such file.
            Unsupported: this is no file on disk, so that nothing lies beside it.
        """
        path = self.inside(name)
        if path not in self._beside:
            if not path.is_file():
                raise Corrupt(
                    f"names the file {brief(name)}, which is not there",
                    source=self.name,
                    hint="Get it too, and put it into the same folder.",
                )
            self._beside[path] = FileSource(path, str(path))
        return self._beside[path]

    def inside(self, name: str) -> Path:
        """Where another file of the same checkpoint lies, whether or not it is there.

        Raises:
            Corrupt: the name leads out of the folder, also by a symbolic link.
            Unsupported: this is no file on disk, so that nothing lies beside it.
        """
        if self.path is None:
            raise Unsupported(
                f"names the file {brief(name)}, and nothing lies beside bytes in memory",
                feature="external-data",
                source=self.name,
                hint="Open it by its path.",
            )
        home = self.folder or self.path.parent
        parts = PurePosixPath(name.replace("\\", "/")).parts
        outside = not parts or ".." in parts or "\0" in name or PureWindowsPath(name).anchor or name.startswith("/")
        path = home if outside else home.joinpath(*parts)
        if outside or not _stays(path.resolve(), home.resolve()):
            raise Corrupt(
                f"names the file {brief(name)}, which leads out of its folder",
                source=self.name,
                expected="a file in the same folder",
            )
        return path

    def _fill(self, offset: int, target: memoryview) -> int:
        raise NotImplementedError

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` with the bytes at `offset`.

        Raises:
            Corrupt: the source ends before that.
        """
        filled = 0
        while filled < target.nbytes:
            count = self._fill(offset + filled, target[filled:])
            if count <= 0:
                raise Corrupt(
                    f"ends at byte {min(self.size, offset + filled):,}",
                    expected=f"{offset + target.nbytes:,} bytes at least",
                    source=self.name,
                    hint="The file is cut short; get it again.",
                )
            filled += count

    def read(self, offset: int, size: int) -> bytearray:
        """Exactly `size` bytes at `offset`.

        Raises:
            Corrupt: the source ends before that; nothing is allocated then.
        """
        if size > self.size - offset:
            raise Corrupt(
                f"ends at byte {self.size:,}",
                expected=f"{offset + size:,} bytes at least",
                source=self.name,
                hint="The file is cut short; get it again.",
            )
        target = bytearray(size)
        self.read_into(offset, memoryview(target))
        return target

    def chunks(self, offset: int, size: int) -> Iterator[Buffer]:
        """The bytes in pieces of `CHUNK`, all in one reused buffer."""
        buffer = memoryview(bytearray(min(CHUNK, size)))
        end = offset + size
        while offset < end:
            piece = buffer[: min(CHUNK, end - offset)]
            self.read_into(offset, piece)
            yield piece
            offset += piece.nbytes

    @cached_property
    def head(self) -> bytes:
        """The first bytes, at most `HEAD`, by which formats are told apart."""
        return bytes(self.read(0, min(HEAD, self.size)))

    def map(self) -> mmap.mmap:
        """The whole file mapped copy-on-write: writing into it changes memory, never the file.

        Raises:
            Unsupported: the source is no file on disk.
        """
        raise Unsupported("cannot be mapped into memory", feature="mmap", source=self.name, expected="a file on disk")


def _stays(path: Path, home: Path) -> bool:
    """Whether a file with all links resolved lies below `home`, or in the blobs of the same cached repository.

    The Hugging Face cache keeps `models--x/snapshots/<commit>/<name>` as links to `models--x/blobs/<hash>`.
    """
    if path.is_relative_to(home):
        return True
    return "snapshots" in home.parts and path.parent == Path(*home.parts[: home.parts.index("snapshots")], "blobs")


def _absent(path: Path, name: str) -> Unreadable:
    """The error for a path behind which there is nothing."""
    try:
        pointed = os.readlink(path)  # noqa: PTH115 - the text of the link itself
    except OSError:
        return Unreadable("does not exist", source=name, hint="Check the path.")
    # git-annex and data managers like it keep the content elsewhere, and leave links in its place.
    hint = "Fetch the content with: git annex get" if "annex/objects/" in pointed else "Get what it points to."
    return Unreadable(f"is a symbolic link to {brief(pointed)}, which does not exist", source=name, hint=hint)


class FileSource(Source):
    """A file on disk, read by position, so that concurrent readers do not disturb each other."""

    _open = False

    def __init__(self, path: Path, name: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        except FileNotFoundError as error:
            raise _absent(path, name) from error
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise Unreadable(f"cannot be opened: {reason}", source=name) from error
        self._open = True
        super().__init__(name, os.fstat(self._fd).st_size, path)

    def close(self) -> None:
        """Close the file, and those opened beside it."""
        if self._open:
            self._open = False
            os.close(self._fd)
            super().close()

    def __del__(self) -> None:
        self.close()

    def _fill(self, offset: int, target: memoryview) -> int:
        if not self._open:
            raise Unreadable("was closed before its bytes were read", source=self.name)
        try:
            return os.preadv(self._fd, [target], offset)
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror}", source=self.name) from error

    def map(self) -> mmap.mmap:
        """The whole file mapped copy-on-write."""
        return mmap.mmap(self._fd, 0, access=mmap.ACCESS_COPY)

    @property
    def fileno(self) -> int:
        """The open file's descriptor, for copying inside the kernel."""
        return self._fd


class FolderSource(Source):
    """A folder of files that are one checkpoint together."""

    folder: Path

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(name, 0, path)
        self.folder = path

    def _fill(self, offset: int, target: memoryview) -> int:
        del offset, target
        raise Unreadable("is a directory", source=self.name, expected="a file")

    def files(self) -> list[str]:
        """The names of the files directly in it, in order.

        Raises:
            Unreadable: the folder cannot be listed.
        """
        try:
            return sorted(entry.name for entry in os.scandir(self.folder) if entry.is_file())
        except OSError as error:
            raise Unreadable(f"cannot be listed: {error.strerror}", source=self.name) from error


class BytesSource(Source):
    """Bytes in memory, or a file object that is not a plain file on disk, read once."""

    def __init__(self, buffer: Buffer, name: str) -> None:
        self._view = memoryview(buffer).cast("B")
        super().__init__(name, self._view.nbytes)

    def _fill(self, offset: int, target: memoryview) -> int:
        piece = self._view[offset : offset + target.nbytes]
        target[: piece.nbytes] = piece
        return piece.nbytes


class WindowSource(Source):
    """A part of another source, that is a whole file of its own."""

    def __init__(self, parent: Source, offset: int, size: int) -> None:
        super().__init__(parent.name, size)
        self._parent = parent
        self._offset = offset

    def _fill(self, offset: int, target: memoryview) -> int:
        count = min(target.nbytes, self.size - offset)
        if count > 0:
            self._parent.read_into(self._offset + offset, target[:count])
        return max(count, 0)


class Readable(Protocol):
    """A file object open for reading bytes."""

    def read(self, size: int = ..., /) -> bytes:
        """The next bytes."""
        ...


SourceLike = str | os.PathLike[str] | Buffer | BinaryIO | Readable | Source


def open_source(src: SourceLike) -> Source:
    """A bounded reader of a path (of a file or a folder), a URL, a file object (from its position on) or bytes.

    Raises:
        Unreadable: there is nothing to read there.
        TypeError: `src` is none of these.
    """
    if isinstance(src, Source):
        return src
    if isinstance(src, (str, os.PathLike)):
        path, name = Path(src), os.fspath(src)
        if not name:
            raise Unreadable("the path is empty", expected="the path of a checkpoint")
        if isinstance(src, str) and is_url(src):
            from compat.remote import open_remote

            return open_remote(src)
        return FolderSource(path, name) if path.is_dir() else FileSource(path, name)
    if isinstance(src, (bytes, bytearray, memoryview)):
        return BytesSource(src, f"<{len(src):,} bytes>")
    if isinstance(src, io.BytesIO):
        return BytesSource(bytes(src.getbuffer()[src.tell() :]), "<BytesIO>")
    if callable(getattr(src, "read", None)):
        named = getattr(src, "name", None)
        content: Any = src.read()
        if not isinstance(content, bytes):
            raise Unreadable(
                f"is open as text: read() gave {type(content).__name__}",
                source=named or "<file object>",
                hint='Open it with mode "rb".',
            )
        return BytesSource(content, str(named or "<file object>"))
    raise TypeError(
        f"cannot read a checkpoint from {type(src).__name__}; expected a path, a file object open for reading "
        "bytes, or bytes"
    )
