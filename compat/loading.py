"""From the neutral model to live torch objects, with no class of the file ever imported."""

from __future__ import annotations

import mmap as mmap_module
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from compat import arrays, composites
from compat.checkpoint import (
    Checkpoint,
    Composite,
    GlobalRef,
    NumpyArray,
    NumpyDType,
    Opaque,
    Path,
    Size,
    StorageRecord,
    StorageRef,
    TensorRecord,
    TorchValue,
    path_text,
    walk,
)
from compat.data import FileData, read
from compat.dtypes import DTYPES
from compat.errors import CompatError, Corrupt, MissingDependency, UnsafeGlobals, Unsupported
from compat.formats import all_formats, detect
from compat.formats._damage import explain
from compat.placing import restorer
from compat.records import MAX_INT64, TORCH_VALUES
from compat.recovery import is_module
from compat.schemes import is_url
from compat.sources import FileSource, SourceLike, open_source
from compat.strided import swap
from compat.suffixes import suffix_note
from compat.unpickling import load_unsafe
from compat.untyped import typed_storage, untyped_storage

MapLocation = Any
_INSTALL: Final = "python -m pip install torch (see pytorch.org for the build of your machine)"
# Tensor operations assume that elements are aligned; a mapped storage that is not is copied instead.
_ALIGNMENT: Final = 8


def local(src: SourceLike) -> SourceLike:
    """The same source on this machine: what a URL or a registered name stands for is downloaded once."""
    if not isinstance(src, str) or not is_url(src):
        return src
    from compat.remote import download

    return download(src)


def open_checkpoint(src: SourceLike) -> Checkpoint:
    """Open a checkpoint of any format without reading a tensor, importing torch or executing anything.

    Args:
        src: a path, a URL or registered name (read by ranges), a file object open for reading bytes, or bytes.

    Returns:
        The neutral model; use it as a context manager, it keeps the file open.

    Raises:
        Unreadable: there is nothing to read there.
        UnknownFormat: the content is none of the known formats; the message says what it seems to be.
        Corrupt: the content breaks the rules of its format.
    """
    source = open_source(src)
    try:
        found = detect(source)
        checkpoint = found.open(source)
    except CompatError as error:
        explain(error, source)
        source.close()
        error.source = error.source or source.name
        raise
    except BaseException:
        source.close()
        raise
    note = suffix_note(source.name, found, all_formats()) if source.path and not source.folder else None
    checkpoint.notes += [note] if note else []
    return checkpoint


def load(
    src: SourceLike,
    map_location: MapLocation = None,
    *,
    weights_only: bool = True,
    mmap: bool | None = None,
    on_unknown: str = "refuse",
    renamed: Mapping[str, str] | None = None,
) -> Any:
    """Load a checkpoint of any format as `torch.load` would, on every torch from 1.13 on.

    Args:
        src: a path, a URL or registered name (downloaded once), a file object open for reading bytes, or bytes.
        map_location: None, a device, its name, a dict of names, a function of (storage, name), or "meta".
        weights_only: True reads without importing or calling anything of the file. False hands a file that
            names classes or functions to torch's real unpickler, which executes what it says: only for files
            you trust.
        mmap: map the file instead of reading it. Tensors then show the file's pages, copied on write; their
            sums are not checked, since they are not read.
        on_unknown: what to do with objects of classes that are not imported: "refuse", or "keep" them as Opaque.
        renamed: for `weights_only=False`, where modules and classes that the file names are now:
            {"old.module": "new.module", "old.module.Net": "new.module.Net"}.

    Raises:
        MissingClass: with `weights_only=False`, the file names what is not there any more.
        UnsafeGlobals: the file holds such objects, and `on_unknown` is "refuse".
        Unsupported: a tensor's device or dtype is not to be had here.
        CompatError: the file cannot be read; see `open`.
    """
    if on_unknown not in ("refuse", "keep"):
        raise ValueError(f'on_unknown is {on_unknown!r}; expected "refuse" or "keep"')
    if renamed and weights_only:
        raise ValueError("renamed is for weights_only=False; otherwise no class is looked up")
    # What was read of an open file is kept: torch may have to read it again.
    source = open_source(local(src))
    with open_checkpoint(source) as checkpoint:
        try:
            return materialize(checkpoint, map_location, mmap=bool(mmap), on_unknown=on_unknown)
        except UnsafeGlobals:
            # Where there is nothing to execute, the inert reader gives what torch's would, and more of it.
            if weights_only:
                raise
    torch = import_torch("weights_only=False")
    return load_unsafe(torch, source, map_location, mmap=mmap, renamed=renamed)


