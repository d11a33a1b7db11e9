"""The check `version`: files that one release of torch wrote are read by another, in every mode that it has.

A file is a golden one of the corpus, so that a release that is not here any more can still be its writer; or it is
drawn now and written by a peer, or by compat. What was read is compared with the spec that was written, byte by
byte. A refusal, wrong data, a process that died and one that hung are four different outcomes.

Not compared: what the layout, or the reader's own data model, has no place for (`matrix.corpus.judging`, and
`ignores` in `data/releases.toml`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import compat
from compat.errors import CompatError
from matrix import examples
from matrix.axes import Axes, load_axes
from matrix.cells import Cell
from matrix.comparing import FACETS
from matrix.corpus import judging, neutral
from matrix.corpus.index import Golden, Release, releases
from matrix.corpus.verify import read as read_inertly
from matrix.implementations import IMPLEMENTATIONS, WriteMode
from matrix.messages import in_one_line
from matrix.outcomes import Outcome
from matrix.releases import TORCH, ignores
from matrix.spec import CheckpointSpec, UnknownNodeError, compare
from matrix.talking import Peer, PeerFailed, PeerLost, outcome_of
from matrix.tensors import build

COMPAT: Final = "compat"
DRAWN: Final = "drawn-"
_INERT: Final = "inert"
_OWN: Final = "own"
# Who writes what is drawn, and the formats of each.
_CONTAINERS: Final = ("torch-legacy", "torch-zip")
_BY_COMPAT: Final = (*_CONTAINERS, "safetensors")
_SUFFIXES: Final = {"torch-legacy": ".pt", "torch-zip": ".pt", "safetensors": ".safetensors"}
# A name in the corpus ends with these; an id does without.
_ENDINGS: Final = (".pt", ".ptl", ".pt2", ".zip", ".legacy", ".torchscript", ".onnx", ".npz", ".dcp", ".safetensors")


@cache
def axes() -> Axes:
    """The axes of the check: `data/versions.toml`."""
    return load_axes(resources.files("matrix").joinpath("data/versions.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class File:
    """One file to be read by everyone.

    Attributes:
        writer, format, what: its values on the axes.
        path: where it lies; holds: what is compared; key: where in it that is.
        judge: the differences between what was written and what was read, as sentences.
        golden: the golden file that it is, if it is one.
    """

    writer: str
    format: str
    what: str
    path: Path
    judge: Callable[[CheckpointSpec, frozenset[str]], list[str]]
    holds: str = "tree"
    key: str | None = None
    golden: Golden | None = None


def golden_files(writers: Sequence[str] | None = None) -> Iterator[File]:
    """The golden files of some writers, or of all.

    A writer that ran under Python 2.7 too has those files under a name that says so, such as `1.4.0-python2`.
    """
    for release in releases():
        writer = release.name.removeprefix("torch-")
        if writers is None or writer.removesuffix("-python2") in writers:
            yield from _goldens(release, writer)


def _goldens(release: Release, writer: str) -> Iterator[File]:
    for golden in release.goldens:
        yield File(
            writer=writer,
            format=golden.format,
            what=what_of(golden.name),
            path=golden.path,
            judge=_judge_of(golden),
            holds=golden.holds,
            key=golden.key,
            golden=golden,
        )


def _judge_of(golden: Golden) -> Callable[[CheckpointSpec, frozenset[str]], list[str]]:
    return lambda seen, ignore: judging.differences(golden, seen, ignore)


def what_of(name: str) -> str:
    """What a golden file holds, by its name, as an id shows it."""
    shorter = next((name.removesuffix(ending) for ending in _ENDINGS if name.endswith(ending)), name)
    return name.replace(" ", "-") if shorter == name else what_of(shorter)


def drawn(contents: Sequence[str], seed: int = 0) -> dict[str, CheckpointSpec]:
    """What is drawn of each content."""
    return {content: examples.draw(content, seed).spec for content in contents}


def draw_files(
    writers: Mapping[str, Peer | None], specs: Mapping[str, CheckpointSpec], folder: Path
) -> Iterator[File | tuple[Cell, Outcome]]:
    """What writers make of drawn states: a file, or what came of writing one.

    Args:
        writers: those that are here; None stands for compat, in this process.
        specs: what was drawn, by content.
        folder: where files go.
    """
    for content, spec in specs.items():
        for name, peer in writers.items():
            for format_ in _CONTAINERS if peer is not None else _BY_COMPAT:
                path = folder / f"{name}-{content}-{format_}{_SUFFIXES[format_]}"
                failed = _written(spec, path, format_, peer)
                if failed is not None:
                    values = {"format": format_, "writer": name, "reader": name, "mode": "default"}
                    yield make_cell(**values, what=DRAWN + content), failed
                    continue
                yield drawn_file(name, format_, content, path, spec)


def drawn_file(writer: str, format_: str, content: str, path: Path, spec: CheckpointSpec) -> File:
    """A file that was made of a drawn state."""
    return File(writer=writer, format=format_, what=DRAWN + content, path=path, judge=_judge_by(spec, format_))


def _judge_by(spec: CheckpointSpec, format_: str) -> Callable[[CheckpointSpec, frozenset[str]], list[str]]:
    # A typed storage, as releases before 2.0 have them, may be written without bytes that no tensor shows.
    hidden = frozenset({"storage-bytes"}) if format_ == "safetensors" else frozenset()
    return lambda seen, ignore: [str(found) for found in compare(spec, seen, ignore=ignore | hidden)]


def _written(spec: CheckpointSpec, path: Path, format_: str, peer: Peer | None) -> Outcome | None:
    """What came of writing, where no file did; what a writer has no tensors for is skipped."""
    if peer is None:
        try:
            IMPLEMENTATIONS[COMPAT].write(build(spec), path, WriteMode(format=format_))
        except Exception as error:  # noqa: BLE001 - whatever is raised is the outcome
            refused = IMPLEMENTATIONS[COMPAT].refuses(error)
            kind = "skipped" if refused and format_ == "safetensors" else "refused" if refused else "crashed"
            return Outcome(
                kind=kind, stage="write", message=in_one_line(str(error), path), error_type=type(error).__name__
            )
        return None
    try:
        peer.ask("write", spec=spec.to_json(), path=str(path), format=format_)
    except (PeerFailed, PeerLost) as error:
        outcome = outcome_of(error, "write", path)
        lacks = outcome.error_type == "PeerError" or "no such container" in outcome.message
        return replace(outcome, kind="skipped") if lacks else outcome
    return None


def make_cell(**values: str) -> Cell:
    """The cell with these values."""
    return Cell.make(axes(), "version", **values)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Who reads.

    Attributes:
        name: its value on the axis; peer: the conversation with it, None for compat, which reads here.
        module: the module of `matrix.serving` by which it answers.
        hello: what it said of itself.
    """

    name: str
    peer: Peer | None = None
    module: str = ""
    hello: Mapping[str, Any]

    @classmethod
    def meet(cls, name: str, peer: Peer, module: str) -> Reader:
        """A peer that reads, asked who it is.

        Raises:
            PeerFailed, PeerLost: it does not say.
        """
        return cls(name=name, peer=peer, module=module, hello=peer.ask("hello", seconds=180))

    def modes(self, file: File) -> tuple[str, ...]:
        """How this reader can be asked for a file; empty where it does not read such files."""
        if self.peer is None:
            return (_INERT,)
        if file.format not in self.hello["reads"]:
            return ()
        if self.module != TORCH:
            return (_OWN,)
        modes = axes()["mode"].values.values()
        return tuple(mode.id for mode in modes if file.format in mode.facts["formats"])

    def lacks(self, mode: str) -> str:
        """The option that this release does not have for a mode; empty where it has all."""
        features = self.hello.get("features", ())
        needs = axes()["mode"].values[mode].facts["needs"]
        return next((need for need in needs if need not in features), "")

    def read(self, file: File, mode: str) -> Outcome:
        """Read a file, and compare."""
        if self.peer is None:
            return _inertly(file)
        lacking = self.lacks(mode)
        if lacking:
            return Outcome(kind="skipped", message=f"this release has no {lacking}")
        options: dict[str, Any] = dict(axes()["mode"].values[mode].facts["asks"])
        if file.golden is not None:
            options["zoo"] = True
        if file.key is not None:
            options["key"] = file.key
        try:
            answer = self.peer.ask("read", path=str(file.path), holds=file.holds, format=file.format, **options)
        except (PeerFailed, PeerLost) as error:
            return outcome_of(error, "read", file.path)
        try:
            seen = CheckpointSpec.from_json(answer["spec"])
        except (KeyError, TypeError, ValueError, UnknownNodeError) as error:
            return Outcome(kind="crashed", stage="read", message=in_one_line(f"answered no spec: {error}"))
        return compared(file.judge(seen, ignores(self.name)))


