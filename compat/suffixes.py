"""What a file's suffix says, held against its content. A suffix never decides; a wrong one is said."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import PurePath
from typing import Final

from compat.formats._format import Format

# What everybody calls their files, whatever is in them.
_GENERIC: Final = frozenset({".bin", ".ckpt", ".pth", ".th", ".pkl", ".tar", ".index.json"})

# The one suffix by which torch.load itself goes, from 2.13 on.
_BY_SUFFIX: Final = ".safetensors"


def suffix_note(name: str, found: Format, formats: Iterable[Format]) -> str | None:
    """A sentence where a file's suffix belongs to other formats than the one its content has.

    Args:
        name: the file's name.
        found: the format of its content.
        formats: all formats.
    """
    path = PurePath(name)
    claims: dict[str, list[Format]] = {}
    for candidate in formats:
        for suffix in candidate.suffixes:
            claims.setdefault(suffix, []).append(candidate)
    lower = path.name.lower()
    said = max((suffix for suffix in claims if lower.endswith(suffix)), key=len, default="")
    if not said or said in _GENERIC or found in claims[said]:
        return None
    right = next((suffix for suffix in found.suffixes if suffix not in _GENERIC), None)
    if right is None or lower.endswith(right):
        return None
    renamed = shlex.quote(f"{path.name[: -len(said)]}{right}")
    consequence = _consequence(said, found, claims[said])
    return f"named {said}, but its content is {found.name}: {consequence}. Rename it: {renamed}"


def _consequence(said: str, found: Format, claimants: list[Format]) -> str:
    if not found.unpickles and any(candidate.unpickles for candidate in claimants):
        return "torch.load, which the suffix asks for, fails on it"
    if said == _BY_SUFFIX:
        return "safetensors fails on it, and so does torch.load from 2.13 on, which goes by this suffix"
    return "what goes by the suffix fails on it"
