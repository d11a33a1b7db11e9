"""Reports to test pictures with: one cell of every verdict, in every mode."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from matrix.outcomes import FINE, Expectation, Outcome
from matrix.report import CellLine, ReportWriter

OK = Outcome(kind="ok")
KNOWN = Expectation(
    kind="mismatch",
    reason="torch loses it",
    link="https://example.org/known",
    source="known:lost",
    facets=frozenset({"stride", "aliasing"}),
)
CLAIMED = Expectation(kind="refused", reason="no name for complex32", source="capability")
MODES: dict[str, dict[str, str]] = {
    "weights_only": {},
    "full": {"weights_only": "full"},
    "mmap": {"mmap": "mmap"},
    "map_location": {"map_location": "cpu"},
    "prefix": {"prefix": "module."},
    "protocol": {"protocol": "p4"},
}
PAIRS = (
    ("safetensors", "safetensors", "safetensors"),
    ("torch-legacy", "torch", "compat"),
    ("torch-zip", "torch", "torch"),
)
PRUNED = {"the writer does not write this format": 12345, "a rule that pruned nothing": 0}


def line(number: int = 0, verdict: str = "as-expected", **options: Any) -> CellLine:
    name, writer, reader = options.pop("pair", PAIRS[2])
    axes = {
        "format": name,
        "writer": writer,
        "reader": reader,
        "weights_only": "wo",
        **options.pop("mode", {}),
    }
    facts: dict[str, Any] = {"outcome": OK, "expectation": FINE, "examples": 3, "seconds": 0.25, **options}
    shown = ":".join(value for key, value in axes.items() if key not in ("format", "writer", "reader"))
    return CellLine(
        id=f"roundtrip:{name}:{writer}>{reader}:{shown}:content-{number}", axes=axes, verdict=verdict, **facts
    )


def release(writer: str, reader: str, verdict: str = "as-expected") -> CellLine:
    axes = {"format": "torch-zip", "writer": writer, "reader": reader, "mode": "wo", "what": "views"}
    return CellLine(
        id=f"version:torch-zip:{writer}>{reader}:wo:views",
        axes=axes,
        outcome=Outcome(kind="mismatch" if verdict == "broken" else "ok"),
        expectation=FINE,
        verdict=verdict,
        examples=1,
        seconds=0.5,
    )


def failing(number: int, message: str = "['a'] dtype: float16, expected bfloat16") -> CellLine:
    seen = Outcome(kind="mismatch", stage="compare", message=message, facets=("dtype",))
    failure = {
        "seed": 7,
        "shrunk": True,
        "reproducer": "matrix-report/reproducers/a_rather_long_name_" * 3 + ".py",
    }
    return line(number, "broken", outcome=seen, failure=failure, mode=MODES["full"])


def known(number: int) -> CellLine:
    seen = Outcome(kind="mismatch", stage="compare", message="stride", facets=("stride",))
    return line(number, "known", outcome=seen, expectation=KNOWN)


def written(path: Path, cells: list[CellLine], **footer: Any) -> Path:
    facts = {
        "verdicts": dict(Counter(cell.verdict for cell in cells)),
        "pruned": PRUNED,
        "not_run": 42,
        "seconds": 2.5,
    }
    with ReportWriter(path, {"seed": 5, "versions": {"torch": "2.13.0"}}) as writer:
        for cell in cells:
            writer.cell(cell)
        writer.finish(**{**facts, **footer})
    return path


def everything() -> list[CellLine]:
    full = [line(n, pair=pair, mode=mode) for n, pair in enumerate(PAIRS) for mode in MODES.values()]
    refused = Outcome(kind="refused", stage="write", message="as torch-zip: no", error_type="Unsupported")
    return [
        *full,
        known(10),
        known(11),
        line(12, "refused-as-claimed", outcome=refused, expectation=CLAIMED),
        line(13, "skipped", outcome=Outcome(kind="skipped", message="no CUDA")),
        failing(14),
    ]
