"""Every golden file reads back as what was written: without torch, through `compat.load`, and as torch reads it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import compat
from compat.errors import UnsafeGlobals, Unsupported
from matrix import peer
from matrix.corpus.index import Golden, goldens
from matrix.corpus.judging import differences
from matrix.corpus.writer.plain import plain
from matrix.spec import CheckpointSpec, compare
from tests.corpus.expected import (
    NAMES_A_CLASS,
    NOT_READ_YET,
    TORCH_READS_BY_LUCK,
    TORCH_READS_OTHERWISE,
    matching,
)

REPOSITORY = Path(__file__).parents[2]
GOLDENS = list(goldens())
TREES = [golden for golden in GOLDENS if golden.holds == "tree"]

# Torch warns of these whenever one is made, by whomever.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC|BSR|BSC) tensor support is in beta:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
]

every_golden = pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.id)


def described(state: Any) -> CheckpointSpec:
    return CheckpointSpec.from_json(peer.describe(plain(state), raw=True))


@pytest.fixture(scope="module")
def without_torch() -> dict[str, dict[str, Any]]:
    """What one process that cannot import torch or numpy made of every golden file."""
    command = [sys.executable, "-W", "error", "-m", "matrix.corpus.verify"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode in (0, 1), done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["id"]: row for row in found}


@every_golden
def test_it_reads_without_torch(golden: Golden, without_torch: dict[str, dict[str, Any]]) -> None:
    found = without_torch[golden.id]
    if matching(golden, NOT_READ_YET):
        assert found["error"] or found["differences"], f"{golden.id} reads now: take it out of NOT_READ_YET"
        return
    assert found["error"] is None
    assert found["differences"] == []
    assert found["format"] == golden.format


@every_golden
def test_it_loads(golden: Golden) -> None:
    if matching(golden, NOT_READ_YET):
        return
    if matching(golden, NAMES_A_CLASS):
        with pytest.raises(UnsafeGlobals):
            compat.load(golden.path)
    try:
        loaded = by_compat(golden)
    except Unsupported as error:
        # By name what this torch lacks, which newer ones wrote.
        if not is_lacking(error):
            raise
        pytest.skip(str(error))
    assert differences(golden, described(loaded)) == []


def is_lacking(error: Unsupported) -> bool:
    kinds = {"nested": "_nested_view_from_buffer", "jagged": "jagged"}
    names = [kinds[error.feature]] if error.feature in kinds else re.findall(r"has the dtype (\w+)", str(error))
    return bool(names) and not any(hasattr(torch, name) for name in names)


def by_compat(golden: Golden) -> Any:
    if golden.holds == "module":
        return compat.load_state_dict(golden.path, key=golden.key, prefix="")
    return compat.load(golden.path, on_unknown="keep" if matching(golden, NAMES_A_CLASS) else "refuse")


def by_torch(golden: Golden) -> CheckpointSpec | None:
    """What torch reads with weights_only=True; None where it refuses, for whatever reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return described(torch.load(golden.path, weights_only=True))
    except Exception:  # noqa: BLE001 - torch refuses with whatever happened inside
        return None


@pytest.mark.parametrize("golden", TREES, ids=lambda golden: golden.id)
def test_it_loads_as_torch_loads_it(golden: Golden) -> None:
    if matching(golden, TORCH_READS_BY_LUCK):
        return
    theirs = by_torch(golden)
    if theirs is None:
        return
    found = compare(theirs, described(by_compat(golden)))
    otherwise = matching(golden, TORCH_READS_OTHERWISE)
    assert bool(found) == bool(otherwise), [str(difference) for difference in found]


def test_torch_reads_many_of_them() -> None:
    """A torch that refuses everything would let the test above pass."""
    sample = [golden for golden in TREES if golden.name in ("state.zip.pt", "views.legacy.pt", "optimizers.zip.pt")]
    assert sum(by_torch(golden) is not None for golden in sample) > len(sample) // 2


@pytest.mark.parametrize("pattern", [*NOT_READ_YET, *NAMES_A_CLASS, *TORCH_READS_OTHERWISE, *TORCH_READS_BY_LUCK])
def test_what_is_listed_is_there(pattern: str) -> None:
    assert any(matching(golden, [pattern]) for golden in GOLDENS)
