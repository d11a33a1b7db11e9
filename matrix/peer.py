"""Build the torch state that a spec describes, and describe a state as a spec, on the spec's JSON form.

One self-contained file in Python 3.6 syntax, standard library and torch only, so that this interpreter and
one of another torch version judge alike. Features of torch are probed for, never inferred from its version,
and torch is imported when first used, so that torch-free code may read the dtype table.

Not described: whether two containers are one object, Python attributes set on tensors, gradients, and the
byte count of a storage on the device "meta".
"""

import base64
import ctypes
import json
import re
import struct
import warnings
from collections import OrderedDict
from typing import Any, Callable, Dict, List, Optional, Set

Json = Dict[str, Any]

VERSION = 1  # of the JSON form

# Bytes per element of every dtype a plain strided tensor can have; float4_e2m1fn_x2 packs two values in one.
_WIDTHS = {
    8: "float64 int64 uint64 complex64",
    4: "float32 int32 uint32 complex32",
    2: "float16 bfloat16 int16 uint16 bits16",
    1: "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 int8 uint8 "
    "bool bits8 bits1x8 bits2x4 bits4x2",
    16: "complex128",
}
ITEMSIZES = {name: width for width, names in _WIDTHS.items() for name in names.split()}

# Beyond these a container is described as opaque, so that describing always ends.
MAX_DEPTH = 100
MAX_NODES = 300000
_SHOWN = 200
# ctypes.string_at takes a C int.
_STRING_AT_LIMIT = (1 << 31) - 1


class PeerError(ValueError):
    """A spec that this torch cannot build."""


class _Torch:
    """What this interpreter's torch has: its dtypes by name, and how it hands out storages."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.untyped = getattr(torch, "UntypedStorage", None)
        # Untyped where torch hands out such storages.
        self.storage_of = getattr(torch.Tensor, "untyped_storage", torch.Tensor.storage)
        self.lazy_bits = hasattr(torch.Tensor, "is_conj") and hasattr(torch, "_neg_view")
        self.dtypes: Dict[str, Any] = {}
        for name, itemsize in ITEMSIZES.items():
            dtype = getattr(torch, name, None)
            if isinstance(dtype, torch.dtype) and self._works(dtype, itemsize):
                self.dtypes[name] = dtype
        self.names = {dtype: name for name, dtype in self.dtypes.items()}

    def _works(self, dtype: Any, itemsize: int) -> bool:
        """Say whether tensors of a dtype can be made: old releases name some that they do not support."""
        with warnings.catch_warnings():
            # "ComplexHalf support is experimental", once per process.
            warnings.simplefilter("ignore")
            try:
                actual = self.torch.empty(0, dtype=dtype).element_size()
            except (RuntimeError, TypeError):
                return False
        if actual != itemsize:
            raise AssertionError(f"the dtype table gives {dtype} {itemsize} bytes, this torch {actual}")
        return True


_TORCH: List[_Torch] = []


def _this_torch() -> _Torch:
    if not _TORCH:
        _TORCH.append(_Torch())
    return _TORCH[0]


def available_dtypes() -> List[str]:
    """Return the names of the dtypes in the table that this torch has, in the table's order."""
    return list(_this_torch().dtypes)


def build(spec: Json) -> Any:
    """Return the torch state that a spec describes, in new storages."""
    seen = spec.get("version")
    if seen != VERSION:
        raise PeerError(f"the spec has version {seen!r}, expected {VERSION}; use one compat-matrix")
    return _Builder(spec).node(spec["tree"])


def describe(state: Any, raw: bool = False) -> Json:
    """Return the spec that describes a torch state; `raw` leaves storage bytes unencoded, for use in process.

    Two tensors alias when their storages' `_cdata`, the address of torch's own StorageImpl, is the same. Data
    pointers do not decide: all storages of 0 bytes, and all on the device "meta", share the null pointer.
    """
    describer = _Describer(raw)
    tree = describer.node(state, 0)
    return {"version": VERSION, "storages": describer.storages, "tree": tree}


