"""Every check catches the broken implementations meant for it, and passes the right one."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from matrix.implementations import IMPLEMENTATIONS, Implementation
from matrix.runner import Run, Settings, Tally
from tests.miniatures import COMPAT, MINIATURES, Miniature

# A miniature of each of these checks must exist.
CHECKS = ("convert", "device", "export", "inert", "recipe", "resume", "roundtrip", "transfer")


def tally(
    implementation: Implementation, pattern: str, tmp_path: Path, examples: int = 6, cell_seconds: float = 60.0
) -> Tally:
    settings = Settings(
        patterns=(pattern,),
        out=tmp_path,
        cell_seconds=cell_seconds,
        implementations={**IMPLEMENTATIONS, "compat": implementation},
    )
    run = Run(settings)
    content = dict(run.cells[0].values).get("content", "")
    return run.content(content, list(run.cells), examples, 60.0)[0]


@pytest.mark.parametrize("name", MINIATURES)
def test_a_broken_implementation_is_caught_by_name(name: str, tmp_path: Path) -> None:
    miniature = MINIATURES[name]
    seconds = 1.0 if miniature.kind == "timeout" else 60.0
    verdict = tally(miniature.implementation, miniature.cells, tmp_path, cell_seconds=seconds).verdict()
    assert verdict.failed, miniature.defect
    assert verdict.outcome.kind == miniature.kind
    assert not miniature.facet or miniature.facet in verdict.outcome.facets


@pytest.mark.parametrize("miniature", MINIATURES.values(), ids=MINIATURES.keys())
def test_the_right_implementation_passes_there(miniature: Miniature, tmp_path: Path) -> None:
    assert not tally(COMPAT, miniature.cells, tmp_path).verdict().failed


def test_every_check_has_a_miniature() -> None:
    from matrix.checks import CHECKS as REAL

    assert set(REAL) == set(CHECKS)
    assert {miniature.cells.split(":")[0] for miniature in MINIATURES.values()} == set(REAL)


def test_an_error_that_is_no_refusal_is_a_crash(tmp_path: Path) -> None:
    def read(*_: object) -> object:
        raise IndexError("list index out of range")

    verdict = tally(replace(COMPAT, read=read), "roundtrip:torch-zip:torch>compat:wo:plain", tmp_path).verdict()
    assert (verdict.name, verdict.outcome.kind, verdict.outcome.stage) == ("broken", "crashed", "read")


def test_a_base_exception_is_an_outcome_too(tmp_path: Path) -> None:
    def read(*_: object) -> object:
        raise SystemExit(3)

    verdict = tally(replace(COMPAT, read=read), "roundtrip:torch-zip:torch>compat:wo:plain", tmp_path).verdict()
    assert verdict.outcome.error_type == "SystemExit"


def test_wrong_outputs_of_a_module_are_seen(tmp_path: Path) -> None:
    """A loader that changes values in a way that only the module's outputs show is caught by its bytes first,
    so here the comparison of states is blinded, and the outputs alone must tell.
    """
    run = Run(Settings(patterns=("roundtrip:torch-zip:torch>compat:wo:module-linear",), out=tmp_path))
    example = next(iter(run.examples("module-linear", 1)))
    from matrix.checks.roundtrip import forwarded

    bench = run.bench(example, Path(tempfile.mkdtemp(dir=tmp_path)))
    assert example.fresh is not None
    state = example.fresh().state_dict()
    assert forwarded(state, bench, strict=True).kind == "ok"
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.add_(1)
    assert forwarded(state, bench, strict=True).facets == ("forward",)
