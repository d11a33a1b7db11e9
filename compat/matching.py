"""Find out which tensor of one checkpoint is which of another, by their bytes and not by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, permutations
from typing import Final

from compat.checkpoint import Checkpoint, TensorRecord
from compat.diffing import opened
from compat.errors import Unsupported
from compat.fingerprints import digest, is_zero, narrowed_digest, permuted_digest, probe, repeats, total
from compat.narrowing import NARROWED
from compat.similarity import assign
from compat.sources import SourceLike

AMBIGUOUS: Final = ("keep", "name", "order")
# So many dimensions larger than one are tried in all their orders.
_MAX_PERMUTED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A tensor of the left and the one of the right that holds its values.

    Attributes:
        left, right: their names.
        how: `same` dtype, shape and bytes; `reshaped`: the same bytes in another shape; `permuted`: dimensions in
            another order; `cast`: one is the other, rounded to its narrower type.
        detail: the shapes, the order of the left's dimensions, or the dtypes; empty for `same`.
        by: `value` where no other tensor holds these values; `sharing` where one side has several names for one
            tensor; `name` or `order` where several tensors hold them and this one was chosen, as asked.
    """

    left: str
    right: str
    how: str
    detail: str = ""
    by: str = "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tensors that all hold the same values, so that values cannot tell which is which.

    Attributes:
        left, right: their names on each side; how, detail: as in `Pair`, of their first.
        what: dtype and shape, and whether all values are zero.
        short: how many of the left find no tensor of the right left for them.
    """

    left: list[str]
    right: list[str]
    how: str
    detail: str
    what: str
    short: int


@dataclass(slots=True, kw_only=True)
class Correspondence:
    """Which tensor of the left checkpoint is which of the right one.

    Attributes:
        pairs: what was found, in the left's order; groups: tensors that values alone cannot tell apart.
        only_left, only_right: tensors whose values the other side does not hold, or not so often.
        alike: those of `only_left` that a tensor of `only_right` has the dtype and shape of.
    """

    left: str
    right: str
    pairs: list[Pair] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    only_left: list[str] = field(default_factory=list)
    only_right: list[str] = field(default_factory=list)
    alike: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every tensor of the left has a partner on the right."""
        return not self.only_left and not any(group.short for group in self.groups)

    def names(self) -> dict[str, str]:
        """Each paired name of the left and its name on the right."""
        return {pair.left: pair.right for pair in self.pairs}


def correspond(
    left: SourceLike | Checkpoint, right: SourceLike | Checkpoint, *, ambiguous: str = "keep"
) -> Correspondence:
    """Find the tensors of one checkpoint in another by their values, whatever they are called.

    First by dtype, shape and bytes; of the rest, by the same bytes in another shape; then with the dimensions in
    another order, as ONNX's MatMul has a Linear's weight; then with floating-point values rounded to a narrower type.
    One-to-one where values are unique. Tensors are streamed in blocks, so memory does not grow with the files, unless
    they hold storages that are compressed or big-endian.

    Args:
        left: what `open` takes, or an open checkpoint.
        right: the same.
        ambiguous: what to do with several tensors of the same values, such as biases of zeros: "keep" them as
            groups, or pair them by "name" (beside what is paired already, then the most similar) or by "order".

    Raises:
        Unsupported: `ambiguous` is none of these, or a tensor shows far more elements than there are.
        CompatError: one of them cannot be read; see `open`.
    """
    if ambiguous not in AMBIGUOUS:
        raise Unsupported(
            f"there is no way {ambiguous!r} to tell equal tensors apart",
            feature="ambiguous",
            expected=f"one of {', '.join(AMBIGUOUS)}",
        )
    with opened(left) as a, opened(right) as b:
        return _Matcher(a, b, ambiguous).match()


@dataclass(slots=True, kw_only=True, eq=False)
class _Shown:
    """One tensor, under all the names that its side has for it."""

    names: list[str]
    record: TensorRecord
    # What was computed of its values: each is read once per kind of sum.
    sums: dict[object, bytes] = field(default_factory=dict)

    @property
    def kind(self) -> tuple[str, int, bool, bool]:
        """What equal bytes need to be equal values, beside the shape."""
        return self.record.dtype, self.record.numel, self.record.conj, self.record.neg

    @property
    def is_movable(self) -> bool:
        """Whether it has elements to look for in another layout, and not far more of them than bytes."""
        return self.record.numel > 0 and not repeats(self.record)

    @property
    def dims(self) -> list[int]:
        """The positions of the dimensions larger than one."""
        return [at for at, size in enumerate(self.record.shape) if size != 1]

    def sizes(self, order: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.record.shape[at] for at in order)

    def sum(self, of: object, compute: Callable[[], bytes]) -> bytes:
        if of not in self.sums:
            self.sums[of] = compute()
        return self.sums[of]

    def digest(self) -> bytes:
        return self.sum("digest", lambda: digest(self.record))

    def total(self) -> bytes:
        return self.sum("total", lambda: total(self.record).to_bytes(24, "little"))