def import_torch(needed_for: str) -> Any:
    """The torch module.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependency("torch", needed_for=needed_for, install=_INSTALL) from error
    return torch


def materialize(
    checkpoint: Checkpoint,
    map_location: MapLocation = None,
    *,
    mmap: bool = False,
    on_unknown: str = "refuse",
    tree: Any = None,
) -> Any:
    """The content of an open checkpoint (or `tree`, a part of it) as live torch objects."""
    content = checkpoint.tree if tree is None else tree
    if on_unknown == "refuse":
        refuse_unknown(content, checkpoint.source)
    try:
        return Materializer(map_location, mmap=mmap, source=checkpoint.source).tree(content, ())
    except CompatError as error:
        error.source = error.source or checkpoint.source
        raise


def refuse_unknown(tree: Any, source: str) -> None:
    """Raise `UnsafeGlobals` when a tree holds objects of classes that are not imported."""
    found: dict[str, list[str]] = {}
    module: str | None = None
    for path, leaf in walk(tree):
        if isinstance(leaf, (Opaque, GlobalRef)):
            found.setdefault(str(leaf.name), []).append(path_text(path))
            if module is None and is_module(leaf):
                module = path_text(path)
    if found:
        raise UnsafeGlobals(found, source=source, module=module)


class Materializer:
    """Builds live objects; each storage, tensor and container once, so that sharing survives."""

    def __init__(self, map_location: MapLocation, *, mmap: bool, source: str) -> None:
        self.torch = import_torch("loading tensors")
        self.restore = restorer(self.torch, map_location)
        self.meta = str(map_location) == "meta" if not callable(map_location) else False
        self.mmap = mmap
        self.source = source
        self.maps: dict[int, mmap_module.mmap] = {}
        self.storages: dict[int, Any] = {}
        self.done: dict[int, Any] = {}

    def tree(self, node: Any, path: Path) -> Any:
        """The live form of a value of the tree."""
        if node is None or isinstance(node, (str, bool, int, float, bytes, complex)):
            return node
        known = self.done.get(id(node))
        if known is not None:
            return known
        builder = _BUILDERS.get(type(node))
        made = builder(self, node, path) if builder else node
        self.done[id(node)] = made
        return made

    def _dict(self, node: dict[Any, Any], path: Path) -> Any:
        made: dict[Any, Any] = type(node)()
        self.done[id(node)] = made
        for key, value in dict.items(node):
            made[self.tree(key, path)] = self.tree(value, (*path, key))
        if isinstance(node, OrderedDict):
            vars(made).update({name: self.tree(value, (*path, name)) for name, value in vars(node).items()})
        return made

    def _list(self, node: list[Any], path: Path) -> list[Any]:
        made: list[Any] = []
        self.done[id(node)] = made
        made.extend(self.tree(value, (*path, index)) for index, value in enumerate(node))
        return made

    def _tuple(self, node: tuple[Any, ...], path: Path) -> tuple[Any, ...]:
        return tuple(self.tree(value, (*path, index)) for index, value in enumerate(node))

    def _set(self, node: Any, path: Path) -> Any:
        return type(node)(self.tree(member, path) for member in node)

    def _size(self, node: Size, _path: Path) -> Any:
        return self.torch.Size(node)

    def _torch_value(self, node: TorchValue, path: Path) -> Any:
        try:
            if node.kind == "device":
                return self.torch.device(node.name)
            # Only names that the neutral model knows are looked up: a file may claim any other.
            found = getattr(self.torch, node.name, None) if node in TORCH_VALUES else None
        except RuntimeError:
            found = None
        if found is None:
            raise self._unknown_here(node.kind, node.name, path)
        return found

    def _numpy(self, node: NumpyArray | NumpyDType, path: Path) -> Any:
        return arrays.live(node, path_text(path))

    def _opaque(self, node: Opaque, path: Path) -> Opaque:
        made = Opaque(node.name)
        made.made_by = node.made_by
        self.done[id(node)] = made
        for name in ("callee", "args", "kwargs", "state", "items", "pairs"):
            setattr(made, name, self.tree(getattr(node, name), (*path, name)))
        return made

    def _storage_ref(self, node: StorageRef, path: Path) -> Any:
        storage = self.storage(node.storage, node.dtype)
        if node.storage.dtype is None:
            return storage
        return typed_storage(self.torch, storage, self.dtype(node.dtype, path))

    def dtype(self, name: str, path: Path) -> Any:
        """The live dtype.

        Raises:
            Unsupported: this torch has none of that name.
        """
        found = getattr(self.torch, name, None)
        if not isinstance(found, self.torch.dtype):
            raise self._unknown_here("dtype", name, path)
        return found

    def _unknown_here(self, kind: str, name: str, path: Path) -> Unsupported:
        since = DTYPES[name].since if name in DTYPES else None
        return Unsupported(
            f"{path_text(path)} has the {kind} {name}, which torch {self.torch.__version__} does not know",
            feature=kind,
            paths=[path_text(path)],
            hint=f"torch {since} or newer has it." if since else None,
        )

    def _tensor(self, node: TensorRecord, path: Path) -> Any:
        torch = self.torch
        dtype = self.dtype(node.dtype, path)
        storage = self.storage(node.storage, node.dtype)
        try:
            with torch.no_grad():
                made = torch.empty((0,), dtype=dtype, device=storage.device)
                made.set_(storage, node.storage_offset, node.shape, node.stride)
                made = made.conj() if node.conj else made
                # torch has no public way to set the bit.
                made = torch._neg_view(made) if node.neg else made  # noqa: SLF001
        except RuntimeError as error:
            raise Corrupt(f"{path_text(path)} cannot be made: {error!s:.160}") from error
        made = self._graded(made, node.kind == "parameter", node.requires_grad, path)
        return self._attributed(made, node, path)

    def _attributed(self, made: Any, node: TensorRecord | Composite, path: Path) -> Any:
        if isinstance(node.attributes, dict):
            for name, value in node.attributes.items():
                if isinstance(name, str):
                    # Not setattr: properties such as `data` and `grad` would act on what they are given.
                    vars(made)[name] = self.tree(value, (*path, name))
        return made

    def _composite(self, node: Composite, path: Path) -> Any:
        parts = {
            name: value if name == "data" else self.tree(value, (*path, name)) for name, value in node.parts.items()
        }

        def fill(empty: Any) -> Any:
            data: TensorRecord = parts["data"]
            storage = self.storage(data.storage, data.dtype)
            if storage.device != empty.device:
                empty = empty.to(storage.device)
            return empty.set_(storage, data.storage_offset, data.shape, data.stride)

        made = composites.live(self.torch, node.kind, parts, fill)
        made = self._graded(made, node.parameter, node.requires_grad, path)
        return self._attributed(made, node, path)

    def _graded(self, made: Any, parameter: bool, requires_grad: bool, path: Path) -> Any:
        try:
            if parameter:
                return self.torch.nn.Parameter(made, requires_grad=requires_grad)
            return made.requires_grad_() if requires_grad else made
        except RuntimeError as error:
            raise Corrupt(f"{path_text(path)} of {made.dtype} claims to require a gradient") from error

    def storage(self, record: StorageRecord, dtype: str) -> Any:
        """The live untyped storage, on the device that `map_location` asks for."""
        made = self.storages.get(id(record))
        if made is None:
            made = self.storages[id(record)] = self._make_storage(record, dtype)
        return made

    def _make_storage(self, record: StorageRecord, dtype: str) -> Any:
        untyped = self.torch.UntypedStorage
        if record.data is None or self.meta:
            if record.nbytes > MAX_INT64:
                raise Unsupported(f"a storage on the meta device has {record.nbytes:,} bytes", feature="meta")
            return untyped(record.nbytes, device="meta")
        return self.restore(self._bytes(record, dtype), record.device)

    def _bytes(self, record: StorageRecord, dtype: str) -> Any:
        torch, data = self.torch, record.data
        if record.nbytes == 0 or data is None:
            return torch.UntypedStorage(0)
        if self.mmap and isinstance(data, FileData) and record.byteorder == "little" and data.offset % _ALIGNMENT == 0:
            mapped = self._map(data)
            if mapped is not None:
                made = torch.frombuffer(mapped, dtype=torch.uint8, offset=data.offset, count=record.nbytes)
                return untyped_storage(made)
        buffer = read(data)
        if record.byteorder == "big":
            buffer = swap(buffer, DTYPES[record.dtype or dtype].component)
        if not isinstance(buffer, bytearray):
            buffer = bytearray(buffer)
        return untyped_storage(torch.frombuffer(buffer, dtype=torch.uint8))

    def _map(self, data: FileData) -> mmap_module.mmap | None:
        if not isinstance(data.source, FileSource):
            return None
        mapped = self.maps.get(id(data.source))
        if mapped is None:
            mapped = self.maps[id(data.source)] = data.source.map()
        return mapped


_BUILDERS: Final[Mapping[type, Callable[[Materializer, Any, Path], Any]]] = {
    dict: Materializer._dict,  # noqa: SLF001 - the table of the class above
    OrderedDict: Materializer._dict,  # noqa: SLF001
    Counter: Materializer._dict,  # noqa: SLF001
    list: Materializer._list,  # noqa: SLF001
    tuple: Materializer._tuple,  # noqa: SLF001
    set: Materializer._set,  # noqa: SLF001
    frozenset: Materializer._set,  # noqa: SLF001
    NumpyArray: Materializer._numpy,  # noqa: SLF001
    NumpyDType: Materializer._numpy,  # noqa: SLF001
    Size: Materializer._size,  # noqa: SLF001
    TorchValue: Materializer._torch_value,  # noqa: SLF001
    Opaque: Materializer._opaque,  # noqa: SLF001
    StorageRef: Materializer._storage_ref,  # noqa: SLF001
    TensorRecord: Materializer._tensor,  # noqa: SLF001
    Composite: Materializer._composite,  # noqa: SLF001
}