def _inertly(file: File) -> Outcome:
    """What compat makes of a file, without torch."""
    if file.golden is not None:
        found = read_inertly(file.golden)
        if found["error"]:
            kind = "crashed" if found["error"].startswith("a foreign") else "refused"
            return Outcome(kind=kind, stage="read", message=in_one_line(found["error"], file.path))
        return compared(found["differences"])
    try:
        with compat.open(file.path) as checkpoint:
            seen = neutral.describe(checkpoint)
    except Exception as error:  # noqa: BLE001 - whatever is raised is the outcome
        kind = "refused" if isinstance(error, CompatError) else "crashed"
        message = in_one_line(str(error), file.path)
        return Outcome(kind=kind, stage="read", message=message, error_type=type(error).__name__)
    return compared(file.judge(seen, frozenset()))


def compared(differences: Sequence[str]) -> Outcome:
    """The outcome of a comparison."""
    if not differences:
        return Outcome(kind="ok")
    facets = {facet for line in differences for facet in FACETS if f": {facet}: expected" in line}
    return Outcome(
        kind="mismatch", stage="compare", message=differences[0][:300], facets=tuple(sorted(facets or {"structure"}))
    )


def this_release() -> tuple[str, Path]:
    """The torch of this process, by its version, and the interpreter that has it."""
    import torch

    return torch.__version__.partition("+")[0], Path(sys.executable)
