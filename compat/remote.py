"""Checkpoints that lie elsewhere: read by ranges, or downloaded once into a cache."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar

from compat.data import CHUNK
from compat.errors import CompatError, Corrupt, MissingDependency, Unreadable, brief
from compat.schemes import resolve
from compat.sources import FileSource, Source

_BLOCK: Final = 64 * 1024
_BLOCKS: Final = 64
# A broken connection is tried again, from where it broke.
_TRIES: Final = 4
_PAUSE: Final = 0.2
# Seconds without an answer.
_SILENCE: Final = 60.0
# Names as torch.hub writes them end with the beginning of their SHA-256.
_HASHED: Final = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")

Answer = TypeVar("Answer")
Progress = Callable[[int, int | None], None]


class RemoteSource(Source):
    """A file behind a URL, of which only the ranges that are asked for are fetched."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._fs, self._path = _filesystem(url)
        info = _asked(name, lambda: self._fs.info(self._path))
        if info.get("type") == "directory":
            raise Unreadable("is a folder", source=name, expected="a file")
        size = info.get("size")
        if size is None or info.get("partial") is False:
            raise _no_ranges(name)
        super().__init__(name, int(size))
        self._blocks: dict[int, bytes] = {}

    def _fill(self, offset: int, target: memoryview) -> int:
        if offset >= self.size:
            return 0
        end = min(offset + target.nbytes, self.size)
        if end - offset > _BLOCK:
            piece = self._fetch(offset, min(end, offset + CHUNK))
        else:
            number, start = divmod(offset, _BLOCK)
            piece = self._block(number)[start : start + end - offset]
        target[: len(piece)] = piece
        return len(piece)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            if len(self._blocks) >= _BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number] = self._fetch(number * _BLOCK, min((number + 1) * _BLOCK, self.size))
        return self._blocks[number]

    def _fetch(self, start: int, end: int) -> bytes:
        def range_of() -> bytes:
            content: bytes = self._fs.cat_file(self._path, start=start, end=end)
            if len(content) == self.size > end - start:
                raise _no_ranges(self.name)
            if len(content) != end - start:
                raise OSError(f"the server gave {len(content):,} bytes for a range of {end - start:,}")
            return content

        return _asked(self.name, range_of)

    def beside(self, name: str) -> Source:
        """Another file of the same folder, by the name that this one gives it."""
        parts = name.replace("\\", "/").split("/")
        if not name or name.startswith("/") or ".." in parts or ":" in name or "?" in name or "#" in name:
            raise Corrupt(
                f"names the file {brief(name)}, which leads out of its folder",
                source=self.name,
                expected="a file in the same folder",
            )
        folder, _, query = self._url.partition("?")
        url = posixpath.join(posixpath.dirname(folder), *parts) + (f"?{query}" if query else "")
        key = Path(url)
        if key not in self._beside:
            self._beside[key] = RemoteSource(url, url)
        return self._beside[key]


def _no_ranges(name: str) -> Unreadable:
    hint = "Download it first: compat.download(url) gives its path."
    return Unreadable("is not served in ranges", source=name, hint=hint)


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        fsspec = import_module("fsspec")
    except ImportError as error:
        raise MissingDependency("fsspec", needed_for=url, install="python -m pip install 'fsspec[http]'") from error
    try:
        fs, path = fsspec.core.url_to_fs(url, **_patience(url))
    except ImportError as error:
        raise MissingDependency(
            f"a library for {url.partition('://')[0]}://", needed_for=url, install=str(error)
        ) from error
    except ValueError as error:
        raise Unreadable(f"cannot be opened: {error!s:.200}", source=url) from error
    return fs, path


def _patience(url: str) -> dict[str, Any]:
    """Options by which a server that falls silent is given up; a download as a whole may take as long as it does."""
    if not url.startswith(("http://", "https://")):
        return {}
    timeout = import_module("aiohttp").ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
    return {"client_kwargs": {"timeout": timeout}}


def _asked(name: str, question: Callable[[], Answer]) -> Answer:
    """Ask a server, again if the connection breaks.

    Raises:
        Unreadable: it does not exist, is not allowed, or the connection breaks every time.
    """
    for tried in range(1, _TRIES + 1):
        try:
            return question()
        except FileNotFoundError as error:  # noqa: PERF203 - the loop is there to try again
            raise Unreadable("does not exist", source=name, hint="Check the address.") from error
        except PermissionError as error:
            raise Unreadable("is not allowed to be read", source=name, hint="Check the credentials.") from error
        except CompatError:
            raise
        except _temporary() as error:
            if tried == _TRIES:
                raise Unreadable(
                    f"cannot be fetched: {type(error).__name__}: {error!s:.200}",
                    source=name,
                    hint=f"Tried {_TRIES} times; try again later.",
                ) from error
            time.sleep(_PAUSE * tried)
    raise AssertionError("unreachable")


