"""What the fixtures of the pytest plugin do: write a state as a checkpoint, read it back, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compat import formats
from matrix.comparing import compare
from matrix.implementations import IMPLEMENTATIONS, Implementation, ReadMode, WriteMode
from matrix.tensors import describe


def _known(name: str) -> Implementation:
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"{name!r} writes and reads nothing; expected one of {', '.join(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[name]


def checkpoint(folder: Path, state: Any, *, format: str = formats.DEFAULT, writer: str = "compat") -> Path:  # noqa: A002 - as in compat.save
    """Write a state as a checkpoint of a format.

    Args:
        folder: where; every call makes another file.
        state: what torch.save takes.
        format: the format's name.
        writer: who writes it: `compat`, `torch` or `safetensors`.

    Raises:
        ValueError: there is no such writer.
        compat.CompatError: there is no such format, or it cannot hold the state.
    """
    who = _known(writer)
    suffix = formats.get(format).suffixes[0]
    number = sum(1 for _ in folder.iterdir())
    path = folder / f"checkpoint-{number}{suffix}"
    who.write(state, path, WriteMode(format=format))
    return path


def roundtrip(
    folder: Path,
    state: Any,
    *,
    format: str = formats.DEFAULT,  # noqa: A002 - as in compat.save
    writer: str = "compat",
    reader: str = "compat",
    weights_only: bool = True,
) -> Any:
    """Write a state, read it back and compare both by their bytes.

    Compared are dtypes, shapes, strides, elements, shared storages, key order, `_metadata` and plain values.

    Returns:
        What was read.

    Raises:
        AssertionError: something differs; the message names every difference, where it is and its bytes.
    """
    __tracebackhide__ = True
    path = checkpoint(folder, state, format=format, writer=writer)
    loaded = _known(reader).read(path, ReadMode(weights_only=weights_only))
    # What no tensor shows of its storage, a format need not keep.
    ignored = frozenset() if formats.get(format).capabilities.hidden_bytes else frozenset({"storage-bytes"})
    differences = compare(describe(state), describe(loaded), ignore=ignored)
    if differences:
        told = "\n".join(f"  {difference}" for difference in differences)
        raise AssertionError(f"{format} as {writer} writes it and {reader} reads it is not what was there:\n{told}")
    return loaded
