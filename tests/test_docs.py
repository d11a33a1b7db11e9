"""What the documentation shows runs: every block of Python in it, each by itself in an empty folder."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = [
    pytest.param(block, id=f"{path.stem}:{text[: text.index(block)].count(chr(10)) + 1}")
    for path in sorted((ROOT / "docs").glob("*.md"))
    for text in [path.read_text(encoding="utf-8")]
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        # torch warns of what its own recipes do.
        warnings.simplefilter("ignore")
        exec(compile(block, "docs", "exec"), {})


def test_there_are_recipes() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert text.count("\n## ") >= 13
    assert len(BLOCKS) >= 13
