"""What formats claim, as expectations: what a format's capabilities do not name must be refused by type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from compat import exports, formats
from matrix.outcomes import Expectation

PRECISIONS: Final = ("float64", "float32", "float16", "bfloat16")


def claims() -> Callable[[str], Expectation | None]:
    """By a cell's id, what compat must refuse to write because the format does not claim it."""
    table = {found.name: found.capabilities for found in formats.all_formats()}
    computed = {found.name: found.capabilities for found in exports.all_targets()}

    def claimed(cell_id: str) -> Expectation | None:
        check, _, rest = cell_id.partition(":")
        if check == "export":
            return _not_computed(computed, rest.split(":"))
        names, content = rest.split(":")[0], cell_id.rsplit(":", maxsplit=1)[-1]
        if check not in ("convert", "device", "recipe", "resume", "roundtrip"):
            return None
        if check == "roundtrip" and not rest.split(":")[1].startswith("compat>"):
            return None
        for stage, name in zip(("write", "convert"), names.split(">"), strict=False):
            if name in table and (missing := _unclaimed(table[name], _needs(check, content))):
                return Expectation(
                    kind="refused",
                    reason=f"{name} {missing}; it is refused unless the caller allows the loss",
                    link=f"compat formats --json, capabilities of {name}",
                    source="capability",
                    message=f"as {name}",
                    stage=stage,
                )
        return None

    return claimed


def _not_computed(computed: Mapping[str, exports.TargetCapabilities], values: Sequence[str]) -> Expectation | None:
    """What a target does not compute in: its artefacts are refused by what runs them, or cannot be made."""
    target = values[0]
    missing = [name for name in PRECISIONS if name in values and name not in computed[target].dtypes]
    if not missing:
        return None
    return Expectation(
        kind="refused",
        reason=f"{target} does not compute in {missing[0]}",
        link=f"compat.exports.get({target!r}).capabilities",
        source="capability",
        stage=computed[target].refuses_dtypes,
    )


def _needs(check: str, content: str) -> str:
    """The content that decides: a training run holds the states of random generators, which are bytes."""
    return "dtype-uint8" if check == "resume" else content


def _unclaimed(capabilities: formats.Capabilities, content: str) -> str | None:
    """What a format does not keep of a content, in words; None where it claims all of it."""
    dtype = content.removeprefix("dtype-")
    if dtype != content and dtype not in capabilities.dtypes:
        return f"has no name for {dtype}"
    return None
