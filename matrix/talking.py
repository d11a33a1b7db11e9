"""A conversation with a peer: requests with time limits, and every way in which a peer can fail, told apart."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matrix.messages import in_one_line
from matrix.outcomes import Outcome

_HERE: Final = Path(__file__).parent
# What a peer runs of this package; nothing else of this environment is seen by its interpreter.
STAGED: Final = ("__init__.py", "peer.py", "serving", "corpus/__init__.py", "corpus/writer")
# A reply is read whole; one that is longer is no answer to a question of ours.
_LONGEST: Final = 1 << 30
_CHUNK: Final = 1 << 20
_TAIL: Final = 2000


class PeerFailed(Exception):  # noqa: N818 - it names what happened at the peer's end
    """A peer answered that what was asked raised something.

    Attributes:
        error_type: the name of the exception's class; message: what it said.
    """

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(f"{error_type}: {message}")
        self.error_type = error_type
        self.message = message


class PeerLost(Exception):  # noqa: N818 - it names what happened to the peer
    """A peer gave no answer that counts; its process is over.

    Attributes:
        how: `died`, `hung`, `rubbish` or `out of step`; error_type: the signal's name, or the like.
        message: what was seen; stderr: the end of what it printed.
    """

    def __init__(self, how: str, error_type: str, message: str, stderr: str = "") -> None:
        super().__init__(f"the peer {how}: {message}")
        self.how = how
        self.error_type = error_type
        self.message = message
        self.stderr = stderr


def outcome_of(error: PeerFailed | PeerLost, stage: str, path: Path | None = None) -> Outcome:
    """What a failure at a peer counts as: an exception is a refusal; a lost process is a crash or a timeout."""
    if isinstance(error, PeerLost):
        kind = "timeout" if error.how == "hung" else "crashed"
        return Outcome(kind=kind, stage=stage, message=error.message, error_type=error.error_type)
    kind = "crashed" if error.error_type in ("MemoryError", "RecursionError", "SystemExit") else "refused"
    message = in_one_line(error.message, path) or error.error_type
    return Outcome(kind=kind, stage=stage, message=message, error_type=error.error_type)


def stage(folder: Path) -> None:
    """Copy what a peer runs into a folder of its own, so that its interpreter sees none of this environment."""
    for name in STAGED:
        source, target = _HERE / name, folder / "matrix" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)


class Peer:
    """One peer: its process is started when it is first asked something, and again after it was lost.

    Args:
        name: what it is called; python: its interpreter; implementation: a module of `matrix.serving`.
        seconds: how long an answer may take.
        command: what is run instead, for peers that are no modules of ours.
    """

    def __init__(
        self,
        name: str,
        *,
        python: Path | str = "",
        implementation: str = "by_torch",
        seconds: float = 60.0,
        command: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self.seconds = seconds
        self.command = command or (str(python), "-s", "-m", "matrix.serving", implementation)
        self.started = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._room: tempfile.TemporaryDirectory[str] | None = None
        self._seq = 0
        self._buffer = b""

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def idle(self) -> bool:
        """Whether its process has not been started, or is over."""
        return self._process is None

    def ask(self, do: str, *, seconds: float | None = None, **facts: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer.

        Raises:
            PeerFailed: it raised something.
            PeerLost: it died, hung, or answered something else; the next question starts another process.
        """
        process = self._running()
        self._seq += 1
        request = json.dumps({"seq": self._seq, "do": do, **facts}) + "\n"
        deadline = time.monotonic() + (self.seconds if seconds is None else seconds)
        try:
            self._send(process, request.encode("ascii"), deadline)
            reply = self._parsed(self._line(process, deadline))
        except PeerLost:
            self._end()
            raise
        except BaseException:  # interrupted: what it would answer now is no answer to what is asked next
            self._end()
            raise
        if "failed" in reply:
            failed = reply["failed"]
            raise PeerFailed(str(failed.get("type")), str(failed.get("message")))
        done: dict[str, Any] = reply["done"]
        return done

    def close(self) -> None:
        """Tell it to stop, and end it where it does not."""
        if self._process is not None and self._process.poll() is None:
            process = self._process
            with contextlib.suppress(PeerLost, PeerFailed, subprocess.TimeoutExpired):
                self.ask("stop", seconds=5)
                process.wait(5)
        self._end()
        if self._room is not None:
            self._room.cleanup()
            self._room = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            if self._room is None:
                self._room = tempfile.TemporaryDirectory(prefix="matrix-peer-")
                self._furnish(Path(self._room.name))
            self._buffer = b""
            self.started += 1
            with self._stderr_path.open("wb") as stderr:
                try:
                    self._process = subprocess.Popen(  # noqa: S603 - the interpreter that the user made a peer
                        self.command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=stderr,
                        cwd=self._room.name,
                        env=self._variables(self._room.name),
                        start_new_session=True,
                    )
                except OSError as error:
                    raise PeerLost("died", type(error).__name__, f"cannot be started: {error}") from error
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    os.set_blocking(stream.fileno(), False)
        return self._process

    def _furnish(self, room: Path) -> None:
        """Put into its folder what its interpreter is to see of us."""
        stage(room)

    def _variables(self, room: str) -> Mapping[str, str]:
        """Its environment."""
        return _variables(room)

    @property
    def _stderr_path(self) -> Path:
        return Path("" if self._room is None else self._room.name) / "stderr"

    def _send(self, process: subprocess.Popen[bytes], data: bytes, deadline: float) -> None:
        if process.stdin is None:
            raise PeerLost("died", "", "has no standard input")
        left = memoryview(data)
        end = process.stdin.fileno()
        while left:
            _, ready, _ = select.select([], [end], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._hung()
            try:
                left = left[os.write(end, left[:_CHUNK]) :]
            except BrokenPipeError:
                raise self._died(process) from None

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        if process.stdout is None:
            raise PeerLost("died", "", "has no standard output")
        end = process.stdout.fileno()
        pieces = [self._buffer]
        size = len(self._buffer)
        while b"\n" not in pieces[-1]:
            ready, _, _ = select.select([end], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._hung()
            piece = os.read(end, _CHUNK)
            if not piece:
                raise self._died(process)
            pieces.append(piece)
            size += len(piece)
            if size > _LONGEST:
                raise PeerLost("rubbish", "Rubbish", f"more than {_LONGEST} bytes in one line", self._tail())
        line, _, self._buffer = b"".join(pieces).partition(b"\n")
        return line

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            reply = json.loads(line)
        except ValueError:
            raise PeerLost("rubbish", "Rubbish", f"answered {line[:80]!r}; expected JSON", self._tail()) from None
        if not isinstance(reply, dict) or not isinstance(reply.get("done", reply.get("failed")), dict):
            raise PeerLost("rubbish", "Rubbish", f"answered {line[:80]!r}; expected a reply", self._tail())
        if reply.get("seq") != self._seq:
            message = f"answered request {reply.get('seq')!r}; expected {self._seq}"
            raise PeerLost("out of step", "OutOfStep", message, self._tail())
        return reply

    def _hung(self) -> PeerLost:
        return PeerLost("hung", "Hang", f"no answer within {self.seconds:g} s", self._tail())

    def _died(self, process: subprocess.Popen[bytes]) -> PeerLost:
        try:
            code = process.wait(5)
        except subprocess.TimeoutExpired:
            return PeerLost("died", "Closed", "closed its output without an answer", self._tail())
        if code < 0:
            name = signal.Signals(-code).name
            return PeerLost("died", name, f"ended by {name}", self._tail())
        return PeerLost("died", "Exit", f"ended with exit code {code}", self._tail())

    def _tail(self) -> str:
        try:
            return self._stderr_path.read_bytes()[-_TAIL:].decode("utf-8", "replace")
        except OSError:
            return ""

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _variables(place: str) -> Mapping[str, str]:
    """The environment of a peer: the user's, less what would change what its interpreter imports or torch does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TORCH_FORCE"))}
    settings = {"PYTHONPATH": place, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
    return {**kept, **settings}
