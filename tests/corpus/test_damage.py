"""Every damaged variant of a golden file ends in an error of ours or the right data, quickly and in little memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from fnmatch import fnmatchcase

from matrix.corpus.index import goldens
from tests.corpus.damage import variants
from tests.corpus.expected import DAMAGE_NOT_SEEN_YET, NOT_READ_YET, matching
from tests.corpus.test_reading import REPOSITORY


def test_damage_ends_in_an_error_or_the_right_data() -> None:
    skipped = [golden.id for golden in goldens() if matching(golden, NOT_READ_YET)]
    command = [sys.executable, "-m", "tests.corpus.damage", *skipped]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    *found, counts = [json.loads(line) for line in done.stdout.splitlines()]
    known = {pattern: [row for row in found if fnmatchcase(row["id"], pattern)] for pattern in DAMAGE_NOT_SEEN_YET}
    assert [row for row in found if not any(row in rows for rows in known.values())] == []
    assert all(row["finding"].endswith("other data") for row in found)
    assert all(known.values()), "damage is seen now: take it out of DAMAGE_NOT_SEEN_YET"
    # Damage that always or never matters would test nothing.
    read = sum(1 for golden in goldens() if golden.id not in skipped)
    assert counts["error"] > 8 * read
    assert counts["right data"] > read // 10


def test_variants_are_damaged_and_the_same_on_every_run() -> None:
    content = bytes(range(256)) * 4
    made = [list(variants(content, random.Random("x"))) for _ in range(2)]
    assert made[0] == made[1]
    assert all(damaged != content and len(damaged) <= len(content) for _, damaged in made[0])
