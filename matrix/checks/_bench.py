"""The work on one example, shared by all cells that try it, and the outcomes that checks have in common."""

from __future__ import annotations

import itertools
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from matrix.cells import Cell
from matrix.examples import Example
from matrix.implementations import IMPLEMENTATIONS, Implementation, WriteMode
from matrix.outcomes import Outcome
from matrix.projections import bare_state
from matrix.spec import CheckpointSpec, Difference
from matrix.tensors import build

# Whose files are converted: compat's own, where no one else writes the format.
FOREIGN: Final = {"torch-legacy": "torch", "torch-zip": "torch"}


class Bench:
    """The work on one example: states are built and files are written once, for all cells that share them.

    Args:
        example: what is tried; folder: where files go.
        suffixes: format → suffix of its files; keeps_hidden: the formats that keep bytes no tensor shows.
        implementations: who writes and reads; other ones stand in for them in tests.
    """

    def __init__(
        self,
        example: Example,
        folder: Path,
        *,
        suffixes: Mapping[str, str],
        keeps_hidden: frozenset[str],
        projected: frozenset[str],
        implementations: Mapping[str, Implementation] = IMPLEMENTATIONS,
    ) -> None:
        self.example = example
        self.folder = folder
        self.suffixes = suffixes
        self.keeps_hidden = keeps_hidden
        self.projected = projected
        self.implementations = implementations
        self._states: dict[str, Any] = {}
        self._written: dict[tuple[str, ...], Path | Outcome] = {}
        self._outputs: list[torch.Tensor] | None = None
        self._places = itertools.count()

    def close(self) -> None:
        """Remove the files."""
        for path in self._written.values():
            if isinstance(path, Path):
                shutil.rmtree(path.parent)

    def base(self, prefix: str) -> CheckpointSpec | None:
        """What is given a prefix: for a real checkpoint, its bare state_dict; None where it has none."""
        return self.example.spec if prefix == "plain" else bare_state(self.example.spec)

    def prefixed(self, prefix: str) -> CheckpointSpec:
        """The example's spec with a prefix in front of every key."""
        base = self.base(prefix)
        if base is None or prefix == "plain":
            return self.example.spec
        return base.rename_keys(lambda key: prefix + key)

    def state(self, prefix: str) -> Any:
        """The live state."""
        if prefix not in self._states:
            self._states[prefix] = build(self.prefixed(prefix))
        return self._states[prefix]

    def place(self, format_: str) -> Path:
        """Where the next file of a format goes: into a folder of its own, for it may be several files."""
        folder = self.folder / str(next(self._places))
        folder.mkdir()
        return folder / f"example{self.suffixes[format_]}"

    def written(self, cell: Cell) -> Path | Outcome:
        """The file of a cell, or what came of writing it."""
        return self.write(cell["format"], cell["writer"], cell["protocol"], cell["prefix"])

    def write(self, format_: str, writer: str, protocol: str = "p2", prefix: str = "plain") -> Path | Outcome:
        """The file that a writer made of the example, or what came of writing it."""
        key = (format_, writer, protocol, prefix)
        if key not in self._written:
            path = self.place(format_)
            who = self.implementations[writer]
            mode = WriteMode(format=format_, protocol=int(protocol.removeprefix("p")))
            try:
                who.write(self.state(prefix), path, mode)
                self._written[key] = path
            except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
                self._written[key] = failure(error, who, "write", path)
        return self._written[key]

    def converted(self, format_: str, via: str) -> Path | Outcome:
        """The file that came of converting the example's file to another format, or what came of that."""
        key = (format_, "convert", via)
        if key not in self._written:
            source = self.write(format_, FOREIGN.get(format_, "compat"))
            self._written[key] = source if isinstance(source, Outcome) else self.convert(source, via)
        return self._written[key]

    def convert(self, source: Path, format_: str) -> Path | Outcome:
        """A file converted to a format, or what came of that."""
        converter = self.implementations["compat"]
        if converter.convert is None:
            return Outcome(kind="skipped", message="no converter")
        target = self.place(format_)
        try:
            converter.convert(source, target, WriteMode(format=format_))
        except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
            return failure(error, converter, "convert", target)
        return target

    def outputs(self) -> list[torch.Tensor]:
        """What the example's own module puts out."""
        if self._outputs is None:
            if self.example.fresh is None or self.example.forward is None:
                return []
            self._outputs = self.example.forward(self.example.fresh())
        return self._outputs


def failure(error: BaseException, who: Implementation, stage: str, path: Path) -> Outcome:
    """The outcome of an exception: a refusal where it says no, a crash where it is anything else."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, TimeoutError):
        return Outcome(kind="timeout", stage=stage, message=str(error))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return Outcome(
        kind="refused" if who.refuses(error) else "crashed",
        stage=stage,
        message=lines[0].replace(str(path), "FILE")[:300] if lines else "",
        error_type=type(error).__name__,
    )


def mismatch(differences: Sequence[Difference]) -> Outcome:
    """The outcome of what came back otherwise."""
    return Outcome(
        kind="mismatch",
        stage="compare",
        message=str(differences[0])[:400],
        facets=tuple(sorted({difference.facet for difference in differences})),
    )


def blank(module: torch.nn.Module) -> torch.nn.Module:
    """A module whose state was overwritten, so that what is not loaded shows in its outputs."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tensor in module.state_dict().values():
            if isinstance(tensor, torch.Tensor):
                tensor.zero_()
    return module
