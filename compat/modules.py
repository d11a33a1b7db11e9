"""Load weights into a module, and say honestly what that did.

Everything is checked before anything is changed: when a load is refused, the module is as it was.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from compat import tying
from compat.checkpoint import Checkpoint
from compat.errors import Mismatch
from compat.keymatching import chosen, match
from compat.keys import rename as rename_keys
from compat.loading import MapLocation, import_torch, local, materialize, open_checkpoint
from compat.sources import SourceLike
from compat.states import find_state

Rule = tuple[str, str]
_COUNTER: Final = "num_batches_tracked"
_SHOWN: Final = 8


class _Keys(NamedTuple):
    missing_keys: list[str]
    unexpected_keys: list[str]


@dataclass(slots=True, kw_only=True)
class _Facts:
    """What loading did beside missing and unexpected keys; see `LoadReport`."""

    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    key: str = ""
    prefix: str = ""
    renamed: dict[str, str] = field(default_factory=dict)
    cast: dict[str, tuple[str, str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class LoadReport(_Keys):
    """What loading into a module did. It unpacks as torch's does: `missing, unexpected = load_into(…)`.

    Attributes:
        missing_keys: keys of the module that the checkpoint does not have.
        unexpected_keys: keys of the checkpoint that the module does not have.
        mismatched_keys: (key, expected shape, loaded shape) of tensors that were not loaded for their shape.
        loaded_keys: keys of the module that were loaded.
        key: the entry of the checkpoint that was taken; "" where it is a state_dict itself.
        prefix: what was stripped from its keys; behind a +, what was put in front of them.
        renamed: key of the checkpoint → key of the module, where they differ.
        cast: key → (dtype in the checkpoint, dtype in the module), where they differ.
        left_out: `num_batches_tracked` of modules whose checkpoint does not count: no missing keys, as mmcv has it.
        notes: what else is to be known, in words.
    """

    facts: _Facts

    @classmethod
    def make(cls, missing: list[str], unexpected: list[str], facts: _Facts) -> LoadReport:
        """A report of these findings."""
        report = cls(missing, unexpected)
        report.facts = facts
        return report

    @property
    def mismatched_keys(self) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """Tensors that were not loaded for their shape."""
        return self.facts.mismatched

    @property
    def loaded_keys(self) -> list[str]:
        """What was loaded."""
        return self.facts.loaded

    @property
    def key(self) -> str:
        """The entry that was taken."""
        return self.facts.key

    @property
    def prefix(self) -> str:
        """What was stripped or put in front."""
        return self.facts.prefix

    @property
    def renamed(self) -> dict[str, str]:
        """Keys that are named otherwise in the module."""
        return self.facts.renamed

    @property
    def cast(self) -> dict[str, tuple[str, str]]:
        """Tensors whose dtype was changed."""
        return self.facts.cast

    @property
    def left_out(self) -> list[str]:
        """Counters that are not counted as missing."""
        return self.facts.left_out

    @property
    def notes(self) -> list[str]:
        """What else is to be known."""
        return self.facts.notes

    @property
    def complete(self) -> bool:
        """Whether checkpoint and module have the same keys and shapes."""
        return not (self.missing_keys or self.unexpected_keys or self.mismatched_keys)

    def __str__(self) -> str:
        said = [f"{len(self.loaded_keys):,} loaded"]
        said += [f"from {self.key!r}"] if self.key else []
        said += [f"prefix {self.prefix!r}"] if self.prefix else []
        lines = [", ".join(said)]
        lines += [_listed("unexpected key in source state_dict", self.unexpected_keys)] if self.unexpected_keys else []
        lines += [_listed("missing keys in source state_dict", self.missing_keys)] if self.missing_keys else []
        lines += _table(self.mismatched_keys)
        lines += [f"{key}: {was} became {now}" for key, (was, now) in self.cast.items()][:_SHOWN]
        lines += [_listed("not in the checkpoint, and not counted as missing", self.left_out)] if self.left_out else []
        return "\n".join(lines + self.notes)


def _listed(what: str, keys: Sequence[str]) -> str:
    return f"{what}: {', '.join(keys)}"


def _table(mismatched: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> list[str]:
    if not mismatched:
        return []
    rows = [("key", "expected shape", "loaded shape")]
    rows += [(key, str(list(expected)), str(list(seen))) for key, expected, seen in mismatched]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return ["these keys have mismatched shape:", *(f"  {line}" for line in lines)]


def load_into(
    module: Any,
    src: SourceLike | Mapping[str, Any] | Checkpoint,
    *,
    strict: bool = True,
    key: str | None = None,
    prefix: str | None = "auto",
    skip_mismatched: bool = False,
    include: Collection[str] | None = None,
    exclude: Collection[str] | None = None,
    rename: Iterable[Rule] = (),
    assign: bool = False,
    map_location: MapLocation = "cpu",
) -> LoadReport:
    """Load the weights of a checkpoint into a module.

    Parameters stay the objects they are, so that optimizers keep them; only `assign`, and parameters on the meta
    device, replace them. Ties stay ties, `requires_grad` and memory format stay as the module has them.

    Args:
        module: any module, wrapped or not.
        src: a path, a URL, a file object, bytes, an open checkpoint, or a live state_dict.
        strict: refuse a checkpoint that has not exactly the keys of the module.
        key: which entry of the checkpoint holds the weights; None finds it, and refuses to guess between two.
        prefix: what to strip from its keys: "auto" for what fits the module, a prefix with its dot, or None.
        skip_mismatched: load the rest when shapes differ, which torch refuses even with strict=False.
        include: patterns of module keys to load; None for all.
        exclude: patterns of module keys to leave as they are.
        rename: (pattern, replacement) pairs of regular expressions, applied to the checkpoint's keys first.
        assign: let the module have the loaded tensors themselves, with their dtypes.
        map_location: where tensors are loaded; copying moves them to where the module is.

    Raises:
        Mismatch: the checkpoint does not fit; the message lists everything, and nothing was changed.
        KeyCollision: two keys would become one.
        CompatError: the file cannot be read; see `open`.
    """
    state, taken, name = _state_of(src, key, map_location)
    for pattern, replacement in rename:
        state = rename_keys(state, lambda k, p=pattern, r=replacement: re.sub(p, r, k))  # type: ignore[misc]  # bound now
    own = module.state_dict()
    matching = match([k for k in state if isinstance(k, str)], list(own), prefix, name)
    fitted = rename_keys(state, matching.rename)
    facts = _Facts(key=taken, prefix=matching.prefix)
    facts.renamed = {old: new for old, new in zip(state, fitted, strict=True) if old != new}
    wanted = chosen(own, include, exclude)
    fitted = _only(fitted, lambda k: k in wanted or k not in own)
    if include is not None:
        fitted = _only(fitted, lambda k: k in own)
    missing = [k for k in own if k in wanted and k not in fitted]
    unexpected = [k for k in fitted if k not in own]
    facts.left_out = [k for k in missing if k.rpartition(".")[2] == _COUNTER]
    missing = [k for k in missing if k not in facts.left_out]
    _compare(own, fitted, facts, assign=assign)
    _note_versions(module, fitted, facts)
    report = LoadReport.make(missing, unexpected, facts)
    refused = strict and not report.complete and not (skip_mismatched and not missing and not unexpected)
    if refused or (facts.mismatched and not skip_mismatched):
        raise _mismatch(report, name, strict=strict)
    apart = {k for k, *_ in facts.mismatched}
    ready = _only(fitted, lambda k: k in own and k not in apart)
    facts.loaded = [k for k in ready if k in own]
    _load(module, own, ready, assign=assign, name=name)
    return report


def _state_of(src: Any, key: str | None, map_location: MapLocation) -> tuple[Any, str, str]:
    """The live state, the entry that was taken, and the file's name."""
    if isinstance(src, Mapping) and key is None and hasattr(src, "_metadata"):
        # What module.state_dict() gives needs no search, whatever it holds.
        return src, "", "the given state"
    if isinstance(src, Mapping):
        state, taken = find_state(src, key, source="the given state")
        return state, taken, "the given state"
    if isinstance(src, Checkpoint):
        state, taken = find_state(src.tree, key, source=src.source)
        return materialize(src, map_location, tree=state), taken, src.source
    with open_checkpoint(local(src)) as checkpoint:
        return _state_of(checkpoint, key, map_location)


