"""Write a neutral tree as the pickle stream that torch would have written, importing nothing.

The stream is protocol 2, torch's default since ever, and names torch's own rebuild functions, so that every
torch reads it. Source of the opcodes: CPython's `Lib/pickle.py`; of the calls: `torch/_tensor.py` and
`torch/nn/parameter.py` (`__reduce_ex__`).
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

from compat.arrays import to_opaque
from compat.checkpoint import (
    MAX_DEPTH,
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
    path_text,
)
from compat.composites import KEEPS_GRADIENT, TYPED_CALL, to_call
from compat.dtypes import DTYPES
from compat.errors import Unsupported

UNTYPED: Final = "torch.storage.UntypedStorage"
_BATCH: Final = 1000
_SMALL: Final = 256

PersistentId = Callable[[StorageRecord, str | None], tuple[Any, ...]]


def storage_class(dtype: str | None) -> GlobalRef:
    """The storage class that torch names for an element type; the untyped one where there is none."""
    name = DTYPES[dtype].storage if dtype else None
    return GlobalRef(GlobalName("torch", name) if name else GlobalName("torch.storage", "UntypedStorage"))


class PickleWriter:
    """Turns trees into streams.

    Args:
        persistent_id: what stands for a storage in the stream, given the storage and how it is typed.
        untyped: keys of the storages that must not be typed, because tensors of several dtypes share them.
    """

    def __init__(self, persistent_id: PersistentId | None = None, *, untyped: Iterable[str] = ()) -> None:
        self._persistent_id = persistent_id
        self._untyped = frozenset(untyped)
        self._out: list[bytes] = []
        self._memo: dict[int, int] = {}
        self._texts: dict[str, int] = {}
        self._globals: dict[str, int] = {}
        self._kept: list[Any] = []
        self._stored = 0

    def dumps(self, tree: Any) -> bytes:
        """The stream of one tree.

        Raises:
            Unsupported: something in it has no inert form.
        """
        self.__init__(self._persistent_id, untyped=self._untyped)  # type: ignore[misc]  # every stream has its own memo
        self._out.append(b"\x80\x02")
        self._save(tree, ())
        self._out.append(b".")
        return b"".join(self._out)

    def _put(self) -> int:
        index = self._stored
        self._stored += 1
        self._out.append(b"q" + bytes([index]) if index < _SMALL else b"r" + struct.pack("<I", index))
        return index

    def _get(self, index: int) -> None:
        self._out.append(b"h" + bytes([index]) if index < _SMALL else b"j" + struct.pack("<I", index))

    def _remember(self, node: Any) -> None:
        self._memo[id(node)] = self._put()
        self._kept.append(node)

    def _save(self, node: Any, path: tuple[Any, ...]) -> None:
        if len(path) > 2 * MAX_DEPTH:
            raise Unsupported(f"containers nest deeper than {MAX_DEPTH} levels", feature="depth")
        scalar = _SCALARS.get(type(node))
        if scalar is not None:
            self._out.append(scalar(node))
        elif type(node) is str:
            self._text(node)
        elif id(node) in self._memo:
            self._get(self._memo[id(node)])
        else:
            saver = _SAVERS.get(type(node))
            if saver is None:
                raise Unsupported(
                    f"{path_text(path)} is a {type(node).__module__}.{type(node).__qualname__}",
                    feature="opaque",
                    paths=[path_text(path)],
                    expected="tensors and plain values",
                )
            saver(self, node, path)

    def _text(self, text: str) -> None:
        index = self._texts.get(text)
        if index is not None:
            self._get(index)
            return
        encoded = text.encode("utf-8", "surrogatepass")
        self._out.append(b"X" + struct.pack("<I", len(encoded)) + encoded)
        self._texts[text] = self._put()

    def _global(self, name: str) -> None:
        index = self._globals.get(name)
        if index is not None:
            self._get(index)
            return
        full = GlobalName.parse(name)
        if "." in full.qualname or "\n" in name or not name.isascii():
            raise Unsupported(f"the nested name {name!r} has no form in pickle protocol 2", feature="opaque")
        module = "__builtin__" if full.module == "builtins" else full.module
        self._out.append(f"c{module}\n{full.qualname}\n".encode("ascii"))
        self._globals[name] = self._put()

    def _call(self, name: str, args: tuple[Any, ...], path: tuple[Any, ...]) -> None:
        self._global(name)
        self._tuple_body(args, path)
        self._out.append(b"R")

    def _tuple_body(self, items: tuple[Any, ...], path: tuple[Any, ...]) -> None:
        if len(items) > 3:  # noqa: PLR2004 - TUPLE1 to TUPLE3
            self._out.append(b"(")
        for index, item in enumerate(items):
            self._save(item, (*path, index))
        self._out.append((b")", b"\x85", b"\x86", b"\x87")[len(items)] if len(items) <= 3 else b"t")  # noqa: PLR2004

    def _bytes(self, node: bytes, path: tuple[Any, ...]) -> None:
        self._call("_codecs.encode", (node.decode("latin-1"), "latin1"), path)
        self._remember(node)

    def _bytearray(self, node: bytearray, path: tuple[Any, ...]) -> None:
        self._call("builtins.bytearray", (node.decode("latin-1"), "latin-1"), path)
        self._remember(node)

    def _complex(self, node: complex, path: tuple[Any, ...]) -> None:
        self._call("builtins.complex", (node.real, node.imag), path)
        self._remember(node)

    def _tuple(self, node: tuple[Any, ...], path: tuple[Any, ...]) -> None:
        self._tuple_body(node, path)
        if id(node) in self._memo:  # it holds itself, and was written from inside
            self._out.append(b"0")
            self._get(self._memo[id(node)])
        elif node:
            self._remember(node)

    def _list(self, node: list[Any], path: tuple[Any, ...]) -> None:
        self._out.append(b"]")
        self._remember(node)
        self._fill_list(node, path)

    def _fill_list(self, items: list[Any], path: tuple[Any, ...]) -> None:
        for begin in range(0, len(items), _BATCH):
            self._out.append(b"(")
            for index, item in enumerate(items[begin : begin + _BATCH], begin):
                self._save(item, (*path, index))
            self._out.append(b"e")

    def _dict(self, node: dict[Any, Any], path: tuple[Any, ...]) -> None:
        self._out.append(b"}")
        self._remember(node)
        self._fill_dict(list(dict.items(node)), path)

    def _fill_dict(self, pairs: list[tuple[Any, Any]], path: tuple[Any, ...]) -> None:
        for begin in range(0, len(pairs), _BATCH):
            self._out.append(b"(")
            for key, value in pairs[begin : begin + _BATCH]:
                self._save(key, path)
                self._save(value, (*path, key))
            self._out.append(b"u")

    def _ordered_dict(self, node: OrderedDict[Any, Any], path: tuple[Any, ...]) -> None:
        self._call("collections.OrderedDict", (), path)
        self._remember(node)
        self._fill_dict(list(dict.items(node)), path)
        if vars(node):
            self._dict(dict(vars(node)), path)
            self._out.append(b"b")

    def _counter(self, node: Counter[Any], path: tuple[Any, ...]) -> None:
        self._call("collections.Counter", (dict(node),), path)
        self._remember(node)

    def _set(self, node: set[Any], path: tuple[Any, ...]) -> None:
        self._call("builtins.set", (list(node),), path)
        self._remember(node)

    def _frozenset(self, node: frozenset[Any], path: tuple[Any, ...]) -> None:
        self._call("builtins.frozenset", (list(node),), path)
        self._remember(node)

    def _size(self, node: Size, path: tuple[Any, ...]) -> None:
        self._call("torch.Size", (tuple(node),), path)
        self._remember(node)

    def _torch_value(self, node: TorchValue, path: tuple[Any, ...]) -> None:
        if node.kind == "device":
            kind, _, index = node.name.partition(":")
            self._call("torch.device", (kind, int(index)) if index else (kind,), path)
        elif node.kind == "layout":
            self._call("torch.serialization._get_layout", (f"torch.{node.name}",), path)
        else:
            self._global(f"torch.{node.name}")

    def _global_ref(self, node: GlobalRef, _path: tuple[Any, ...]) -> None:
        self._global(node.name)

    def _opaque(self, node: Opaque, path: tuple[Any, ...]) -> None:
        if node.kwargs:
            raise Unsupported(
                f"{path_text(path)} is made with keyword arguments", feature="opaque", paths=[path_text(path)]
            )
        if node.callee is None:
            self._global(node.name)
        else:
            self._save(node.callee, path)
        self._tuple_body(node.args, path)
        self._out.append(b"R" if node.made_by == "call" else b"\x81")
        self._remember(node)
        self._fill_list(node.items, path)
        self._fill_dict(node.pairs, path)
        if node.state is not None:
            self._save(node.state, path)
            self._out.append(b"b")

    def _numpy(self, node: NumpyArray | NumpyDType, path: tuple[Any, ...]) -> None:
        described = to_opaque(node)
        self._opaque(described, path)
        self._memo[id(node)] = self._memo[id(described)]
        self._kept.append(node)

    def _storage_ref(self, node: StorageRef, path: tuple[Any, ...]) -> None:
        self._storage(node.storage, node.dtype if node.storage.dtype else None, path)

    def _storage(self, storage: StorageRecord, dtype: str | None, path: tuple[Any, ...]) -> None:
        if self._persistent_id is None:
            raise Unsupported(f"{path_text(path)} is a storage", feature="storage", paths=[path_text(path)])
        self._tuple_body(self._persistent_id(storage, dtype), path)
        self._out.append(b"Q")

    def _tensor(self, node: TensorRecord, path: tuple[Any, ...]) -> None:
        if node.kind == "parameter":
            self._parameter(node, *self._tensor_call(node, requires_grad=False), path)
        else:
            self._made(*self._tensor_call(node), node, path)
        self._remember(node)

    def _made(self, name: str, args: tuple[Any, ...], node: TensorRecord | Composite, path: tuple[Any, ...]) -> None:
        """A call of a rebuild function; one with a class or attributes through the function for those."""
        subclass = node.subclass.name if isinstance(node, TensorRecord) and node.subclass else "torch.Tensor"
        typed = name != TYPED_CALL and bool(node.attributes or subclass != "torch.Tensor")
        if typed:
            self._global(TYPED_CALL)
            self._out.append(b"(")
        self._global(name)
        if typed:
            self._global(subclass)
        self._tensor_args(args, path)
        if typed:
            self._save(node.attributes, path)
        self._out.append(b"tR" if typed else b"R")

    def _composite(self, node: Composite, path: tuple[Any, ...]) -> None:
        name, args = to_call(node)
        if node.requires_grad and not node.parameter and name not in KEEPS_GRADIENT:
            raise Unsupported(
                f"{path_text(path)} is a {node.kind} tensor that requires a gradient",
                feature="requires_grad",
                paths=[path_text(path)],
                hint="torch's own files lose that: save its detach(), or a Parameter.",
            )
        if node.parameter:
            self._parameter(node, name, args, path)
        else:
            self._made(name, args, node, path)
        self._remember(node)

    def _parameter(
        self, node: TensorRecord | Composite, name: str, args: tuple[Any, ...], path: tuple[Any, ...]
    ) -> None:
        self._global("torch._utils._rebuild_parameter" + ("_with_state" if node.attributes else ""))
        self._out.append(b"(")
        self._global(name)
        self._tensor_args(args, path)
        self._out.append(b"R")
        self._save(node.requires_grad, path)
        self._save(OrderedDict(), path)
        if node.attributes:
            self._save(node.attributes, path)
        self._out.append(b"tR")

    def _tensor_call(self, node: TensorRecord, *, requires_grad: bool | None = None) -> tuple[str, tuple[Any, ...]]:
        """The rebuild function and its arguments; the first is the storage where it is a `StorageRef`."""
        grad = node.requires_grad if requires_grad is None else requires_grad
        dtype = TorchValue("dtype", node.dtype)
        if node.storage.data is None:
            return "torch._utils._rebuild_meta_tensor_no_storage", (dtype, node.shape, node.stride, grad)
        bits = {name: True for name in ("conj", "neg") if getattr(node, name)}
        behind: tuple[Any, ...] = (bits,) if bits else ()
        place: tuple[Any, ...] = (node.storage_offset, node.shape, node.stride, grad, OrderedDict())
        typed = DTYPES[node.dtype].storage is not None and node.storage.key not in self._untyped
        if typed:
            return "torch._utils._rebuild_tensor_v2", (StorageRef(node.storage, node.dtype), *place, *behind)
        return "torch._utils._rebuild_tensor_v3", (_Untyped(node.storage), *place, dtype, *behind)

    def _tensor_args(self, args: tuple[Any, ...], path: tuple[Any, ...]) -> None:
        self._out.append(b"(")
        for arg in args:
            if isinstance(arg, StorageRef):
                self._storage(arg.storage, arg.dtype, path)
            elif isinstance(arg, _Untyped):
                self._storage(arg.storage, None, path)
            else:
                self._save(arg, path)
        self._out.append(b"t")


class _Untyped:
    """A storage to be written without an element type."""

    def __init__(self, storage: StorageRecord) -> None:
        self.storage = storage


def _int(value: int) -> bytes:
    if 0 <= value < _SMALL:
        return b"K" + bytes([value])
    if 0 <= value < 1 << 16:
        return b"M" + struct.pack("<H", value)
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(encoded) < _SMALL:
        return b"\x8a" + bytes([len(encoded)]) + encoded
    return b"\x8b" + struct.pack("<i", len(encoded)) + encoded


_SCALARS: Final[dict[type, Callable[[Any], bytes]]] = {
    type(None): lambda _: b"N",
    bool: lambda value: b"\x88" if value else b"\x89",
    int: _int,
    float: lambda value: b"G" + struct.pack(">d", value),
}
_SAVERS: Final[dict[type, Callable[[PickleWriter, Any, tuple[Any, ...]], None]]] = {
    bytes: PickleWriter._bytes,  # noqa: SLF001 - the table of the class above
    bytearray: PickleWriter._bytearray,  # noqa: SLF001
    complex: PickleWriter._complex,  # noqa: SLF001
    tuple: PickleWriter._tuple,  # noqa: SLF001
    list: PickleWriter._list,  # noqa: SLF001
    dict: PickleWriter._dict,  # noqa: SLF001
    OrderedDict: PickleWriter._ordered_dict,  # noqa: SLF001
    Counter: PickleWriter._counter,  # noqa: SLF001
    set: PickleWriter._set,  # noqa: SLF001
    frozenset: PickleWriter._frozenset,  # noqa: SLF001
    NumpyArray: PickleWriter._numpy,  # noqa: SLF001
    NumpyDType: PickleWriter._numpy,  # noqa: SLF001
    Size: PickleWriter._size,  # noqa: SLF001
    TorchValue: PickleWriter._torch_value,  # noqa: SLF001
    GlobalRef: PickleWriter._global_ref,  # noqa: SLF001
    Opaque: PickleWriter._opaque,  # noqa: SLF001
    StorageRef: PickleWriter._storage_ref,  # noqa: SLF001
    TensorRecord: PickleWriter._tensor,  # noqa: SLF001
    Composite: PickleWriter._composite,  # noqa: SLF001
}
