"""What loading into a module did, as torch would return it and more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

from compat.errors import Mismatch

Shape = tuple[int, ...]
_SHOWN: Final = 8


class _Keys(NamedTuple):
    missing_keys: list[str]
    unexpected_keys: list[str]


@dataclass(slots=True, kw_only=True)
class Facts:
    """What loading did beside missing and unexpected keys; see `LoadReport`."""

    mismatched_keys: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    mismatched_dtypes: list[tuple[str, str, str]] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)
    loaded_keys: list[str] = field(default_factory=list)
    key: str = ""
    prefix: str = ""
    renamed: dict[str, str] = field(default_factory=dict)
    cast: dict[str, tuple[str, str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    tied: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, *texts: str) -> None:
        """Add notes that are not there yet."""
        self.notes += [text for text in texts if text not in self.notes]


class LoadReport(_Keys):
    """What loading into a module did.

    It unpacks to two, as what torch returns does: `missing, unexpected = load_into(…)`. `report[2]`, or
    `report.mismatched_keys`, is the third field; the others have names only.

    Attributes:
        missing_keys: keys of the module that the checkpoint does not have.
        unexpected_keys: keys of the checkpoint that the module does not have.
        mismatched_keys: (key, expected shape, loaded shape) of tensors that were not loaded for their shape.
        mismatched_dtypes: (key, expected dtype, loaded dtype) of tensors that were not loaded for their dtype.
        unfit: key → why it cannot be loaded at all, for instance because it has no data or is no tensor.
        loaded_keys: keys of the module that were loaded.
        key: what led to the weights in the checkpoint; "" where it is a state_dict itself.
        prefix: what was stripped from its keys; behind a +, what was put in front of them.
        renamed: key of the checkpoint → key of the module, where they differ.
        cast: key → (dtype in the checkpoint, dtype in the module), of tensors that were rounded or widened.
        left_out: `num_batches_tracked` of modules whose checkpoint does not count: no missing keys, as mmcv has it.
        tied: key that the checkpoint does not have → the loaded key that is the same parameter.
        errors: what the module's own code refuses, in torch's words; such a state is never loaded.
        notes: what else is to be known, in words.
    """

    facts: Facts
    # The fields of the facts, which __getattr__ finds there.
    mismatched_keys: list[tuple[str, Shape, Shape]]
    mismatched_dtypes: list[tuple[str, str, str]]
    unfit: dict[str, str]
    loaded_keys: list[str]
    key: str
    prefix: str
    renamed: dict[str, str]
    cast: dict[str, tuple[str, str]]
    left_out: list[str]
    tied: dict[str, str]
    errors: list[str]
    notes: list[str]

    @classmethod
    def make(cls, missing: list[str], unexpected: list[str], facts: Facts) -> LoadReport:
        """A report of these findings."""
        report = cls(missing, unexpected)
        report.facts = facts
        return report

    def __getattr__(self, name: str) -> Any:
        # Only asked for what a tuple does not have; copies are made before there are facts.
        if name in Facts.__slots__ and "facts" in vars(self):
            return getattr(self.facts, name)
        raise AttributeError(f"a LoadReport has no attribute {name!r}")

    def __getitem__(self, index: Any) -> Any:
        return self.mismatched_keys if index == len(self) else tuple.__getitem__(self, index)

    @property
    def fits(self) -> bool:
        """Whether everything that both have could be loaded."""
        return not (self.mismatched_keys or self.mismatched_dtypes or self.unfit or self.errors)

    @property
    def complete(self) -> bool:
        """Whether checkpoint and module have the same keys, shapes and kinds of numbers."""
        return self.fits and not (self.missing_keys or self.unexpected_keys)

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        keys = {"missing_keys": self.missing_keys, "unexpected_keys": self.unexpected_keys}
        return {"complete": self.complete, **keys, **asdict(self.facts)}

    def __repr__(self) -> str:
        fields = ("missing_keys", "unexpected_keys", "mismatched_keys")
        return f"LoadReport({', '.join(f'{name}={getattr(self, name)!r}' for name in fields)})"

    def __str__(self) -> str:
        said = [f"{len(self.loaded_keys):,} loaded"]
        said += [f"from {self.key!r}"] if self.key else []
        said += [_prefix_text(self.prefix)] if self.prefix else []
        return "\n".join([", ".join(said), *self.differences(), *self.remarks()])

    def differences(self) -> list[str]:
        """What keeps a strict load from happening, in the words of mmcv."""
        lines = [_listed("unexpected key in source state_dict", self.unexpected_keys)] if self.unexpected_keys else []
        lines += [_listed("missing keys in source state_dict", self.missing_keys)] if self.missing_keys else []
        shapes = [(key, str(list(expected)), str(list(seen))) for key, expected, seen in self.mismatched_keys]
        lines += _table("shape", shapes)
        lines += _table("dtype", self.mismatched_dtypes)
        return lines + [f"{key} {why}" for key, why in self.unfit.items()] + self.errors

    def remarks(self) -> list[str]:
        """What else happened."""
        casts = [f"{key}: {was} became {now}" for key, (was, now) in self.cast.items()]
        lines = casts[:_SHOWN]
        lines += [f"and {len(casts) - _SHOWN:,} more changed their dtype"] if len(casts) > _SHOWN else []
        lines += [f"{key} is missing, and tied to {other}" for key, other in self.tied.items()]
        lines += [_listed("not in the checkpoint, and not counted as missing", self.left_out)] if self.left_out else []
        return lines + self.notes


class StateMismatch(Mismatch):
    """A checkpoint that does not fit a module, which is as it was.

    Attributes:
        report: what differs.
    """

    def __init__(self, report: LoadReport, *, source: object, hint: str) -> None:
        self.report = report
        lines = [*report.differences(), *report.notes]
        seen = "the model and the loaded state_dict do not match exactly\n" + "\n".join(lines) + "\n"
        super().__init__(seen, source=source, hint=hint)

    def to_json(self) -> dict[str, Any]:
        """The error as a JSON object, with the report's fields."""
        return {**super().to_json(), "report": self.report.to_json()}


def _prefix_text(prefix: str) -> str:
    off, _, on = prefix.partition("+")
    return " and ".join(filter(None, (f"without the prefix {off!r}" if off else "", f"below {on!r}" if on else "")))


def _listed(what: str, keys: Sequence[str]) -> str:
    return f"{what}: {', '.join(keys)}"


def _table(what: str, found: Sequence[tuple[str, str, str]]) -> list[str]:
    if not found:
        return []
    rows = [("key", f"expected {what}", f"loaded {what}"), *found]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [f"these keys have mismatched {what}:", *(f"  {line}" for line in lines)]
