"""README says what is true: its commands are those that CI runs, its grid is that of today's matrix."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_there_are_two_commands_and_ci_runs_both() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python -m pip install")]
    assert [command.rpartition("&& ")[2] for command in commands] == ["matrix run", "pytest"]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "'&& pytest'" in ci
    assert "'&& matrix run'" in ci


def test_the_grid_has_the_cells_of_today() -> None:
    from matrix.cells import plan
    from matrix.report.grid import mode_of, row_of
    from matrix.runner import make_axes

    cells = plan(make_axes()).cells
    grid = README[README.index("<!-- grid") : README.index("<!-- end of grid")]
    assert f"{len(cells):,} cells" in grid
    rows = [line.strip("| ").split(" | ") for line in grid.splitlines() if " → " in line and "writer" not in line]
    counted = Counter((*row_of(dict(c.values)), mode_of(dict(c.values))) for c in cells)
    columns = re.findall(r"`(\w+)`", grid.splitlines()[1])
    assert set(columns) == {mode for *_, mode in counted}
    for name, who, *squares in rows:
        writer, reader = who.split(" → ")
        for column, square in zip(columns, squares, strict=True):
            shown = sum(int(number) for number in re.findall(r"\d+", square))
            assert shown == counted[name, writer, reader, column], (name, who, column)
    assert len(rows) == len({key[:3] for key in counted})


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": torch.nn.Linear(2, 3).state_dict(), "epoch": 3}, "model.pth")
    exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "weights.safetensors").is_file()


def test_every_command_named_exists() -> None:
    from compat.cli import COMMANDS as COMPAT
    from matrix.cli import COMMANDS as MATRIX

    for program, known in (("compat", COMPAT), ("matrix", MATRIX)):
        for name in re.findall(rf"^{program} (\w+)", README, flags=re.MULTILINE):
            assert name in known
