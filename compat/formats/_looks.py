"""What files that are no checkpoints begin with.

Sources of the marks: each format's own documentation; for most of them also the `magic` files of `file(1)`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final

from compat.sources import Source


@dataclass(frozen=True, slots=True)
class Look:
    """What a file seems to be, as what follows `is …`, and what to do about it."""

    seen: str
    hint: str


_NO_TENSORS: Final = "It holds no tensors; check that this is the file you meant."
_CODE: Final = "Compiled models hold their weights as code; get what it was compiled from."
_KERAS: Final = "Keras reads it: keras.models.load_model(…) and model.get_weights(); compat does not."
_OLD_GGML: Final = "Today's tools want GGUF: convert it with a llama.cpp of its time, or get the model as GGUF."

# (the bytes, at which offset) → what that is.
_MARKS: Final = (
    (0, b"\x89HDF\r\n\x1a\n", Look("an HDF5 file, as Keras writes (.h5)", f"{_KERAS} h5py shows its arrays.")),
    (0, b"\x93NUMPY", Look("a single numpy array (.npy)", "numpy.load reads it; compat reads .npz archives of them.")),
    (4, b"TFL3", Look("a TensorFlow Lite model", "TensorFlow Lite reads it; compat does not.")),
    (0, b"lmgg", Look("a model in the old GGML format", _OLD_GGML)),
    (0, b"fmgg", Look("a model in the old GGMF format", _OLD_GGML)),
    (0, b"tjgg", Look("a model in the old GGJT format", _OLD_GGML)),
    (0, b"algg", Look("an adapter in the old GGLA format", _OLD_GGML)),
    (0, b"Rar!\x1a\x07", Look("a RAR archive", "Extract it first: unrar x {file}")),
    (0, b"7z\xbc\xaf\x27\x1c", Look("a 7-Zip archive", "Extract it first: 7z x {file}")),
    (0, b"%PDF-", Look("a PDF document", _NO_TENSORS)),
    (0, b"\x89PNG\r\n\x1a\n", Look("a PNG image", _NO_TENSORS)),
    (0, b"\xff\xd8\xff", Look("a JPEG image", _NO_TENSORS)),
    (0, b"GIF8", Look("a GIF image", _NO_TENSORS)),
    (8, b"WEBPVP8", Look("a WebP image", _NO_TENSORS)),
    (0, b"\x7fELF", Look("a program or a shared library (ELF)", _CODE)),
    (0, b"\xcf\xfa\xed\xfe", Look("a program or a shared library (Mach-O)", _CODE)),
    (0, b"SQLite format 3\0", Look("an SQLite database", _NO_TENSORS)),
    (0, b"PAR1", Look("a Parquet table", _NO_TENSORS)),
    (0, b"ARROW1", Look("an Arrow file", _NO_TENSORS)),
    (0, b"ptrt", Look("a TensorRT engine", "It is compiled for one GPU; get the model that it was built from.")),
    (
        0,
        b"\xff\xfeP\0K\0",
        Look(
            "a zip archive that was redirected as text: its bytes became UTF-16",
            "A PowerShell `>` does that, and cannot be undone; download it with -OutFile (or curl -o).",
        ),
    ),
)  # fmt: skip


def marked(source: Source) -> Look | None:
    """What the marks of other formats say."""
    for at, mark, look in _MARKS:
        if source.head[at : at + len(mark)] == mark:
            return Look(look.seen, look.hint.replace("{file}", file_name(source)))
    return None


def file_name(source: Source) -> str:
    """A file's name as a command line takes it; `FILE` for what has none."""
    return "FILE" if source.path is None else shlex.quote(str(source.name))


def new_name(source: Source, *suffixes: str) -> str:
    """A name for what comes out of a file: without the suffix that says how it is packed."""
    if source.path is None:
        return "NEWFILE"
    name = str(source.name)
    for suffix in suffixes:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return shlex.quote(name[: -len(suffix)])
    return shlex.quote(f"{name}.new")