def _temporary() -> tuple[type[Exception], ...]:
    """The exceptions by which fsspec says that a connection broke."""
    aiohttp = sys.modules.get("aiohttp")
    return (OSError, ValueError, TimeoutError) if aiohttp is None else (OSError, ValueError, aiohttp.ClientError)


def cache_folder() -> Path:
    """Where downloads are kept: `$COMPAT_CACHE`, or a folder in the user's cache."""
    chosen = os.environ.get("COMPAT_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "compat-matrix" / "downloads"


def download(name: str, *, progress: Progress | None = None) -> Path:
    """The path of a file behind a URL or a registered name, downloaded when it is not in the cache yet.

    Several processes may ask at once: each file appears whole. In a job of torch.distributed, one process per
    machine downloads, and the others wait for it; when it fails, all of them raise.

    Args:
        name: a URL or a name of a registered scheme.
        progress: called with the bytes so far and the bytes in all, None where the server does not say.

    Raises:
        Unreadable: it cannot be fetched.
        Corrupt: its name carries a hash that it does not have.
    """
    from compat.distributed import first_on_each_machine

    url = resolve(name)
    if "://" not in url:
        return Path(url)
    plain = posixpath.basename(url.partition("?")[0]) or "file"
    target = cache_folder() / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{plain[-128:]}"

    def get() -> None:
        if not target.exists():
            _download(url, name, target, progress)

    first_on_each_machine(get, name)
    return target


def _download(url: str, name: str, target: Path, progress: Progress | None) -> None:
    fs, path = _filesystem(url)
    info = _asked(name, lambda: fs.info(path))
    size = info.get("size")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = tempfile.NamedTemporaryFile(prefix=f".{target.name[:64]}.", dir=target.parent, delete=False)  # noqa: SIM115 - closed below
    except OSError as error:
        raise Unreadable(f"the cache {target.parent} cannot be written: {error.strerror}", source=name) from error
    temporary = Path(file.name)
    try:
        with file:
            digest = _transfer(fs, path, name, size, file, progress)
            file.flush()
            os.fsync(file.fileno())
        _check_hash(name, url, digest)
        temporary.replace(target)
    except OSError as error:
        raise Unreadable(f"cannot be kept in {target.parent}: {error.strerror or error}", source=name) from error
    finally:
        temporary.unlink(missing_ok=True)


def _transfer(fs: Any, path: str, name: str, size: int | None, file: Any, progress: Progress | None) -> str:
    """Fetch everything into a file; gives its SHA-256. A broken connection goes on where it broke."""
    digest = hashlib.sha256()
    done = 0

    def piece(start: int) -> bytes:
        if size is None:
            content: bytes = fs.cat_file(path)
            return content
        end = min(start + 4 * CHUNK, size)
        content = fs.cat_file(path, start=start, end=end)
        if len(content) == size:  # a server without ranges gives everything
            return content[start:]
        if len(content) != end - start:
            raise OSError(f"the connection broke after {start + len(content):,} of {size:,} bytes")
        return content

    while size is None or done < size:
        content = _asked(name, partial(piece, done))
        digest.update(content)
        file.write(content)
        done += len(content)
        if progress is not None:
            progress(done, size)
        if size is None:
            break
    return digest.hexdigest()


def _check_hash(name: str, url: str, digest: str) -> None:
    found = _HASHED.search(posixpath.basename(url.partition("?")[0]))
    if found and not digest.startswith(found[1]):
        raise Corrupt(
            f"has the SHA-256 {digest[:16]}…",
            source=name,
            expected=f"one that begins with {found[1]}, as its name says",
            hint="The download is damaged, or the file was changed; nothing was kept.",
        )


def open_remote(name: str) -> Source:
    """A bounded reader of what a URL or a registered name stands for; remote files are read by ranges.

    Raises:
        Unreadable: there is nothing to read there.
    """
    url = resolve(name)
    if "://" in url:
        return RemoteSource(url, name)
    return FileSource(Path(url), name)
