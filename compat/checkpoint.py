"""The neutral model: what a file holds, whatever format it has, with no bytes read and nothing executed.

A checkpoint is a tree of plain values (dict, OrderedDict, list, tuple, set, str, bytes, numbers, None) whose
leaves may be the records of this module. An OrderedDict's `_metadata` attribute is kept as torch keeps it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType, TracebackType
from typing import Any, Final

from compat.errors import Unsupported, brief
from compat.records import (
    Composite,
    GlobalName,
    GlobalRef,
    NumpyArray,
    NumpyDType,
    Opaque,
    Size,
    StorageRecord,
    StorageRef,
    TensorRecord,
    TorchValue,
    check_bounds,
    contiguous_stride,
    is_contiguous,
    sealed,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_REPEATS",
    "Attribute",
    "Checkpoint",
    "Composite",
    "GlobalName",
    "GlobalRef",
    "NumpyArray",
    "NumpyDType",
    "Opaque",
    "Path",
    "Size",
    "StorageRecord",
    "StorageRef",
    "TensorRecord",
    "TorchValue",
    "check_bounds",
    "check_key",
    "children",
    "contiguous_stride",
    "is_contiguous",
    "name_paths",
    "path_text",
    "sealed",
    "step_text",
    "walk",
]

Path = tuple[Any, ...]

# Deeper trees are refused: walking, copying and comparing them recurses once per level.
MAX_DEPTH: Final = 100

# Longer steps of a path are cut in names.
MAX_NAME: Final = 1000
MAX_NAMES: Final = 100_000_000

# How many values may be met again through containers that are held more than once. A list that holds
# another twice, which holds another twice…, has 2**n leaves in n containers.
MAX_REPEATS: Final = 1_000_000


class Checkpoint:
    """What one file holds. Use it as a context manager: it keeps the file open.

    Attributes:
        format: the format's name.
        source: the file's name as the user gave it.
        tree: the content.
        globals: the classes and functions that the file names, none of which was imported.
        metadata: facts of the container itself, such as a safetensors `__metadata__` or a zip's byteorder.
        notes: what a reader should know, for instance a suffix that says another format.
        carried: paths of values that only compat finds in the file, because its format has no place for them.
    """

    def __init__(
        self,
        *,
        format: str,  # noqa: A002 - the field's word
        tree: Any,
        source: str = "",
        globals: Sequence[str] = (),  # noqa: A002
        metadata: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
        carried: Sequence[str] = (),
        close: Callable[[], None] | None = None,
    ) -> None:
        self.format = format
        self.tree = tree
        self.source = source
        self.globals = tuple(globals)
        self.metadata = MappingProxyType(dict(metadata or {}))
        self.notes = list(notes)
        self.carried = tuple(carried)
        self._close = close

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; records stay readable, their bytes do not."""
        if self._close is not None:
            self._close()

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Each tensor's name and the path that leads to it, in the file's order."""
        return name_paths([path for path, leaf in walk(self.tree) if isinstance(leaf, TensorRecord)])

    @cached_property
    def tensors(self) -> Mapping[str, TensorRecord]:
        """Each tensor's name and its record, in the file's order."""
        found = [leaf for _, leaf in walk(self.tree) if isinstance(leaf, TensorRecord)]
        return MappingProxyType(dict(zip(self.paths, found, strict=True)))


@dataclass(frozen=True, slots=True)
class Attribute:
    """A step of a path that is an attribute rather than a key, such as `_metadata`."""

    name: str

    def __str__(self) -> str:
        return f".{self.name}"


@dataclass(slots=True)
class _Frame:
    path: Path
    node: Any
    ancestors: frozenset[int] = field(default_factory=frozenset)


def _holds(key: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(key, (tuple, frozenset)):
        return any(_holds(item, kinds) for item in key)
    return isinstance(key, kinds)


def _unhashable(key: Any) -> bool:
    if isinstance(key, (tuple, frozenset)):
        return any(_unhashable(item) for item in key)
    return isinstance(key, (TensorRecord, StorageRef, Composite)) or (isinstance(key, NumpyArray) and not key.scalar)


def check_key(key: Any) -> Any:
    """What is used as a key or as a member of a set: anything without tensors in it.

    Raises:
        Unsupported: there is a tensor or a storage in it.
    """
    if _unhashable(key):
        raise Unsupported(
            "a tensor is used as a key of a dict or as a member of a set",
            feature="keys",
            expected="tensors as values only",
        )
    return key


def children(node: Any) -> Iterator[tuple[Any, Any]]:
    """The steps and values directly below a container or an opaque object; nothing for a leaf.

    Opaque objects among the keys of a dict or the members of a set are values below it too.
    """
    if isinstance(node, (dict, set, frozenset)):
        names = enumerate(dict.keys(node) if isinstance(node, dict) else node)
        unknown = ((Attribute(f"key {n}"), key) for n, key in names if _holds(key, (Opaque, GlobalRef)))
        yield from unknown
    if isinstance(node, dict):
        yield from dict.items(node)
        if type(node) is OrderedDict:
            yield from ((Attribute(name), value) for name, value in vars(node).items())
    elif isinstance(node, (list, tuple)):
        yield from enumerate(node)
    elif isinstance(node, Opaque):
        for name in ("callee", "args", "kwargs", "state", "items", "pairs"):
            value = getattr(node, name)
            if value not in (None, (), {}, []):
                yield Attribute(name), value
    elif isinstance(node, (TensorRecord, Composite)):
        if isinstance(node, Composite):
            yield from ((Attribute(name), value) for name, value in node.parts.items())
        elif node.subclass is not None:
            yield Attribute("subclass"), node.subclass
        if node.attributes:
            yield Attribute("attributes"), node.attributes


def walk(tree: Any) -> Iterator[tuple[Path, Any]]:
    """Every leaf and every record of a tree with its path, depth first, in order.

    Tensors inside opaque objects are reached too. A container that holds itself is entered once.

    Raises:
        Unsupported: the tree nests deeper than `MAX_DEPTH`, or repeats itself more than `MAX_REPEATS` times.
    """
    stack: list[_Frame] = [_Frame((), tree)]
    entered: set[int] = set()
    repeats = 0
    while stack:
        frame = stack.pop()
        node = frame.node
        below = [] if isinstance(node, (str, bytes, int, float)) else list(children(node))
        if not below or isinstance(node, (TensorRecord, Opaque, Composite, set, frozenset)):
            yield frame.path, node
        if id(node) in frame.ancestors:
            continue
        if below:
            if len(frame.path) >= MAX_DEPTH:
                raise Unsupported(
                    f"containers nest deeper than {MAX_DEPTH} levels",
                    feature="depth",
                    expected="a flatter tree",
                )
            if id(node) in entered:
                repeats += len(below)
                if repeats > MAX_REPEATS:
                    raise Unsupported("containers hold each other over and over", feature="repeats")
            entered.add(id(node))
            inside = frame.ancestors | {id(node)}
            stack.extend(_Frame((*frame.path, step), value, inside) for step, value in reversed(below))


def step_text(step: Any) -> str:
    """One step of a path as a name shows it."""
    if isinstance(step, (str, Attribute)):
        return str(step)
    return f"<{step.name}>" if isinstance(step, (Opaque, GlobalRef, TorchValue)) else brief(step, MAX_NAME)


def path_text(path: Path) -> str:
    """A path as people write it: `state_dict.conv1.weight`, `optimizer.state.0.exp_avg`."""
    if not path:
        return "(the whole file)"
    text = ""
    for step in path:
        shown = step_text(step) or "''"
        text += shown if isinstance(step, Attribute) or not text else f".{shown}"
    return text


def name_paths(paths: Sequence[Path]) -> dict[str, Path]:
    """Give each path a distinct name; where two would share one, the later ones get a `#2`, `#3`… behind it.

    Raises:
        Unsupported: the names together are longer than `MAX_NAMES`, as below one very long key.
    """
    names: dict[str, Path] = {}
    counts: dict[str, int] = {}
    total = 0
    for path in paths:
        base = name = ".".join(step.name if isinstance(step, Attribute) else step_text(step) for step in path)
        while name in names:
            counts[base] = counts.get(base, 1) + 1
            name = f"{base}#{counts[base]}"
        names[name] = path
        total += len(name)
        if total > MAX_NAMES:
            raise Unsupported(f"the names of its tensors are longer than {MAX_NAMES:,} characters", feature="names")
    return names
