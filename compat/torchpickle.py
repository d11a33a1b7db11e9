"""A file of `torch.save` inside another one: its tree alone, by the same inert reader."""

from __future__ import annotations

from typing import Any

from compat import formats
from compat.sources import Source


def read_torch_file(source: Source) -> tuple[Any, tuple[str, ...]]:
    """The content of a file that `torch.save` wrote, and the classes and functions that it names.

    Raises:
        CompatError: it is no such file, or damaged.
    """
    checkpoint = formats.detect(source).open(source)
    return checkpoint.tree, checkpoint.globals