def _only(state: Any, keep: Any) -> OrderedDict[str, Any]:
    made = OrderedDict((key, value) for key, value in state.items() if keep(key))
    vars(made).update(getattr(state, "__dict__", {}))
    return made


def _compare(own: Mapping[str, Any], state: Mapping[str, Any], facts: _Facts, *, assign: bool) -> None:
    """Find shapes and dtypes that differ.

    Raises:
        Mismatch: numbers of one kind would become numbers of another.
    """
    torch = import_torch("loading into a module")
    for key, value in state.items():
        mine = own.get(key)
        if not isinstance(mine, torch.Tensor) or not isinstance(value, torch.Tensor):
            continue
        if isinstance(mine, torch.nn.parameter.UninitializedTensorMixin):
            continue
        if mine.shape != value.shape and not (mine.shape == () and tuple(value.shape) == (1,)):
            facts.mismatched.append((key, tuple(mine.shape), tuple(value.shape)))
        elif mine.dtype != value.dtype and not assign:
            was, now = (str(tensor.dtype).removeprefix("torch.") for tensor in (value, mine))
            if _kind(value) != _kind(mine):
                raise Mismatch(
                    f"{key} is {was}",
                    expected=f"{now}, or another type of its kind",
                    hint="Convert it first, or pass assign=True to let the module have it as it is.",
                )
            facts.cast[key] = (was, now)


