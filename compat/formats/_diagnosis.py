"""What a file that is no checkpoint seems to be, and the next step.

Every test is bounded and goes by the content; where only a name speaks, the message says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from compat.errors import UnknownFormat, counted
from compat.formats._containers import archive_look, packed_look, tar_look
from compat.formats._damage import missing_head, rewritten, zeroed
from compat.formats._foreign import foreign_look, text_pickle
from compat.formats._format import Format
from compat.formats._looks import Look, marked
from compat.formats._texts import text_look
from compat.sources import FolderSource, Source

_SHOWN: Final = 8


def diagnose(source: Source, formats: Sequence[Format]) -> UnknownFormat:
    """The error for a source that no format recognises."""
    expected = f"one of {', '.join(found.name for found in formats)}"
    look = _folder(source, formats) if isinstance(source, FolderSource) else _file(source, formats)
    return UnknownFormat(look.seen, source=source.name, expected=expected, hint=look.hint or None)


def _folder(source: FolderSource, formats: Sequence[Format]) -> Look:
    held = source.files()
    suffixes = tuple(suffix for found in formats for suffix in found.suffixes if suffix)
    likely = [name for name in held if name.lower().endswith(suffixes)]
    seen = "is a directory, and no checkpoint of several files"
    if likely:
        return Look(seen, f"It holds {_listed(likely)}; name one of them.")
    return Look(seen, f"It holds {_listed(held)}; none is named like a checkpoint." if held else "It holds no files.")


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_SHOWN])}{' …' if len(names) > _SHOWN else ''}"


def _file(source: Source, formats: Sequence[Format]) -> Look:
    if source.size == 0:
        return Look("is empty", "Get the file again.")
    whole: tuple[Callable[[], Look | None], ...] = (
        lambda: zeroed(source),
        lambda: archive_look(source, formats),
        lambda: marked(source),
        lambda: packed_look(source, formats),
        lambda: tar_look(source, formats),
        lambda: text_pickle(source),
        lambda: text_look(source),
        lambda: _damaged(rewritten(source)),
        lambda: missing_head(source),
        lambda: foreign_look(source),
    )
    for look_at in whole:
        look = look_at()
        if look is not None:
            return Look(f"is {look.seen}", look.hint)
    head = source.head[:16].hex(" ")
    seen = f"is of no known format: it begins with {head}, and has {counted(source.size, 'byte')}"
    return Look(seen, "Check that this is the file you meant.")


def _damaged(look: Look | None) -> Look | None:
    return None if look is None else Look(f"damaged: {look.seen}", look.hint)
