"""Which keys of a checkpoint are which keys of a module, through whatever wrappers either of them has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from compat.errors import Mismatch
from compat.keys import INSIDE, drop_inside

# What wrappers put in front of all keys; a model may also have a real child of such a name.
_IN_FRONT: Final = ("module", "model", "net")
# What wrappers have of their own beside what they hold.
_OWN: Final[Mapping[str, str]] = {"n_averaged": "torch.optim.swa_utils.AveragedModel"}
_WEIGHT_NORM: Final = {"original0": "g", "original1": "v"}
_DEEPEST: Final = 6
_SHOWN: Final = 4

Rename = Callable[[str], str]
Pattern = str | re.Pattern[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """How a checkpoint's keys become a module's.

    Attributes:
        rename: a key of the checkpoint → a key of the module, where it is one.
        prefix: what was taken off; behind a +, what was put in front; "" for nothing.
    """

    rename: Rename
    prefix: str


def match(source: Collection[str], target: Collection[str], prefix: str | None, name: str = "") -> Matching:
    """Find out which keys of a checkpoint are which keys of a module.

    The module's own keys decide: nothing is stripped that it has itself, whatever it is called. A prefix that no
    wrapper gives is only found where it makes at least half of either side's keys fit.

    Args:
        source: the checkpoint's keys.
        target: the module's keys; both may have wrappers' steps in them.
        prefix: what to strip: a prefix with its dot, None for nothing, or "auto" for what fits the module best.
        name: the file's name, for messages.

    Raises:
        Mismatch: two prefixes fit equally well.
    """
    known = {drop_inside(key): key for key in target}
    if prefix != "auto":
        return Matching(rename=_onto(target, known, lambda key: key.removeprefix(prefix or "")), prefix=prefix or "")
    if set(source) <= set(target):
        return Matching(rename=lambda key: key, prefix="")
    best = _best([drop_inside(key) for key in source], known, name)
    off, _, on = best.partition("+")
    exact = set(target)

    def change(key: str) -> str:
        changed = [on + text.removeprefix(off) if text.startswith(off) else text for text in (key, drop_inside(key))]
        return changed[0] if changed[0] in exact else changed[1]

    return Matching(rename=_onto(target, known, change), prefix=best)


def wrappers_own(key: str, prefix: str) -> str | None:
    """The wrapper that a key belongs to, where one side has that wrapper; None for a key of the model."""
    return _OWN.get(drop_inside(key)) if prefix.removeprefix("+").startswith("module.") else None


def _onto(target: Collection[str], known: Mapping[str, str], change: Rename) -> Rename:
    exact = set(target)
    # A module inside a wrapper, such as `block.` in `block._orig_mod.`, for the keys of `_metadata`.
    paths = {drop_inside(head): head for head in sorted(_all_heads(target), key=len)}

    def rename(key: str) -> str:
        changed = change(key)
        if changed in exact:
            return changed
        short = drop_inside(changed)
        found = known.get(short) or known.get(_weight_norm(short, known)) or paths.get(short)
        return _below_wrappers(changed, short, paths) if found is None else found

    return rename


def _below_wrappers(key: str, short: str, paths: Mapping[str, str]) -> str:
    """A key that the module does not have, at the place where its own code would look for it."""
    head = short
    while head:
        head = head[:-1].rpartition(".")[0]
        path = paths.get(f"{head}." if head else "")
        if path is not None:
            return path + short[len(drop_inside(path)) :] if path != drop_inside(path) else key
    return key


def _best(source: list[str], known: Mapping[str, str], name: str) -> str:
    """What to take off and put on so that most keys become the module's; nothing where that is as good."""
    scores = Counter(head for key in source for head, rest in _splits(key) if rest in known)
    texts = set(source)
    scores.update(f"+{head}" for key in known for head, rest in _splits(key) if rest in texts)
    shared = [(off, on) for off in _shared(source) for on in _shared(known)]
    scores.update({f"{off}+{on}": sum(on + key[len(off) :] in known for key in source) for off, on in shared})
    unchanged = sum(key in known for key in source)
    half = min(len(source), len(known)) / 2
    fair = {change: score for change, score in scores.items() if score >= half or _familiar(change)[0] is False}
    most = max(fair.values(), default=0)
    if most <= unchanged:
        return ""
    equal = sorted((change for change, score in fair.items() if score == most), key=_familiar)
    if len(equal) > 1 and _familiar(equal[0])[:2] == _familiar(equal[1])[:2]:
        raise Mismatch(
            f"its keys fit the module {' and '.join(_said(change) for change in equal[:_SHOWN])}",
            source=name,
            hint=f"Say which: prefix={equal[0]!r}.",
        )
    return equal[0]