class _Builder:
    """Builds the nodes of one spec; tensors over one storage index share it."""

    def __init__(self, spec: Json) -> None:
        self.torch = _this_torch()
        self.devices = [str(item["device"]) for item in spec["storages"]]
        self.bytes = [_decoded(item["data"]) for item in spec["storages"]]
        self.storages: Dict[int, Any] = {}

    def node(self, data: Json) -> Any:
        make = _BUILDERS.get(data["t"])
        if make is None:
            raise PeerError(f"a node {data['t']!r} cannot be built, expected one of {', '.join(_BUILDERS)}")
        return make(self, data)

    def list(self, data: Json) -> Any:
        return [self.node(item) for item in data["v"]]

    def set(self, data: Json) -> Any:
        items = {self.node(item) for item in data["v"]}
        if len(items) != len(data["v"]):
            raise PeerError("two items of a set are equal in Python, expected no 1 beside True")
        return items

    def mapping(self, data: Json) -> Any:
        items = dict if data["t"] == "dict" else OrderedDict
        result: Any = items((self.node(key), self.node(value)) for key, value in data["v"])
        if len(result) != len(data["v"]):
            raise PeerError("two keys of a dict are equal in Python, expected no 1 beside True")
        if "metadata" in data:
            result._metadata = self.node(data["metadata"])
        return result

    def dtype(self, data: Json) -> Any:
        dtype = getattr(self.torch.torch, data["v"], None)
        if not isinstance(dtype, self.torch.torch.dtype):
            raise PeerError(f"this torch has no dtype {data['v']!r}")
        return dtype

    def tensor(self, data: Json) -> Any:
        if data["dtype"] not in self.torch.dtypes:
            raise PeerError(f"this torch has no tensors of dtype {data['dtype']!r}")
        tensor = self._strided(data)
        if data["conj"] or data["neg"]:
            tensor = self._with_bits(tensor, data)
        if data["kind"] == "parameter":
            return self.torch.torch.nn.Parameter(tensor, requires_grad=data["requires_grad"])
        if data["requires_grad"]:
            tensor.requires_grad_(True)
        if data["kind"] == "buffer":
            if not hasattr(self.torch.torch.nn, "Buffer"):
                raise PeerError("this torch has no torch.nn.Buffer")
            return self.torch.torch.nn.Buffer(tensor)
        return tensor

    def _strided(self, data: Json) -> Any:
        """Return a tensor over its storage; torch would silently enlarge a storage that is too short."""
        itemsize = ITEMSIZES[data["dtype"]]
        device = self.devices[data["storage"]]
        if device != "meta" and 0 not in data["shape"]:
            last = data["storage_offset"] + sum((n - 1) * by for n, by in zip(data["shape"], data["stride"]))
            size = len(self.bytes[data["storage"]])
            if (last + 1) * itemsize > size:
                raise PeerError(
                    f"a tensor of shape {data['shape']} and stride {data['stride']} ends at byte "
                    f"{(last + 1) * itemsize}, expected at most {size}: its storage is too short"
                )
        dtype = self.torch.dtypes[data["dtype"]]
        storage = self.storages.get(data["storage"])
        if storage is None:
            storage = self.storages[data["storage"]] = self._storage(data["storage"], dtype, itemsize)
        tensor = self.torch.torch.empty(0, dtype=dtype, device=device)
        tensor.set_(storage, data["storage_offset"], tuple(data["shape"]), tuple(data["stride"]))
        return tensor

    def _storage(self, index: int, dtype: Any, itemsize: int) -> Any:
        data, device = self.bytes[index], self.devices[index]
        if self.torch.untyped is None:
            # A typed storage: it is as many whole elements long as the first tensor over it says.
            if len(data) % itemsize:
                raise PeerError(f"{len(data)} bytes are no whole number of {dtype}, expected by typed storages")
            storage = self.torch.torch.empty(len(data) // itemsize, dtype=dtype).storage()
        else:
            storage = self.torch.untyped(len(data))
        if data:
            ctypes.memmove(storage.data_ptr(), data, len(data))
        if device == "cpu":
            return storage
        if self.torch.untyped is None:
            return self.torch.torch.empty(0, dtype=dtype).set_(storage).to(device).storage()
        moved = self.torch.untyped(len(data), device=device)
        if data:
            moved.copy_(storage)
        return moved

    def _with_bits(self, tensor: Any, data: Json) -> Any:
        if not self.torch.lazy_bits:
            raise PeerError("this torch has no lazy conjugation and negation")
        if data["conj"]:
            tensor = self.torch.torch.conj(tensor)
            if not tensor.is_conj():
                raise PeerError(f"a tensor of {data['dtype']} has no conjugate, expected a complex dtype")
        return self.torch.torch._neg_view(tensor) if data["neg"] else tensor


def _decoded(data: Any) -> bytes:
    return data if isinstance(data, bytes) else base64.b64decode(data)


def _pack_float(value: float) -> str:
    return struct.pack(">d", value).hex()


def _unpack_float(digits: str) -> float:
    return float(struct.unpack(">d", bytes.fromhex(digits))[0])


def _build_str(_: _Builder, data: Json) -> str:
    # Lone surrogates travel as bytes, since a JSON reader would join two of them.
    return str(bytes.fromhex(data["x"]).decode("utf-8", "surrogatepass") if "x" in data else data["v"])


_BUILDERS: Dict[str, Callable[[_Builder, Json], Any]] = {
    "none": lambda _, data: None,
    "bool": lambda _, data: data["v"],
    "int": lambda _, data: int(data["v"], 0),
    "float": lambda _, data: _unpack_float(data["v"]),
    "complex": lambda _, data: complex(_unpack_float(data["v"][0]), _unpack_float(data["v"][1])),
    "str": _build_str,
    "bytes": lambda _, data: _decoded(data["v"]),
    "list": _Builder.list,
    "tuple": lambda builder, data: tuple(builder.list(data)),
    "set": _Builder.set,
    "dict": _Builder.mapping,
    "odict": _Builder.mapping,
    "size": lambda builder, data: builder.torch.torch.Size(data["v"]),
    "dtype": _Builder.dtype,
    "device": lambda builder, data: builder.torch.torch.device(data["v"]),
    "tensor": _Builder.tensor,
}


class _Describer:
    """Describes one state; storages are numbered in the order in which tensors first show them."""

    def __init__(self, raw: bool) -> None:
        self.torch = _this_torch()
        self.raw = raw
        self.storages: List[Json] = []
        self.index: Dict[int, int] = {}
        self.open: Set[int] = set()
        self.left = MAX_NODES
        torch = self.torch.torch
        self.handlers = dict(_DESCRIBERS)
        self.handlers[torch.Size] = lambda _, value, depth: {"t": "size", "v": list(value)}
        self.handlers[torch.dtype] = lambda _, value, depth: {"t": "dtype", "v": str(value)[len("torch.") :]}
        self.handlers[torch.device] = lambda _, value, depth: {"t": "device", "v": str(value)}
        self.handlers[torch.Tensor] = _Describer.tensor
        self.handlers[torch.nn.Parameter] = _Describer.tensor

    def node(self, value: Any, depth: int) -> Json:
        # Exact types: a subclass (numpy.float64 is a float, an IntEnum an int) is something else.
        handler = self.handlers.get(type(value))
        return _opaque(value) if handler is None else handler(self, value, depth)

    def container(self, value: Any, depth: int) -> Json:
        self.left -= len(value) + 1
        if depth >= MAX_DEPTH or self.left < 0:
            return _opaque(value, f"more than {MAX_DEPTH} levels or {MAX_NODES} nodes")
        if id(value) in self.open:
            return _opaque(value, "contains itself")
        self.open.add(id(value))
        try:
            return _CONTAINERS[type(value)](self, value, depth + 1)
        finally:
            self.open.discard(id(value))

    def sequence(self, value: Any, depth: int) -> Json:
        return {"t": type(value).__name__, "v": [self.node(item, depth) for item in value]}

    def set(self, value: Any, depth: int) -> Json:
        items = (self.node(item, depth) for item in value)
        return {"t": "set", "v": sorted(items, key=lambda item: json.dumps(item, sort_keys=True))}

    def mapping(self, value: Any, depth: int) -> Json:
        attributes = getattr(value, "__dict__", {})
        if set(attributes) - {"_metadata"}:
            return _opaque(value, f"has the attributes {sorted(attributes)}")
        pairs = [[self.node(key, depth), self.node(item, depth)] for key, item in value.items()]
        data: Json = {"t": "dict" if type(value) is dict else "odict", "v": pairs}
        if attributes:
            data["metadata"] = self.node(attributes["_metadata"], depth)
        return data

    def tensor(self, value: Any, depth: int) -> Json:
        dtype = self.torch.names.get(value.dtype)
        strided = value.layout is self.torch.torch.strided and not getattr(value, "is_nested", False)
        if dtype is None or not strided:
            return _opaque(value)
        kind = "buffer" if getattr(value, "_is_buffer", False) else "tensor"
        if type(value) is self.torch.torch.nn.Parameter:
            kind = "parameter"
        return {
            "t": "tensor",
            "dtype": dtype,
            "shape": list(value.shape),
            "stride": list(value.stride()),
            "storage_offset": value.storage_offset(),
            "storage": self._storage(value),
            "requires_grad": value.requires_grad,
            "kind": kind,
            "conj": self.torch.lazy_bits and value.is_conj(),
            "neg": self.torch.lazy_bits and value.is_neg(),
        }

    def _storage(self, tensor: Any) -> int:
        try:
            storage = self.torch.storage_of(tensor)
            identity = storage._cdata
        except NotImplementedError:
            # Releases before 2.0 hand out no storages of meta tensors; each counts as its own.
            storage, identity = None, -id(tensor)
        index = self.index.get(identity)
        if index is None:
            index = self.index[identity] = len(self.storages)
            device = str(tensor.device)
            data = b"" if storage is None or device == "meta" else _storage_bytes(storage)
            shown = data if self.raw else base64.b64encode(data).decode("ascii")
            self.storages.append({"data": shown, "device": device})
        return index


def _storage_bytes(storage: Any) -> bytes:
    size = storage.nbytes() if hasattr(storage, "nbytes") else storage.size() * storage.element_size()
    if not size:
        return b""
    on_cpu = storage.cpu()  # itself, where it is there already
    if size <= _STRING_AT_LIMIT:
        return ctypes.string_at(on_cpu.data_ptr(), size)
    return bytes((ctypes.c_char * size).from_address(on_cpu.data_ptr()))


def _describe_int(_: _Describer, value: int, depth: int) -> Json:
    # Python bounds how many decimal digits it converts, not how many hexadecimal ones.
    return {"t": "int", "v": str(value) if -(1 << 63) <= value < 1 << 63 else hex(value)}


def _describe_str(_: _Describer, value: str, depth: int) -> Json:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return {"t": "str", "x": value.encode("utf-8", "surrogatepass").hex()}
    return {"t": "str", "v": value}


def _opaque(value: Any, reason: Optional[str] = None) -> Json:
    """Return the node of what has no other: its type, and why or a cut repr without addresses."""
    if reason is None:
        try:
            reason = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
        except Exception as error:  # a foreign __repr__ may raise anything
            reason = f"repr() raises {type(error).__name__}"
    shown = reason if len(reason) <= _SHOWN else reason[:_SHOWN] + "..."
    text = f"{type(value).__module__}.{type(value).__qualname__}: {shown}"
    return {"t": "opaque", "v": text.encode("ascii", "backslashreplace").decode("ascii")}


Handler = Callable[[_Describer, Any, int], Json]

_CONTAINERS: Dict[type, Handler] = {list: _Describer.sequence, tuple: _Describer.sequence}
_CONTAINERS.update({set: _Describer.set, dict: _Describer.mapping, OrderedDict: _Describer.mapping})

_DESCRIBERS: Dict[type, Handler] = {
    type(None): lambda _, value, depth: {"t": "none"},
    bool: lambda _, value, depth: {"t": "bool", "v": value},
    int: _describe_int,
    float: lambda _, value, depth: {"t": "float", "v": _pack_float(value)},
    complex: lambda _, z, depth: {"t": "complex", "v": [_pack_float(z.real), _pack_float(z.imag)]},
    str: _describe_str,
    bytes: lambda _, value, depth: {"t": "bytes", "v": base64.b64encode(value).decode("ascii")},
}
_DESCRIBERS.update((container, _Describer.container) for container in _CONTAINERS)
