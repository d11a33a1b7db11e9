"""Hypothesis strategies over the same generator that seeds drive: states and modules that shrink.

Everything drawn is valid by construction; nothing is filtered. Shrinking leads to few entries, small shapes,
zero bytes and the first of every list of options.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, TypeVar

from hypothesis import event
from hypothesis import strategies as st

from matrix.drawing import CONTENTS, MODULE_FAMILIES, draw_module
from matrix.modulespec import ModuleSpec
from matrix.spec import CheckpointSpec

T = TypeVar("T")

# Longer runs of bytes are expanded from a drawn seed: Hypothesis bounds how much one example may draw.
_DRAWN_BYTES: Final = 64

EVERY_CONTENT: Final = st.sampled_from(tuple(CONTENTS))
EVERY_FAMILY: Final = st.sampled_from(tuple(MODULE_FAMILIES))


class DrawnChoices:
    """Choices that Hypothesis makes, and shrinks."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        """Choose an int of `low` to `high`, both included; the simplest is `low`."""
        return self._draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        """Choose one of several; the simplest is the first."""
        return self._draw(st.sampled_from(options))

    def boolean(self, probability: float = 0.5) -> bool:
        """Choose True with about a probability; the simplest is False."""
        return self._draw(st.integers(0, 99)) >= 100 - round(probability * 100)

    def bytes(self, size: int) -> bytes:
        """Choose this many bytes; the simplest are zeros."""
        if size <= _DRAWN_BYTES:
            return self._draw(st.binary(min_size=size, max_size=size))
        seed = self._draw(st.integers(0, 2**32 - 1))
        return random.Random(seed).randbytes(size) if seed else bytes(size)  # noqa: S311 - examples, not secrets

    def text(self) -> str:
        """Choose a short string, without lone surrogates; the simplest is empty."""
        return self._draw(st.text(max_size=8))


@st.composite
def states(draw: st.DrawFn, *, contents: st.SearchStrategy[str] = EVERY_CONTENT) -> CheckpointSpec:
    """Draw states of the drawn contents."""
    name = draw(contents, label="content")
    event(f"content: {name}")
    spec = CONTENTS[name].draw(DrawnChoices(draw))
    event(f"tensors: {_class(sum(1 for _ in spec.tensors()))}")
    return spec


def content_states(name: str) -> st.SearchStrategy[CheckpointSpec]:
    """Draw states of one content."""
    return states(contents=st.just(name))


@st.composite
def modules(draw: st.DrawFn, *, families: st.SearchStrategy[str] = EVERY_FAMILY) -> ModuleSpec:
    """Draw modules of the drawn families."""
    family = draw(families, label="family")
    event(f"family: {family}")
    return draw_module(DrawnChoices(draw), family)


def _class(count: int) -> str:
    """Return the class of a count that is worth telling apart in statistics."""
    return str(count) if count < 2 else "2 to 9" if count < 10 else "10 and more"  # noqa: PLR2004 - classes
