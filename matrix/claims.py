"""What formats claim, as expectations: what a format's capabilities do not name must be refused by type."""

from __future__ import annotations

from collections.abc import Callable

from compat import formats
from matrix.outcomes import Expectation


def claims() -> Callable[[str], Expectation | None]:
    """By a cell's id, what compat must refuse to write because the format does not claim it."""
    table = {found.name: found.capabilities for found in formats.all_formats()}

    def claimed(cell_id: str) -> Expectation | None:
        parts = cell_id.split(":")
        capabilities = table.get(parts[1])
        content = parts[-1]
        if capabilities is None or not parts[2].startswith("compat>") or not content.startswith("dtype-"):
            return None
        dtype = content.removeprefix("dtype-")
        if dtype in capabilities.dtypes:
            return None
        return Expectation(
            kind="refused",
            reason=f"{parts[1]} has no name for {dtype}; it is refused unless the caller allows the loss",
            link=f"compat formats --json, capabilities of {parts[1]}",
            source="capability",
            message="as " + parts[1],
            stage="write",
        )

    return claimed
