"""What a golden file must read back as, held against what was read: in the file's own terms, and strictly.

What is compared depends on what the file holds. Not compared, since the format or torch's own writer does not keep
it: see `_RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from matrix.corpus.index import Golden
from matrix.gathering import visible
from matrix.nodes import DictNode, ListNode, Node, StrNode, TensorNode
from matrix.spec import CheckpointSpec, compare

Judge = Callable[[CheckpointSpec, CheckpointSpec, frozenset[str]], list[str]]


def differences(golden: Golden, seen: CheckpointSpec, ignore: frozenset[str] = frozenset()) -> list[str]:
    """Every difference between a golden file's truth and what was read from it, as sentences.

    Args:
        golden: the file.
        seen: what was read.
        ignore: the facets that the reader has no place for, beside those that such a file does not keep.
    """
    rule = _RULES[golden.holds]
    return rule.judge(golden.truth, seen, rule.ignore | ignore)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    """How files that hold one kind of thing are judged.

    Attributes:
        ignore: the facets of a comparison that such files do not keep.
    """

    judge: Judge
    ignore: frozenset[str] = frozenset()


def _whole(truth: CheckpointSpec, seen: CheckpointSpec, ignore: frozenset[str]) -> list[str]:
    return [str(difference) for difference in compare(truth, seen, ignore=ignore)]


def _module(truth: CheckpointSpec, seen: CheckpointSpec, ignore: frozenset[str]) -> list[str]:
    """As the whole, but for the versions of classes that only their own code knows: a file does not say them."""
    found = compare(truth, seen, ignore=ignore)
    return [str(one) for one in found if not (one.facet == "metadata" and one.actual == "no such key")]


def part(spec: CheckpointSpec, *keys: str) -> CheckpointSpec | None:
    """What lies under string keys; None where there is no such key."""
    node = spec.tree
    for key in keys:
        if not isinstance(node, DictNode):
            return None
        found = dict(node.items).get(StrNode(value=key))
        if found is None:
            return None
        node = found
    return CheckpointSpec(storages=spec.storages, tree=node).normalized()


def _script(truth: CheckpointSpec, seen: CheckpointSpec, ignore: frozenset[str]) -> list[str]:
    """The state, and those attributes that the author of the module gave it; torch adds some of its own."""
    found = []
    given = part(truth, "attributes")
    items = given.tree.items if given is not None and isinstance(given.tree, DictNode) else ()
    names = [key.value for key, _ in items if isinstance(key, StrNode)]
    for keys in [("state_dict",), *(("attributes", name) for name in names)]:
        expected, actual = part(truth, *keys), part(seen, *keys)
        lines = [f"there is no {keys[-1]}"] if expected is None or actual is None else _whole(expected, actual, ignore)
        found += [f"{keys[-1]}: {line}" for line in lines]
    return found


def _export(truth: CheckpointSpec, seen: CheckpointSpec, ignore: frozenset[str]) -> list[str]:
    found = []
    for name in ("state_dict", "constants"):
        expected, actual = part(truth, name), part(seen, name)
        if expected is None or actual is None:
            if expected is not None and list(expected.tensors()):
                found.append(f"there is no {name}, expected {sum(1 for _ in expected.tensors())} tensors")
            continue
        found += [f"{name}: {line}" for line in _whole(expected, actual, ignore)]
    return found


def _values(spec: CheckpointSpec) -> list[tuple[str, tuple[int, ...], bytes]]:
    """Every tensor's dtype, shape and elements, in an order of their own."""
    return sorted(
        (node.dtype, node.shape, bytes(visible(node, spec.storages[node.storage].data) or b""))
        for _, node in spec.tensors()
    )


def _unnamed(key: str | None) -> Judge:
    """Judge tensors by their values alone, where names and order are the writer's own."""

    def judge(truth: CheckpointSpec, seen: CheckpointSpec, _ignore: frozenset[str]) -> list[str]:
        found = seen if key is None else part(seen, key)
        actual = [] if found is None else _values(found)
        missing = [value for value in _values(truth) if value not in actual]
        extra = [value for value in actual if value not in _values(truth)]
        return [f"missing {_shown(value)}" for value in missing] + [f"too many: {_shown(value)}" for value in extra]

    return judge


def _shown(value: tuple[str, tuple[int, ...], bytes]) -> str:
    return f"{value[0]} {list(value[1])} {value[2][:32].hex()}"


def _by_name(truth: CheckpointSpec, seen: CheckpointSpec, ignore: frozenset[str]) -> list[str]:
    return _whole(_sorted(truth), _sorted(seen), ignore)


def _sorted(spec: CheckpointSpec) -> CheckpointSpec:
    """The tensors by their dotted names."""
    rows = sorted(_named(spec.tree, ""), key=lambda row: row[0])
    tree = DictNode(items=tuple((StrNode(value=name), node) for name, node in rows))
    return CheckpointSpec(storages=spec.storages, tree=tree).normalized()


def _named(node: Node, name: str) -> list[tuple[str, TensorNode]]:
    if isinstance(node, TensorNode):
        return [(name, node)]
    rows: list[tuple[str, Node]] = []
    if isinstance(node, DictNode):
        rows = [(key.value, value) for key, value in node.items if isinstance(key, StrNode)]
    elif isinstance(node, ListNode):
        rows = [(str(place), value) for place, value in enumerate(node.items)]
    return [found for key, value in rows for found in _named(value, f"{name}.{key}" if name else key)]


# What the layout of such a file, or torch when it writes one, does not keep.
_NO_METADATA: Final = frozenset({"metadata"})
_CONTIGUOUS: Final = frozenset({"stride", "storage-offset", "storage-bytes", "aliasing"})

_RULES: Final[Mapping[str, _Rule]] = {
    "tree": _Rule(judge=_whole),
    "module": _Rule(judge=_module),
    "script": _Rule(judge=_script, ignore=_NO_METADATA),
    "constants": _Rule(judge=_unnamed("constants")),
    "export": _Rule(judge=_export, ignore=_NO_METADATA | {"key-order", "type"}),
    "initializers": _Rule(judge=_unnamed(None)),
    "tensors": _Rule(judge=_by_name, ignore=_CONTIGUOUS),
    "arrays": _Rule(judge=_by_name, ignore=_CONTIGUOUS),
    "folder": _Rule(judge=_by_name, ignore=_CONTIGUOUS),
}
