"""What a file that is no checkpoint seems to be, from its first bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from compat.errors import UnknownFormat
from compat.sources import FolderSource, Source

# What the first bytes look like → what that is, and what to do about it.
_LOOKS: Final = (
    (
        rb"version https://git-lfs",
        "a git-LFS pointer, not the file itself",
        "Fetch the content with: git lfs pull",
    ),
    (
        rb"(?i)\s*(<!doctype html|<html|<head)",
        "an HTML page",
        "A download link led to a web page; get the file itself.",
    ),
    (
        rb"(?i)\s*<(\?xml|error)",
        "an XML document",
        "A download link led to an error message; get the file itself.",
    ),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", "Keras and h5py read it; compat does not."),
    (rb"\x1f\x8b", "gzip-compressed", "Decompress it first: gunzip FILE"),
    (rb"\x28\xb5\x2f\xfd", "zstd-compressed", "Decompress it first: zstd -d FILE"),
    (rb"BZh[1-9]", "bzip2-compressed", "Decompress it first: bunzip2 FILE"),
    (rb"\xfd7zXZ\x00", "xz-compressed", "Decompress it first: unxz FILE"),
    (
        rb"PK\x03\x04",
        "a zip archive that holds no checkpoint",
        "Extract it first; the checkpoint may lie inside.",
    ),
    (rb"GGUF", "a GGUF file", "This version of compat does not read it yet."),
    (rb"\x93NUMPY", "a single numpy array", "numpy.load reads it."),
    (rb"\x08[\x01-\x0c]", "perhaps an ONNX model", "This version of compat does not read it yet."),
    (rb"\s*[\[{]", "JSON text", "If it is an index of shards, open one of the shards."),
    (rb"[\x09\x0a\x0d\x20-\x7e]{32}", "plain text", "Check that this is the file you meant."),
)


def diagnose(source: Source, formats: Sequence[str]) -> UnknownFormat:
    """The error for a source that no format recognises."""
    expected = f"one of {', '.join(formats)}"
    if isinstance(source, FolderSource):
        held = source.files()
        listed = f"It holds {', '.join(held[:8])}{' …' if len(held) > 8 else ''}; name one of them."  # noqa: PLR2004 - a line
        return UnknownFormat(
            "is a directory, and no checkpoint of several files",
            source=source.name,
            expected=expected,
            hint=listed if held else "It holds no files.",
        )
    if source.size == 0:
        return UnknownFormat("is empty", source=source.name, expected=expected, hint="Get the file again.")
    for pattern, seen, hint in _LOOKS:
        if re.match(pattern, source.head):
            return UnknownFormat(f"is {seen}", source=source.name, expected=expected, hint=hint)
    head = source.head[:16].hex(" ")
    return UnknownFormat(
        f"is of no known format: {source.size:,} bytes that begin with {head}",
        source=source.name,
        expected=expected,
    )