def _splits(key: str) -> Iterator[tuple[str, str]]:
    """A key cut at each of its dots: what is before it, the dot included, and what is behind it."""
    at = -1
    for _ in range(_DEEPEST):
        at = key.find(".", at + 1)
        if at < 0:
            return
        yield key[: at + 1], key[at + 1 :]


def _all_heads(keys: Iterable[str]) -> set[str]:
    return {key[: dot.end()] for key in keys for dot in re.finditer(r"\.", key)}


def _shared(keys: Collection[str]) -> list[str]:
    """What all keys begin with, up to a dot."""
    heads = [head for head, _ in _splits(next(iter(keys), ""))]
    return [head for head in heads if all(key.startswith(head) for key in keys)]


def _said(change: str) -> str:
    off, _, on = change.partition("+")
    return " ".join(filter(None, (f"without {off!r}" if off else "", f"below {on!r}" if on else "")))


def _familiar(change: str) -> tuple[bool, int, str]:
    """Prefixes of wrappers first, then shorter ones."""
    steps = change.replace("+", "").rstrip(".").split(".")
    return (not all(step in _IN_FRONT or step in INSIDE for step in steps), len(steps), change)


def _weight_norm(key: str, known: Mapping[str, str]) -> str:
    """The other spelling of a weight-normed tensor: `conv.weight_g` and `conv.parametrizations.weight.original0`.

    Source of the names: `torch/nn/utils/parametrizations.py`, `_weight_norm_compat_hook`.
    """
    parts = key.split(".")
    if len(parts) > 2 and parts[-3] == "parametrizations" and parts[-1] in _WEIGHT_NORM:  # noqa: PLR2004 - three steps
        return ".".join([*parts[:-3], f"{parts[-2]}_{_WEIGHT_NORM[parts[-1]]}"])
    for original, letter in _WEIGHT_NORM.items():
        if parts[-1].endswith(f"_{letter}"):
            other = ".".join([*parts[:-1], "parametrizations", parts[-1].removesuffix(f"_{letter}"), original])
            if other in known:
                return other
    return key


class Choice:
    """Which keys are to be loaded: globs (`encoder.*`), or compiled regular expressions that are searched for.

    Args:
        include: patterns of keys to load; None for all.
        exclude: patterns of keys to leave alone, whatever includes them.
    """

    def __init__(self, include: Collection[Pattern] | None, exclude: Collection[Pattern] | None) -> None:
        for patterns in (include, exclude):
            if isinstance(patterns, (str, re.Pattern)):
                raise TypeError(f"patterns are given as a list; got {patterns!r}")
        self._include = None if include is None else list(include)
        self._exclude = list(exclude or ())

    @property
    def partial(self) -> bool:
        """Whether only some keys are asked for by name."""
        return self._include is not None

    def __contains__(self, key: Any) -> bool:
        if any(_fits(pattern, key) for pattern in self._exclude):
            return False
        return self._include is None or any(_fits(pattern, key) for pattern in self._include)

    def idle(self, keys: Collection[str]) -> tuple[list[str], list[str]]:
        """The patterns that fit none of these keys: of those that include, and of those that exclude."""
        include, exclude = (
            [str(getattr(p, "pattern", p)) for p in patterns if not any(_fits(p, key) for key in keys)]
            for patterns in (self._include or (), self._exclude)
        )
        return include, exclude


def _fits(pattern: Pattern, key: str) -> bool:
    return fnmatchcase(key, pattern) if isinstance(pattern, str) else pattern.search(key) is not None
