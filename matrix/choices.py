"""What a generator of examples may ask for: a seed answers in microseconds, Hypothesis also shrinks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

T = TypeVar("T")

# Letters of several widths in UTF-8, and what formats like to stumble over.
_LETTERS: Final = "abcxyzABC019._-/ äßжあ漢🙂"


class Choices(Protocol):
    """A source of choices; "simplest" is what Hypothesis shrinks towards."""

    def integer(self, low: int, high: int) -> int:
        """Choose an int of `low` to `high`, both included; the simplest is `low`."""

    def pick(self, options: Sequence[T]) -> T:
        """Choose one of several; the simplest is the first."""

    def boolean(self, probability: float = 0.5) -> bool:
        """Choose True with a probability; the simplest is False."""

    def bytes(self, size: int) -> bytes:
        """Choose this many bytes; the simplest are zeros."""

    def text(self) -> str:
        """Choose a short string, without lone surrogates; the simplest is empty."""


class SeededChoices:
    """Choices that a seed determines."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - examples, not secrets

    def integer(self, low: int, high: int) -> int:
        """Choose an int of `low` to `high`, both included."""
        # A third of the cost of randint; the bias is far below what examples could show.
        return low + int(self._random.random() * (high - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        """Choose one of several."""
        return options[int(self._random.random() * len(options))]

    def boolean(self, probability: float = 0.5) -> bool:
        """Choose True with a probability."""
        return self._random.random() < probability

    def bytes(self, size: int) -> bytes:
        """Choose this many bytes."""
        return self._random.randbytes(size)

    def text(self) -> str:
        """Choose a short string."""
        return "".join(self._random.choices(_LETTERS, k=self.integer(0, 8)))
