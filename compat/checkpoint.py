"""The neutral model: what a file holds, whatever format it has, with no bytes read and nothing executed.

A checkpoint is a tree of plain values (dict, OrderedDict, list, tuple, set, str, bytes, numbers, None) whose
leaves may be the records of this module. An OrderedDict's `_metadata` attribute is kept as torch keeps it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from types import MappingProxyType, TracebackType
from typing import Any, Final

from compat.data import Data
from compat.dtypes import DTYPES
from compat.errors import Corrupt, Unsupported

Path = tuple[Any, ...]

# Deeper trees are refused: walking, copying and comparing them recurses once per level.
MAX_DEPTH: Final = 100

# How many values may be met again through containers that are held more than once. A list that holds
# another twice, which holds another twice…, has 2**n leaves in n containers.
MAX_REPEATS: Final = 1_000_000


@dataclass(slots=True, kw_only=True, eq=False)
class StorageRecord:
    """One allocation that tensors look into.

    Not frozen: legacy files say where a storage's bytes lie only after all tensors were described.

    Attributes:
        key: its name in the file, unique in the checkpoint.
        nbytes: its size in bytes.
        device: the device tag it was saved with, such as `cpu` or `cuda:0`.
        dtype: the element type of a typed storage; None for an untyped one.
        data: where the bytes lie; None for storages without bytes (the meta device).
        byteorder: how the bytes were written.
    """

    key: str
    nbytes: int
    device: str = "cpu"
    dtype: str | None = None
    data: Data | None = None
    byteorder: str = "little"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorRecord:
    """One strided tensor, without its data.

    Attributes:
        dtype: torch's name, such as `float32`.
        shape: the size of each dimension, in elements.
        stride: the step of each dimension, in elements.
        storage_offset: where the first element lies, in elements.
        kind: `tensor`, `parameter` or `buffer` (torch.nn.Buffer).
        conj: the complex-conjugate bit; neg: the negative bit. Both change values, not bytes.
        attributes: Python attributes that were saved with the tensor.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage_offset: int
    storage: StorageRecord
    requires_grad: bool = False
    kind: str = "tensor"
    conj: bool = False
    neg: bool = False
    attributes: Any = None

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return DTYPES[self.dtype].itemsize

    @property
    def numel(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without gaps."""
        return self.numel * self.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in order without gaps."""
        return is_contiguous(self.shape, self.stride)

    @property
    def covers_storage(self) -> bool:
        """Whether the elements are exactly the storage's bytes, in order."""
        return self.is_contiguous and self.storage_offset == 0 and self.nbytes == self.storage.nbytes


class Size(tuple[int, ...]):
    """A `torch.Size`, told apart from a plain tuple."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise Corrupt(f"a torch.Size is given a state: {state!r:.80}")


@dataclass(frozen=True, slots=True)
class TorchValue:
    """A torch constant that is no tensor: a dtype, device, layout, memory format or quantization scheme.

    Attributes:
        kind: `dtype`, `device`, `layout`, `memory_format` or `qscheme`.
        name: torch's name for it, such as `float32` or `cuda:0`.
    """

    kind: str
    name: str


class GlobalName(str):
    """The full name of a class or function, which remembers where its module ends."""

    __slots__ = ("module", "qualname")

    module: str
    qualname: str

    def __new__(cls, module: str, qualname: str) -> GlobalName:
        """Join the two parts."""
        made = super().__new__(cls, f"{module}.{qualname}")
        made.module, made.qualname = module, qualname
        return made

    @classmethod
    def parse(cls, name: str) -> GlobalName:
        """Split a full name at its last dot, unless it already knows better."""
        if isinstance(name, GlobalName):
            return name
        module, _, qualname = name.rpartition(".")
        return cls(module, qualname)


@dataclass(frozen=True, slots=True)
class GlobalRef:
    """A class or function named by the file as a value, and not imported."""

    name: str


class Opaque:
    """An object of a class that is not imported: what the file says of it, as inert data.

    Attributes:
        name: the full name of the class or function it would have been made by.
        args: the positional arguments; kwargs: the keyword arguments.
        state: what its `__setstate__` would have been given; None where there was nothing.
        items: what would have been appended to it; pairs: what would have been set as its items.
        made_by: `call` where it would have been called, `new` where only its `__new__` would have been.
    """

    __slots__ = ("args", "items", "kwargs", "made_by", "name", "pairs", "state")

    def __init__(self, name: str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.args = args
        self.kwargs = dict(kwargs or {})
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: list[tuple[Any, Any]] = []
        self.made_by = "new"

    def __repr__(self) -> str:
        return f"<Opaque {self.name}>"


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A bare storage used as a value, with the element type it was typed with."""

    storage: StorageRecord
    dtype: str


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


def children(node: Any) -> Iterator[tuple[Any, Any]]:
    """The steps and values directly below a container or an opaque object; nothing for a leaf."""
    if isinstance(node, dict):
        yield from dict.items(node)
        if type(node) is OrderedDict:
            yield from ((Attribute(name), value) for name, value in vars(node).items())
    elif isinstance(node, (list, tuple)):
        yield from enumerate(node)
    elif isinstance(node, Opaque):
        for name in ("args", "kwargs", "state", "items", "pairs"):
            value = getattr(node, name)
            if value not in (None, (), {}, []):
                yield Attribute(name), value
    elif isinstance(node, TensorRecord) and node.attributes:
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
        if not below or isinstance(node, (TensorRecord, Opaque)):
            yield frame.path, node
        if id(node) in frame.ancestors:
            continue
        if below:
            if len(frame.path) >= MAX_DEPTH:
                raise Unsupported(
                    f"containers nest deeper than {MAX_DEPTH} levels", feature="depth", expected="a flatter tree"
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
    return step if isinstance(step, str) else str(step)


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
    """Give each path a distinct name; where two would share one, the later ones get a `#2`, `#3`… behind it."""
    names: dict[str, Path] = {}
    for path in paths:
        base = name = ".".join(step_text(step) for step in path)
        count = 1
        while name in names:
            count += 1
            name = f"{base}#{count}"
        names[name] = path
    return names


def is_contiguous(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether elements with this shape and stride lie in order without gaps, by torch's rule.

    Dimensions of size one may have any stride, and a tensor without elements is always contiguous.
    """
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size == 0:
            return True
        if size != 1:
            if step != expected:
                return 0 in shape
            expected *= size
    return True


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """The stride, in elements, that torch gives a fresh tensor of this shape."""
    stride: list[int] = []
    step = 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return tuple(reversed(stride))


def check_bounds(record: TensorRecord, *, source: object = None, path: str = "") -> None:
    """Refuse a tensor that reaches outside its storage.

    Raises:
        Corrupt: a negative size, stride or offset, or an element behind the storage's end.
    """
    where = f"tensor {path!r}" if path else "a tensor"
    if len(record.shape) != len(record.stride):
        raise Corrupt(f"{where} has shape {record.shape} but stride {record.stride}", source=source)
    if record.storage_offset < 0 or min(record.shape, default=0) < 0 or min(record.stride, default=0) < 0:
        raise Corrupt(
            f"{where} has shape {record.shape}, stride {record.stride}, storage_offset {record.storage_offset}",
            source=source,
            expected="no negative number among them",
        )
    if 0 in record.shape or record.storage.data is None:
        return
    last = record.storage_offset + sum((n - 1) * s for n, s in zip(record.shape, record.stride, strict=True))
    needed = (last + 1) * record.itemsize
    if needed > record.storage.nbytes:
        raise Corrupt(
            f"{where} needs {needed:,} bytes of a storage of {record.storage.nbytes:,}", source=source
        )
