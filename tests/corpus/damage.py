"""Damages every golden file and reads it, in a process of its own: no torch, and little memory.

Prints one JSON line per finding, and a last one with the counts. Run by test_damage.py.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import compat
from compat.errors import CompatError
from matrix.corpus.index import Golden, goldens
from matrix.corpus.judging import differences
from matrix.corpus.neutral import describe
from matrix.corpus.verify import block, recovered

MEMORY = 1 << 30
SECONDS = 2.0
FLIPS = 8
FALSIFIED = 4
# Formats that have a sum over everything they hold: what reads without an error must be right.
SUMMED = frozenset({"npz", "torch-export", "torch-zip", "torchscript"})
# By options of torch.save that leave the sums out.
UNSUMMED = frozenset({"linear-no-sums.zip.pt", "linear-skipped-data.zip.pt"})


def variants(content: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """A file cut at several places, and with bytes and whole fields changed anywhere and near its end.

    Directories lie there, with the sizes and offsets that a reader believes.
    """
    size = len(content)
    for place in sorted({0, 1, 20, size // 4, size // 2, 3 * size // 4, size - 22, size - 1}):
        if 0 <= place < size:
            yield f"cut at {place}", content[:place]
    for number in range(FLIPS):
        begin = 0 if number % 2 else max(0, size - 400)
        place = chance.randrange(begin, size)
        changed = bytearray(content)
        changed[place] ^= chance.choice((1, 0x80, 0xFF, chance.randrange(1, 256)))
        yield f"byte {place} is {changed[place]}, was {content[place]}", bytes(changed)
    for number in range(FALSIFIED):
        field = chance.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", bytes(4), b"\x01\0\0\0"))
        place = chance.randrange(0 if number % 2 else max(0, size - 400), max(1, size - 4))
        yield f"4 bytes at {place} are {field.hex()}", content[:place] + field + content[place + 4 :]


def outcome(golden: Golden, source: Path | bytes) -> str:
    """What came of reading: an error of ours, the right data, other data; anything else is raised."""
    try:
        with compat.open(source) as checkpoint:
            tree = recovered(golden, checkpoint) if golden.holds == "module" else None
            return "other data" if differences(golden, describe(checkpoint, tree)) else "right data"
    except CompatError:
        return "error"


def attempts(golden: Golden, folder: Path) -> Iterator[tuple[str, Path | bytes]]:
    """Every variant of a golden file, or of each file of a golden folder."""
    chance = random.Random(golden.id)
    for path in golden.files:
        for what, content in variants(path.read_bytes(), chance):
            if path == golden.path:
                yield what, content
                continue
            place = folder / "damaged"
            shutil.copytree(golden.path, place)
            (place / path.relative_to(golden.path)).write_bytes(content)
            yield f"{path.name}: {what}", place
            shutil.rmtree(place)


def findings(golden: Golden, folder: Path, counts: Counter[str]) -> Iterator[str]:
    """Everything that must not be."""
    for what, source in attempts(golden, folder):
        begun = time.process_time()
        try:
            found = outcome(golden, source)
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            found = f"{type(error).__name__}: {error}"
        counts[found if found in ("error", "right data", "other data") else "foreign"] += 1
        took = time.process_time() - begun
        if took > SECONDS:
            yield f"{what}: took {took:.1f} s"
        summed = (golden.format in SUMMED and golden.name not in UNSUMMED) or what.rpartition(": ")[2].startswith("cut")
        if found not in ("error", "right data") and not (found == "other data" and not summed):
            yield f"{what}: {found}"


def main() -> None:
    """Damage everything."""
    block("torch", "numpy")
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    counts: Counter[str] = Counter()
    skipped = set(sys.argv[1:])
    with tempfile.TemporaryDirectory() as place:
        for golden in goldens():
            if golden.id not in skipped:
                for finding in findings(golden, Path(place), counts):
                    print(json.dumps({"id": golden.id, "finding": finding}), flush=True)  # noqa: T201 - for the test that runs this
    print(json.dumps(counts))  # noqa: T201 - as above


if __name__ == "__main__":
    main()
