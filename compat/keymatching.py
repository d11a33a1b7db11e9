"""Which keys of a checkpoint are which keys of a module, through whatever wrappers either of them has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from compat.errors import Mismatch

# What wrappers put into the keys of what they hold, on any level.
_INSIDE: Final = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
# What wrappers put in front of all keys; a model may also have a real child of such a name.
_IN_FRONT: Final = ("module", "model", "net", "network", "backbone", "encoder", "state_dict")
_WEIGHT_NORM: Final = {"original0": "g", "original1": "v"}
_DEEPEST: Final = 6
_SHOWN: Final = 4

Rename = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """How a checkpoint's keys become a module's.

    Attributes:
        rename: a key of the checkpoint → a key of the module, where it is one.
        prefix: what was taken off, or put in front with a + before it; "" for nothing.
    """

    rename: Rename
    prefix: str


def plain(key: str) -> str:
    """A key without the steps that wrappers put inside a model."""
    parts = key.split(".")
    if not set(_INSIDE) & set(parts):
        return key
    return ".".join(part for part in parts if part not in _INSIDE)


def match(source: Collection[str], target: Collection[str], prefix: str | None, name: str = "") -> Matching:
    """Find out which keys of a checkpoint are which keys of a module.

    Args:
        source: the checkpoint's keys.
        target: the module's keys; both may have wrappers' steps in them.
        prefix: what to strip: a prefix with its dot, None for nothing, or "auto" for what fits the module best.
        name: the file's name, for messages.

    Raises:
        Mismatch: two prefixes fit equally well.
    """
    known = {plain(key): key for key in target}
    if prefix != "auto":
        return Matching(rename=_onto(known, lambda key: key.removeprefix(prefix or "")), prefix=prefix or "")
    if set(source) <= set(target):
        return Matching(rename=lambda key: key, prefix="")
    best = _best(list(map(plain, source)), known, name)
    off, _, on = best.partition("+")

    def change(key: str) -> str:
        short = plain(key)
        return on + short.removeprefix(off) if short.startswith(off) else short

    return Matching(rename=_onto(known, change), prefix=best)


def _onto(known: Mapping[str, str], change: Rename) -> Rename:
    def rename(key: str) -> str:
        changed = change(key)
        found = known.get(plain(changed)) or known.get(_weight_norm(changed, known))
        return changed if found is None else found

    return rename


def _best(source: list[str], known: Mapping[str, str], name: str) -> str:
    """What to take off and put on so that most keys become the module's; nothing where that is as good."""
    changes = [("", ""), *((head, "") for head in _heads(source)), *(("", front) for front in _heads(known))]
    changes += [(head, front) for head in _shared(source) for front in _shared(known)]
    scores = {
        f"{off}+{on}" if on else off: sum(key.startswith(off) and on + key[len(off) :] in known for key in source)
        for off, on in changes
    }
    most = max(scores.values())
    if scores[""] == most:
        return ""
    equal = sorted((change for change, score in scores.items() if score == most), key=_familiar)
    if len(equal) > 1 and _familiar(equal[0])[:2] == _familiar(equal[1])[:2]:
        raise Mismatch(
            f"its keys fit the module {' and '.join(_said(change) for change in equal[:_SHOWN])}",
            source=name,
            hint=f"Say which: prefix={equal[0]!r}.",
        )
    return equal[0]


def _heads(keys: Iterable[str]) -> set[str]:
    """Everything that a key begins with, up to a dot."""
    return {f"{'.'.join(key.split('.')[:depth])}." for key in keys for depth in range(1, _depth(key))}


def _shared(keys: Collection[str]) -> list[str]:
    """What all keys begin with, up to a dot."""
    first = next(iter(keys), "")
    return [head for head in _heads([first]) if all(key.startswith(head) for key in keys)]


def _said(change: str) -> str:
    off, _, on = change.partition("+")
    return " ".join(filter(None, (f"without {off!r}" if off else "", f"below {on!r}" if on else "")))


def _depth(key: str) -> int:
    return min(key.count(".") + 1, _DEEPEST)


def _familiar(head: str) -> tuple[bool, int, str]:
    """Prefixes of wrappers first, then shorter ones."""
    steps = head.replace("+", "").rstrip(".").split(".")
    return (not all(step in _IN_FRONT[:3] or step in _INSIDE for step in steps), len(steps), head)


def _weight_norm(key: str, known: Mapping[str, str]) -> str:
    """The other spelling of a weight-normed tensor: `conv.weight_g` and `conv.parametrizations.weight.original0`."""
    parts = key.split(".")
    if len(parts) > 2 and parts[-3] == "parametrizations" and parts[-1] in _WEIGHT_NORM:  # noqa: PLR2004 - three steps
        return ".".join([*parts[:-3], f"{parts[-2]}_{_WEIGHT_NORM[parts[-1]]}"])
    for original, letter in _WEIGHT_NORM.items():
        if parts[-1].endswith(f"_{letter}"):
            other = ".".join([*parts[:-1], "parametrizations", parts[-1].removesuffix(f"_{letter}"), original])
            if other in known:
                return other
    return key


def chosen(keys: Iterable[str], include: Collection[str] | None, exclude: Collection[str] | None) -> set[str]:
    """The keys that patterns (`*`, `?`) take: all where none include, less those that some exclude."""
    from fnmatch import fnmatchcase

    return {
        key
        for key in keys
        if (include is None or any(fnmatchcase(key, pattern) for pattern in include))
        and not any(fnmatchcase(key, pattern) for pattern in exclude or ())
    }
