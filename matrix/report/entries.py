"""The entry of `matrix/known/*.toml` that would record what a failed cell showed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import takewhile
from typing import Final

from matrix.report.lines import CellLine
from matrix.report.stories import known_id

_MOST: Final = 120
# A name in a message differs from run to run: paths, addresses, keys.
_PASSING: Final = re.compile(r"0x[0-9a-f]{4,}|(?<!\w)/\S+/|['\"\[]")


def entry(cell: CellLine) -> str:
    """The TOML text; empty where an entry would be no answer, as for a format that refuses too little.

    The reason and the evidence are for a person to find: an entry says why something happens, not that it does.
    """
    if cell.verdict == "healed":
        return f"# {known_id(cell)!r} did not happen: remove its entry, or bind it to releases by `versions`."
    if cell.verdict not in ("broken", "changed") or cell.outcome.kind not in (
        "mismatch",
        "refused",
        "crashed",
        "timeout",
    ):
        return ""
    outcome = cell.outcome
    name = known_id(cell) or re.sub(r"[^a-z0-9]+", "-", cell.id.lower()).strip("-")
    lines = ["[[known]]", f"id = {_text(name)}", f"cells = {_texts([cell.id])}", f"outcome = {_text(outcome.kind)}"]
    if outcome.kind == "mismatch":
        lines.append(f"facets = {_texts(outcome.facets)}")
    elif outcome.message:
        lines.append(f"message = {_text(_beginning(outcome.message))}")
    if outcome.kind != "mismatch" and outcome.stage:
        lines.append(f"stage = {_text(outcome.stage)}")
    lines += ['reason = "why it happens, in one sentence"', 'link = "where that is recorded"']
    return "\n".join(lines)


def _beginning(message: str) -> str:
    """The beginning of a message, up to what may be another one in the next run."""
    seen = "".join(takewhile(str.isprintable, message))[:_MOST]
    found = _PASSING.search(seen)
    cut = seen[: found.start()] if found and found.start() >= len("not at all") else seen
    return cut.rstrip()


def _text(text: str) -> str:
    """A TOML string of text that is printable."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _texts(texts: Iterable[str]) -> str:
    return "[" + ", ".join(map(_text, texts)) + "]"
