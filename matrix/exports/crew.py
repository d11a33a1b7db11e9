"""The parent's side of the worker processes: two per target, started once, asked in turn, replaced when they break.

Work can be ordered before its outcome is asked for: then as many targets as there are processors are worked on at a
time, while the parent does other things.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from matrix.limits import scratch
from matrix.outcomes import Outcome
from matrix.talking import Peer, PeerFailed, PeerLost, outcome_of

# A first export imports compilers; on a busy machine that takes a while.
_WARMING: Final = 240.0
# After so long without work the processes of a target are closed.
_LINGERS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One export: what `worker.make` and `worker.use` are asked.

    Attributes:
        target: the target's name; request: everything else, as JSON text, so that equal jobs are one.
    """

    target: str
    request: str

    @classmethod
    def of(cls, target: str, **facts: Any) -> Job:
        """A job of these facts."""
        return cls(target=target, request=json.dumps(facts, sort_keys=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a job.

    Attributes:
        outcome: what happened; worst: the largest difference, as a part of the largest reference value.
        seconds: how long it took.
    """

    outcome: Outcome
    worst: float = 0.0
    seconds: float = 0.0


class Hand(Peer):
    """A worker process of this environment, which sees what this one sees."""

    def __init__(self, name: str, seconds: float) -> None:
        command = (sys.executable, "-m", "matrix.exports.worker")
        super().__init__(name, seconds=seconds, command=command)

    def _furnish(self, room: Path) -> None:
        del room  # it is to see all of us

    def _variables(self, room: str) -> Mapping[str, str]:
        del room
        here = [entry or str(Path.cwd()) for entry in sys.path]
        # Static artefacts of AOTInductor check their inputs only when they are asked to.
        settings = {"PYTHONPATH": os.pathsep.join(here), "OMP_NUM_THREADS": "1", "AOTI_RUNTIME_CHECK_INPUTS": "1"}
        return {**os.environ, **settings}


@dataclass(slots=True)
class Pair:
    """The two processes of a target: one makes artefacts, the other uses them."""

    target: str
    seconds: float
    hands: list[Hand] = field(default_factory=list)

    def work(self, job: Job) -> Result:
        """Do a job in a folder of its own."""
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="matrix-export-", dir=scratch()) as folder:
            facts = {**json.loads(job.request), "target": self.target, "folder": folder}
            seconds = float(facts.pop("seconds", self.seconds))
            result = self._asked(facts, seconds)
        return Result(outcome=result.outcome, worst=result.worst, seconds=time.perf_counter() - started)

    def _asked(self, facts: dict[str, Any], seconds: float) -> Result:
        stage = "export"
        try:
            maker, user = self._ready()
            done = maker.ask("make", seconds=seconds, **facts)
            if not done:
                stage = "load"
                done = user.ask("use", seconds=seconds, **facts)
        except (PeerFailed, PeerLost) as error:
            if stage == "export" and Path(facts["folder"], facts["file"]).exists():
                stage = "load"  # what was written is loaded once where it was made, too
            outcome = outcome_of(error, stage)
            if isinstance(error, PeerFailed):  # what is judged raises nothing: this is a defect of the worker
                outcome = Outcome(kind="crashed", stage=stage, message=str(error)[:300], error_type=error.error_type)
            return Result(outcome=outcome)
        told = done["outcome"]
        return Result(
            outcome=Outcome(**{**told, "facets": tuple(told.get("facets", ()))}), worst=done.get("worst", 0.0)
        )

    def _ready(self) -> tuple[Hand, Hand]:
        if not self.hands:
            self.hands = [Hand(f"{self.target}-{part}", self.seconds) for part in ("maker", "user")]
        maker, user = self.hands
        if maker.idle:
            with tempfile.TemporaryDirectory(prefix="matrix-export-", dir=scratch()) as folder:
                warming = {"target": self.target, "folder": folder, "file": "warm", "options": {}, "sizes": "batch"}
                maker.ask("warm", seconds=_WARMING, **warming)
        return maker, user

    def close(self) -> None:
        """End the processes."""
        for hand in self.hands:
            hand.close()
        self.hands = []


class Crew:
    """All pairs.

    Args:
        at_once: how many targets are worked on at a time; seconds: how long one stage of a job may take.
    """

    def __init__(self, at_once: int | None = None, seconds: float = 60.0) -> None:
        self._places = threading.Semaphore(at_once or os.cpu_count() or 1)
        self._seconds = seconds
        self._queues: dict[str, queue.SimpleQueue[tuple[Job, Future[Result]] | None]] = {}
        self._threads: list[threading.Thread] = []
        self._ordered: dict[Job, Future[Result]] = {}

    def order(self, jobs: Iterable[Job]) -> None:
        """Have jobs done in the background, each target's in their order."""
        for job in jobs:
            if job not in self._ordered:
                self._ordered[job] = self._send(job)

    def result(self, job: Job) -> Result:
        """What came of a job, waiting until it is done."""
        ordered = self._ordered.get(job) or self._send(job)
        return ordered.result()

    def close(self) -> None:
        """Forget what was ordered and end all processes."""
        for jobs in self._queues.values():
            while not jobs.empty():
                jobs.get()
            jobs.put(None)
        for thread in self._threads:
            thread.join(timeout=self._seconds)
        self._queues, self._threads, self._ordered = {}, [], {}

    def _send(self, job: Job) -> Future[Result]:
        if job.target not in self._queues:
            self._queues[job.target] = queue.SimpleQueue()
            thread = threading.Thread(target=self._serve, args=(job.target, self._queues[job.target]), daemon=True)
            thread.start()
            self._threads.append(thread)
        done: Future[Result] = Future()
        self._queues[job.target].put((job, done))
        return done

    def _serve(self, target: str, jobs: queue.SimpleQueue[tuple[Job, Future[Result]] | None]) -> None:
        pair = Pair(target=target, seconds=self._seconds)
        try:
            while True:
                try:
                    asked = jobs.get(timeout=_LINGERS)
                except queue.Empty:
                    pair.close()
                    continue
                if asked is None:
                    return
                job, done = asked
                with self._places:
                    try:
                        done.set_result(pair.work(job))
                    except Exception as error:  # noqa: BLE001 - it is raised where the outcome is asked for
                        done.set_exception(error)
        finally:
            pair.close()


@cache
def crew() -> Crew:
    """The crew of this process; its workers end with it."""
    found = Crew()
    atexit.register(found.close)
    return found