# What a tensor was found by, how, and what to say of it.
_Hit = tuple[_Shown, Hashable, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Same:
    """Tensors of the left and of the right that hold the same values."""

    sides: tuple[list[_Shown], list[_Shown]]
    how: str
    detail: str


class _Matcher:
    def __init__(self, left: Checkpoint, right: Checkpoint, ambiguous: str) -> None:
        self.ambiguous = ambiguous
        self.found = Correspondence(left=left.source, right=right.source)
        self.tensors = left.tensors, right.tensors
        # What is not yet found. Tensors without bytes (on the meta device) never are.
        self.rest = tuple(
            [shown for shown in _views(side) if shown.record.storage.data is not None] for side in self.tensors
        )
        self.same: list[_Same] = []

    def match(self) -> Correspondence:
        self._equal("same", lambda shown: (shown.kind, shown.record.shape))
        self._equal("reshaped", lambda shown: shown.kind if shown.is_movable else None)
        self._permuted()
        self._cast(0)
        self._cast(1)
        for same in sorted(self.same, key=lambda same: len(same.sides[0]) + len(same.sides[1])):
            self._settle(same)
        self._conclude()
        return self.found

    def _take(self, how: str, hits: Iterable[_Hit], given: Mapping[Hashable, list[_Shown]], asking: int = 0) -> None:
        """Note which tensors of the asking side were found among those of the other, and leave both out from now on."""
        asked: dict[Hashable, tuple[list[_Shown], str]] = {}
        for shown, key, detail in hits:
            asked.setdefault(key, ([], detail))[0].append(shown)
        taken: set[int] = set()
        for key, (mine, detail) in asked.items():
            sides = (mine, given[key]) if asking == 0 else (given[key], mine)
            self.same.append(_Same(sides=sides, how=how, detail=detail))
            taken |= {id(shown) for side in sides for shown in side}
        self.rest = tuple([shown for shown in side if id(shown) not in taken] for side in self.rest)

    def _equal(self, how: str, described: Callable[[_Shown], Hashable]) -> None:
        """Find tensors with the same bytes; only those are read that are described alike on both sides."""
        kinds = [{described(shown) for shown in side} - {None} for side in self.rest]
        given: dict[Hashable, list[_Shown]] = {}
        for shown in self.rest[1]:
            if described(shown) in kinds[0]:
                given.setdefault((described(shown), shown.digest()), []).append(shown)
        asking = [shown for shown in self.rest[0] if described(shown) in kinds[1]]
        hits = [(shown, (described(shown), shown.digest()), "") for shown in asking]
        self._take(how, [hit for hit in hits if hit[1] in given], given)

    def _permuted(self) -> None:
        """Find tensors whose dimensions are in another order: first by a sum that does not depend on it."""

        def described(shown: _Shown) -> Hashable:
            dims = shown.dims
            fits = shown.is_movable and 1 < len(dims) <= _MAX_PERMUTED
            return (shown.kind, *sorted(shown.sizes(dims))) if fits else None

        kinds = [{described(shown) for shown in side} - {None} for side in self.rest]
        given: dict[Hashable, list[_Shown]] = {}
        totals: set[Hashable] = set()
        for shown in self.rest[1]:
            if described(shown) in kinds[0]:
                totals.add((shown.kind, shown.total()))
                given.setdefault((shown.kind, shown.sizes(shown.dims), shown.digest()), []).append(shown)
        asking = [s for s in self.rest[0] if described(s) in kinds[1] and (s.kind, s.total()) in totals]
        wanted = {key[:2] for key in given}  # type: ignore[index]  # the tuples made above
        self._take("permuted", filter(None, (_reordered(shown, given, wanted) for shown in asking)), given)

    def _cast(self, wide: int) -> None:
        """Find tensors of one side that are the other's, rounded; only those whose first elements are."""
        given: dict[Hashable, list[_Shown]] = {}
        hits: list[_Hit] = []
        for shown in self.rest[wide]:
            for narrow in [to for origin, to in NARROWED if origin == shown.record.dtype]:
                likely = [s for s in self.rest[1 - wide] if _begins_as(s, shown, narrow)]
                made = narrowed_digest(shown.record, narrow) if likely else b""
                equal = [s for s in likely if s.digest() == made]
                if equal:
                    given[shown.kind, narrow, made] = equal
                    hits.append((shown, (shown.kind, narrow, made), ""))
                    break
        self._take("cast", hits, given, wide)

    def _settle(self, same: _Same) -> None:
        """Turn tensors of the same values into pairs, or into a group where that would be a guess."""
        left, right = same.sides
        if len(left) == len(right) == 1:
            self._pair(left[0], right[0], same)
        elif self.ambiguous == "keep":
            self.found.groups.append(
                Group(
                    left=[name for shown in left for name in shown.names],
                    right=[name for shown in right for name in shown.names],
                    how=same.how,
                    detail=same.detail or _detail(same.how, left[0], right[0]),
                    what=_what(left[0]),
                    short=max(0, len(left) - len(right)),
                )
            )
        else:
            firsts = [{shown.names[0]: shown for shown in side} for side in same.sides]
            pairs: Iterable[tuple[str, str]] = zip(*firsts, strict=False)
            if self.ambiguous == "name":
                pairs = assign(list(firsts[0]), list(firsts[1]), self.found.names().items())
            for a, b in pairs:
                self._pair(firsts[0][a], firsts[1][b], same, by=self.ambiguous)

    def _pair(self, left: _Shown, right: _Shown, same: _Same, by: str = "value") -> None:
        detail = same.detail or _detail(same.how, left, right)
        names = list(zip(left.names, right.names, strict=False))
        if len(left.names) > 1 or len(right.names) > 1:
            by = "sharing" if by == "value" else by
            names = assign(left.names, right.names, self.found.names().items())
            paired = {name for pair in names for name in pair}
            names += [(name, right.names[0]) for name in left.names if name not in paired]
            names += [(left.names[0], name) for name in right.names if name not in paired]
        self.found.pairs += [Pair(left=a, right=b, how=same.how, detail=detail, by=by) for a, b in names]

    def _conclude(self) -> None:
        found, (left, right) = self.found, self.tensors
        at = {name: index for index, name in enumerate(left)}
        found.pairs.sort(key=lambda pair: at[pair.left])
        found.groups.sort(key=lambda group: at[group.left[0]])
        known_left = {pair.left for pair in found.pairs} | {name for group in found.groups for name in group.left}
        known_right = {pair.right for pair in found.pairs} | {name for group in found.groups for name in group.right}
        found.only_left = [name for name in left if name not in known_left]
        found.only_right = [name for name in right if name not in known_right]
        free = Counter((right[name].dtype, right[name].shape) for name in found.only_right)
        for name in found.only_left:
            kind = left[name].dtype, left[name].shape
            if free[kind]:
                free[kind] -= 1
                found.alike.append(name)


def _views(tensors: Mapping[str, TensorRecord]) -> list[_Shown]:
    """The tensors of one side, those that show the same elements of one storage together."""
    found: dict[Hashable, _Shown] = {}
    for name, record in tensors.items():
        key = (
            id(record.storage),
            record.storage_offset,
            record.shape,
            record.stride,
            record.dtype,
            record.conj,
            record.neg,
        )
        found.setdefault(key, _Shown(names=[], record=record)).names.append(name)
    return list(found.values())


def _reordered(shown: _Shown, given: Mapping[Hashable, object], wanted: set[Hashable]) -> _Hit | None:
    """The first order of a tensor's dimensions in which it is one of the given ones."""
    for order in islice(permutations(shown.dims), 1, None):  # the first is the order that it has
        sizes = shown.sizes(order)
        if (shown.kind, sizes) in wanted:
            made = shown.sum(order, lambda order=order: permuted_digest(shown.record, order))  # type: ignore[misc]  # bound
            if (shown.kind, sizes, made) in given:
                return shown, (shown.kind, sizes, made), f"dimensions {list(order)} of {list(shown.record.shape)}"
    return None


def _begins_as(shown: _Shown, wide: _Shown, narrow: str) -> bool:
    """Whether a tensor may be the wide one, rounded: it has the type, the shape, and the first elements."""
    if (shown.record.dtype, shown.record.shape, shown.kind[2:]) != (narrow, wide.record.shape, wide.kind[2:]):
        return False
    if not shown.is_movable or not wide.is_movable:
        return False
    a = shown.sum("probe", lambda: probe(shown.record))
    b = wide.sum(("probe", narrow), lambda: probe(wide.record, narrow))
    size = min(len(a), len(b))
    return a[:size] == b[:size]


def _detail(how: str, left: _Shown, right: _Shown) -> str:
    if how == "reshaped":
        return f"{list(left.record.shape)} as {list(right.record.shape)}"
    return f"{left.record.dtype} as {right.record.dtype}" if how == "cast" else ""


def _what(shown: _Shown) -> str:
    kind = f"{shown.record.dtype} of shape {list(shown.record.shape)}"
    return f"{kind}, all zero" if shown.record.numel and is_zero(shown.record) else kind
