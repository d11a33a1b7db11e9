"""Read every golden file with no torch: `python -m matrix.corpus.verify [RELEASE…]`.

Prints one JSON line per file: its name, the format it was recognised as, the differences from its truth, and the
error where it could not be read. Exit 1 when there was any.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import compat
from compat.checkpoint import Checkpoint
from compat.errors import CompatError
from compat.states import find_state
from matrix.corpus.index import PROVENANCE, Golden, goldens, releases
from matrix.corpus.judging import differences
from matrix.corpus.neutral import describe


def block(*names: str) -> None:
    """Make packages impossible to import, so that whatever needs them fails."""
    for name in names:
        if name in sys.modules:
            raise RuntimeError(f"{name} is imported already")
        sys.modules[name] = None  # type: ignore[assignment]  # how Python says that there is no such module


def read(golden: Golden) -> dict[str, Any]:
    """What came of reading one golden file."""
    found: dict[str, Any] = {"id": golden.id, "format": None, "differences": [], "error": None}
    try:
        with compat.open(golden.path) as checkpoint:
            found["format"] = checkpoint.format
            tree = recovered(golden, checkpoint) if golden.holds == "module" else None
            found["differences"] = differences(golden, describe(checkpoint, tree))
    except CompatError as error:
        found["error"] = f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 - what must never happen is one file's finding, not the end of all
        found["error"] = f"a foreign exception: {type(error).__name__}: {error}"
    return found


def recovered(golden: Golden, checkpoint: Checkpoint) -> Any:
    """The state_dict of a pickled module, as records."""
    state, _ = find_state(checkpoint.tree, golden.key, source=checkpoint.source)
    return state


def verify(folders: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """What came of reading every golden file of some releases, or of all."""
    return (read(golden) for golden in goldens() if not folders or golden.release.name in folders)


def changed() -> Iterator[str]:
    """Every file whose sum is not that of its release's list, or that is not in both."""
    for release in releases():
        there = {
            path.relative_to(release.folder).as_posix(): path for path in release.folder.rglob("*") if path.is_file()
        }
        there.pop(PROVENANCE, None)
        sums = release.sums
        for name in sorted(there.keys() ^ sums.keys()):
            yield f"{release.name}/{name}: {'is not listed' if name in there else 'is listed and not there'}"
        for name in sorted(there.keys() & sums.keys()):
            if hashlib.sha256(there[name].read_bytes()).hexdigest() != sums[name]:
                yield f"{release.name}/{name}: its sum is another than {PROVENANCE} says"


def main(arguments: Sequence[str]) -> int:
    """Print what came of it."""
    block("torch", "numpy")
    failed = 0
    for found in verify(arguments):
        failed |= bool(found["error"] or found["differences"])
        print(json.dumps(found))  # noqa: T201 - a command
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
