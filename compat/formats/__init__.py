"""The formats: one module each, this table, and detection by content.

Adding a format is one module, one line of `_MODULES` and its golden files.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import PurePath
from typing import Final

from compat.errors import Unsupported
from compat.formats._diagnosis import diagnose
from compat.formats._format import Capabilities, Format, WriteOptions, Written
from compat.sources import Source

# What is written where nothing says which format: to a file object, for instance.
DEFAULT: Final = "torch-zip"

# Name → module, in alphabetical order; modules are imported when their format is asked for.
_MODULES: Final = {
    "dcp": "compat.formats.dcp",
    "gguf": "compat.formats.gguf",
    "npz": "compat.formats.npz",
    "onnx": "compat.formats.onnx",
    "safetensors": "compat.formats.safetensors",
    "safetensors-sharded": "compat.formats.safetensors_sharded",
    "torch-export": "compat.formats.torch_export",
    "torch-legacy": "compat.formats.torch_legacy",
    "torch-sharded": "compat.formats.torch_sharded",
    "torch-tar": "compat.formats.torch_tar",
    "torch-zip": "compat.formats.torch_zip",
    "torchscript": "compat.formats.torchscript",
}
if list(_MODULES) != sorted(_MODULES):
    raise AssertionError("the table of formats is not in alphabetical order")


def names() -> tuple[str, ...]:
    """The names of all formats, in alphabetical order."""
    return tuple(_MODULES)


def get(name: str) -> Format:
    """The format of that name.

    Raises:
        Unsupported: there is none.
    """
    module = _MODULES.get(name)
    if module is None:
        raise Unsupported(f"there is no format {name!r}", feature="format", expected=f"one of {', '.join(_MODULES)}")
    found: Format = import_module(module).FORMAT
    return found


def all_formats() -> Iterator[Format]:
    """Every format, in alphabetical order."""
    return (get(name) for name in _MODULES)


def detect(source: Source) -> Format:
    """The format of a source's content, whatever its name is.

    Raises:
        UnknownFormat: it is none of them; the message says what it seems to be.
    """
    for candidate in all_formats():
        if (source.folder is None or candidate.shape != "file") and candidate.detect(source):
            return candidate
    raise diagnose(source, list(all_formats()))


def for_target(path: PurePath) -> Format:
    """The format that a new file's suffix asks for.

    Raises:
        Unsupported: the suffix belongs to no format that can be written.
    """
    name = path.name.lower()
    asked = {suffix: candidate for candidate in all_formats() for suffix in candidate.asked_by}
    # The longest suffix decides: `.safetensors.index.json` is more than `.json`.
    for suffix in sorted(asked, key=len, reverse=True):
        if name.endswith(suffix) if suffix else not path.suffix:
            return asked[suffix]
    known = sorted(filter(None, asked))
    for candidate in all_formats():
        if not candidate.writable and name.endswith(candidate.suffixes):
            raise Unsupported(
                f"{candidate.name} can be read, not written",
                feature="format",
                source=path,
                expected=f"one of {' '.join(known)}",
                hint="Choose another suffix for the target, or name its format: format=… (--to …).",
            )
    raise Unsupported(
        f"the suffix {path.suffix!r} says no format",
        feature="format",
        source=path,
        expected=f"one of {' '.join(known)}",
        hint="Name the format: format=… (--to …).",
    )


__all__ = [
    "DEFAULT",
    "Capabilities",
    "Format",
    "WriteOptions",
    "Written",
    "all_formats",
    "detect",
    "for_target",
    "get",
    "names",
]
