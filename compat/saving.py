"""From live torch objects to the neutral model, and to a file of any format, whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, Final

from compat import arrays, composites, formats
from compat.atomic import Counted, atomic_files, atomic_target, check_target, target_path, write_to
from compat.checkpoint import (
    MAX_DEPTH,
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
    check_key,
    path_text,
)
from compat.data import MemoryData
from compat.dtypes import DTYPES
from compat.errors import CompatError, Unsupported
from compat.formats import Format, WriteOptions, Written
from compat.loading import import_torch
from compat.records import TORCH_VALUES, UNTYPED_DTYPE
from compat.untyped import untyped_storage


def save(obj: Any, dst: Any, *, format: str | None = None, overwrite: bool = False) -> Written:  # noqa: A002
    """Save a state_dict, or any tree of tensors and plain values, as a file of any format.

    Args:
        obj: dicts, OrderedDicts, lists, tuples, sets, numbers, text, bytes and tensors, in any nesting.
        dst: a path, or a file object open for writing bytes.
        format: the format's name; None goes by the suffix.
        overwrite: replace an existing file.

    Returns:
        What was carried beside the tensors, and what was renamed.

    Raises:
        Unsupported: the object or the format cannot hold it; nothing is written then.
        TargetExists: there is a file and `overwrite` is False.
    """
    if isinstance(dst, (str, os.PathLike)):
        target = target_path(dst)
        chosen = formats.get(format) if format else formats.for_target(target)
        check_target(target, overwrite=overwrite, folder=chosen.shape == "folder")
        with staged(chosen, capture(obj), target, WriteOptions(), overwrite=overwrite) as (_, written):
            return written
    buffer = io.BytesIO()
    written = write(formats.get(format or formats.DEFAULT), capture(obj), buffer, WriteOptions())
    write_to(dst, buffer)
    return written


@contextlib.contextmanager
def staged(
    chosen: Format, checkpoint: Checkpoint, target: FilePath, options: WriteOptions, *, overwrite: bool
) -> Iterator[tuple[FilePath, Written]]:
    """Write a checkpoint beside `target`, which it becomes when the block ends without an error.

    Gives the path where it lies until then, and what the writer says.

    Raises:
        Unsupported: the format is only read, or cannot hold the content.
        TargetExists: there is a file and `overwrite` is False.
    """
    options = replace(options, name=target.stem or "archive", filename=target.name)
    if chosen.write_files is None:
        with atomic_target(target, overwrite=overwrite) as file:
            counted = file if options.progress is None else Counted(file, options.progress)
            written = write(chosen, checkpoint, counted, options)
            file.flush()
            yield FilePath(file.name), written
        return
    is_folder = chosen.shape == "folder"
    with atomic_files(target, overwrite=overwrite, folder=is_folder) as folder:
        try:
            written = chosen.write_files(checkpoint, folder, options)
        except Unsupported as error:
            error.source = error.source or f"as {chosen.name}"
            raise
        yield folder if is_folder else folder / target.name, written


def write(chosen: Format, checkpoint: Checkpoint, file: Any, options: WriteOptions) -> Written:
    """Write a checkpoint in one format.

    Raises:
        Unsupported: the format is only read, or cannot hold the content.
    """
    if chosen.write is None:
        several = chosen.write_files is not None
        raise Unsupported(
            f"{chosen.name} is several files" if several else f"{chosen.name} can be read, not written",
            feature="write",
            expected="a path"
            if several
            else f"one of {', '.join(f.name for f in formats.all_formats() if f.writable)}",
        )
    try:
        return chosen.write(checkpoint, file, options)
    except Unsupported as error:
        if error.source is None:
            error.source = f"as {chosen.name}"
        raise
    except CompatError as error:
        error.source = error.source or checkpoint.source or None
        raise


def capture(obj: Any) -> Checkpoint:
    """The neutral model of live objects. Nothing is copied: the records show the tensors' own memory.

    Raises:
        Unsupported: an object has no neutral form.
    """
    return Checkpoint(format="live", tree=_Capturer().tree(obj, ()))


class _Capturer:
    def __init__(self) -> None:
        self.torch = import_torch("saving tensors")
        self.done: dict[int, Any] = {}
        self.kept: list[Any] = []
        self.storages: dict[int, StorageRecord] = {}

    def tree(self, node: Any, path: Path) -> Any:
        if node is None or type(node) in _ATOMS:
            return node
        if id(node) in self.done:
            return self.done[id(node)]
        if len(path) > MAX_DEPTH:
            raise Unsupported(f"containers nest deeper than {MAX_DEPTH} levels", feature="depth")
        self.kept.append(node)
        made = self._make(node, path)
        self.done[id(node)] = made
        return made

    def _make(self, node: Any, path: Path) -> Any:
        torch = self.torch
        builder = _CONTAINERS.get(type(node))
        if builder is not None:
            return builder(self, node, path)
        if isinstance(node, torch.Tensor):
            return self._tensor(node, path)
        if isinstance(node, (torch.UntypedStorage, torch.storage.TypedStorage)):
            return self._storage_ref(node, path)
        if isinstance(node, torch.Size):
            return Size(node)
        for kind, type_ in (("dtype", torch.dtype), ("device", torch.device), ("layout", torch.layout)):
            if isinstance(node, type_):
                return self._torch_value(TorchValue(kind, str(node).removeprefix("torch.")), path)
        if isinstance(node, (torch.memory_format, torch.qscheme)):
            return self._torch_value(TorchValue(type(node).__name__, str(node).removeprefix("torch.")), path)
        if isinstance(node, (Opaque, GlobalRef, StorageRef, NumpyArray, NumpyDType)):
            return node
        array = arrays.from_live(node, path_text(path))
        if array is not None:
            return array
        hint = "Save its state_dict() instead." if isinstance(node, torch.nn.Module) else None
        raise Unsupported(
            f"{path_text(path)} is a {type(node).__module__}.{type(node).__qualname__}",
            feature="opaque",
            paths=[path_text(path)],
            expected="tensors and plain values",
            hint=hint,
        )

    def _dict(self, node: dict[Any, Any], path: Path) -> Any:
        made: dict[Any, Any] = type(node)()
        self.done[id(node)] = made
        for key, value in dict.items(node):
            made[check_key(self.tree(key, path))] = self.tree(value, (*path, key))
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
        return type(node)(check_key(self.tree(value, path)) for value in node)

    @staticmethod
    def _torch_value(value: TorchValue, path: Path) -> TorchValue:
        if value.kind != "device" and value not in TORCH_VALUES:
            where = path_text(path)
            raise Unsupported(f"{where} is the {value.kind} {value.name}", feature=value.kind, paths=[where])
        return value

    def _tensor(self, tensor: Any, path: Path) -> TensorRecord | Composite:
        torch = self.torch
        where = path_text(path)
        named = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
        plain = (torch.Tensor, torch.nn.Parameter, getattr(torch.nn, "Buffer", None))
        if type(tensor) not in plain and named != composites.JAGGED_CLASS:
            raise Unsupported(
                f"{where} is a {named}",
                feature="subclass",
                paths=[where],
                expected="a plain torch.Tensor or Parameter",
            )
        made = composites.take_apart(torch, tensor)
        if made is not None:
            return self._composite(tensor, *made, path)
        return self._record(tensor, path)

    def _composite(self, tensor: Any, kind: str, parts: dict[str, Any], path: Path) -> Composite:
        return Composite(
            kind=kind,
            parts={name: self._part(kind, name, value, path) for name, value in parts.items()},
            requires_grad=tensor.requires_grad,
            parameter=isinstance(tensor, self.torch.nn.Parameter),
            attributes=self._attributes(tensor, path),
        )

    def _part(self, kind: str, name: str, value: Any, path: Path) -> Any:
        if name == "data":
            return self._record(value, path)
        if kind == "jagged" and isinstance(value, self.torch.Tensor):
            # Without the marks of torch's compiler, which every jagged tensor puts on its parts anew.
            if id(value) not in self.done:
                self.kept.append(value)
                self.done[id(value)] = replace(self._record(value.detach(), (*path, name)), requires_grad=False)
            return self.done[id(value)]
        return self.tree(value, (*path, name))

    def _attributes(self, tensor: Any, path: Path) -> Any:
        attributes = composites.attributes_of(tensor)
        return self.tree(attributes, (*path, "attributes")) if attributes else None

    def _record(self, tensor: Any, path: Path) -> TensorRecord:
        torch, where = self.torch, path_text(path)
        name = str(tensor.dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise Unsupported(f"{where} has dtype {name}", feature="dtype", paths=[where])
        return TensorRecord(
            dtype=name,
            shape=tuple(tensor.shape),
            stride=tuple(tensor.stride()),
            storage_offset=tensor.storage_offset(),
            storage=self._storage(untyped_storage(tensor)),
            requires_grad=tensor.requires_grad,
            kind="parameter" if isinstance(tensor, torch.nn.Parameter) else "tensor",
            conj=tensor.is_conj(),
            neg=tensor.is_neg(),
            attributes=self._attributes(tensor, path),
        )

    def _storage_ref(self, storage: Any, path: Path) -> StorageRef:
        """A bare storage; a typed one says its type."""
        if isinstance(storage, self.torch.UntypedStorage):
            return StorageRef(self._storage(storage), UNTYPED_DTYPE)
        name = str(storage.dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise Unsupported(f"{path_text(path)} has dtype {name}", feature="dtype", paths=[path_text(path)])
        # The public way warns, and the field had another name before torch 2.0.
        record = self._storage(vars(storage).get("_untyped_storage", vars(storage).get("_storage")))
        record.dtype = name
        return StorageRef(record, name)

    def _storage(self, storage: Any) -> StorageRecord:
        known = self.storages.get(storage._cdata)  # noqa: SLF001 - the only identity a storage has
        if known is None:
            device = str(storage.device)
            record = StorageRecord(key=str(len(self.storages)), nbytes=storage.nbytes(), device=device)
            if device != "meta":
                record.data = MemoryData(_memory(storage if device == "cpu" else storage.cpu()))
            self.kept.append(storage)
            known = self.storages[storage._cdata] = record  # noqa: SLF001
        return known


def _memory(storage: Any) -> memoryview:
    """A storage's own memory; the view keeps the storage alive."""
    size = storage.nbytes()
    if size == 0:
        return memoryview(b"")
    window = (ctypes.c_char * size).from_address(storage.data_ptr())
    window.storage = storage
    return memoryview(window).cast("B")


_ATOMS: Final = frozenset({bool, int, float, str, bytes, bytearray, complex})
_CONTAINERS: Final[dict[type, Callable[[_Capturer, Any, Path], Any]]] = {
    dict: _Capturer._dict,  # noqa: SLF001 - the table of the class above
    OrderedDict: _Capturer._dict,  # noqa: SLF001
    Counter: _Capturer._dict,  # noqa: SLF001
    list: _Capturer._list,  # noqa: SLF001
    tuple: _Capturer._tuple,  # noqa: SLF001
    set: _Capturer._set,  # noqa: SLF001
    frozenset: _Capturer._set,  # noqa: SLF001
}