def _kind(tensor: Any) -> str:
    return "complex" if tensor.is_complex() else "float" if tensor.is_floating_point() else "integer"


def _note_versions(module: Any, state: Any, facts: _Facts) -> None:
    """Say when the versions are lost by which modules know how old their state is."""
    if getattr(state, "_metadata", None):
        return
    versioned = sorted({type(part).__name__ for part in module.modules() if (getattr(part, "_version", None) or 1) > 1})
    if versioned:
        facts.notes.append(
            f"the checkpoint has no _metadata: {', '.join(versioned)} cannot know which version wrote their state, "
            "and take it as it is"
        )


def _mismatch(report: LoadReport, name: str, *, strict: bool) -> Mismatch:
    hint = "Nothing was changed. "
    if report.mismatched_keys and not (report.missing_keys or report.unexpected_keys):
        hint += "Pass skip_mismatched=True to load the rest."
    elif strict:
        hint += "Pass strict=False to load what fits" + (
            ", with skip_mismatched=True." if report.mismatched_keys else "."
        )
    lines = str(report).splitlines()[1:]
    return Mismatch(
        "the model and the loaded state_dict do not match exactly\n" + "\n".join(lines), source=name, hint=hint
    )


def _load(module: Any, own: Mapping[str, Any], state: Any, *, assign: bool, name: str) -> None:
    """Copy or assign what was checked; parameters on the meta device have to be assigned."""
    torch = import_torch("loading into a module")
    on_meta = {key for key, value in own.items() if isinstance(value, torch.Tensor) and value.is_meta}
    ties = tying.ties_of(module)
    try:
        for keys, assigned in ((lambda k: k in on_meta, True), (lambda k: k not in on_meta, assign)):
            part = _only(state, keys)
            if part:
                module.load_state_dict(part, strict=False, assign=True) if assigned else module.load_state_dict(
                    part, strict=False
                )
    except RuntimeError as error:
        raise Mismatch(f"the module refuses its state: {error!s:.300}", source=name) from error
    finally:
        tying.tie_again(ties)
