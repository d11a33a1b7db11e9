"""Spell what a spec cannot say with what it can: plain containers, tensors and bytes, under a mark.

A sparse, quantized or nested tensor becomes a dict of its parts, a numpy array one of its bytes. The result is
described by `matrix.peer` like any other state, in the release that wrote a file and in the one that read it.

Not spelled: in which class a subclass of Tensor was, and the cached lengths of a jagged tensor.
"""

import ctypes
from collections import OrderedDict
from typing import Any, Dict

from matrix.corpus.writer.release import torch

# The key by which such a dict is told from one that was there.
MARK = "(kind)"

# Indices, values and size; later releases add the flag.
_PARTS = 3
# What torch.nn.Buffer and torch itself note on a tensor.
_OWN_ATTRIBUTES = ("_is_buffer", "_is_param", "persistent")


def plain(state: Any) -> Any:
    """Return the state with everything that a spec cannot say spelled out."""
    if isinstance(state, torch.Tensor):
        return _tensor(state)
    kind = type(state)
    if kind is dict:
        return {plain(key): plain(value) for key, value in state.items()}
    if kind is OrderedDict:
        made = OrderedDict((plain(key), plain(value)) for key, value in state.items())
        for name, value in vars(state).items():
            setattr(made, name, plain(value))
        return made
    if kind in (list, tuple):
        return kind(plain(value) for value in state)
    if kind is frozenset:
        return {MARK: "frozenset", "members": set(state)}
    if _is_storage(state):
        return _storage(state)
    if kind.__module__.split(".")[0] == "numpy":
        return _numpy(state)
    for name in ("layout", "memory_format", "qscheme"):
        if isinstance(state, getattr(torch, name, ())):
            return {MARK: name, "name": str(state).replace("torch.", "")}
    return state


def as_kept(spelled: Any) -> Any:
    """Return what a file of this release keeps of a state that is spelled out.

    A release that does not write the flag reads every sparse tensor as one that may repeat its indices, if any.
    """
    if _keeps_coalesced():
        return spelled
    kind = type(spelled)
    if kind in (list, tuple):
        return kind(as_kept(value) for value in spelled)
    if kind is dict and spelled.get(MARK) == "sparse_coo":
        return dict(spelled, coalesced=not spelled["indices"].numel())
    if isinstance(spelled, dict):
        for key, value in spelled.items():
            spelled[key] = as_kept(value)
    return spelled


def _keeps_coalesced() -> bool:
    made = torch.sparse_coo_tensor(torch.zeros(1, 1).long(), torch.ones(1), (1,)).coalesce()
    try:
        parts = made.__reduce_ex__(2)[1][1]
    except (IndexError, NotImplementedError, RuntimeError, TypeError):  # it cannot be pickled at all
        return False
    return isinstance(parts, tuple) and len(parts) > _PARTS


def _numpy(value: Any) -> Any:
    name = type(value).__name__
    if name == "ndarray":
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        facts: Dict[str, Any] = {"dtype": value.dtype.str, "shape": tuple(value.shape), "order": order}
        return dict({MARK: "numpy array", "bytes": value.tobytes(order)}, **facts)
    if hasattr(value, "tobytes"):
        return {MARK: "numpy scalar", "dtype": value.dtype.str, "bytes": value.tobytes()}
    return {MARK: "numpy dtype", "dtype": value.str} if hasattr(value, "itemsize") else value


def _is_storage(value: Any) -> bool:
    return bool(torch.is_storage(value)) or type(value).__name__ in ("TypedStorage", "_TypedStorage", "UntypedStorage")


def _storage(storage: Any) -> Dict[str, Any]:
    dtype = getattr(storage, "dtype", None)
    if dtype is None and "Untyped" not in type(storage).__name__:
        shown = getattr(torch, type(storage).__name__.replace("Storage", "Tensor"))()
    else:
        shown = torch.empty(0, dtype=dtype or torch.uint8)
    return {MARK: "storage", "typed": "Untyped" not in type(storage).__name__, "values": shown.set_(storage)}


def _tensor(tensor: Any) -> Any:
    attributes = {
        name: plain(value)
        for name, value in getattr(tensor, "__dict__", {}).items()
        if name not in _OWN_ATTRIBUTES and not name.startswith("_dynamo")
    }
    if str(getattr(tensor, "layout", "")) == "torch.jagged":
        names = ("_values", "_offsets", "_lengths")
        parts = OrderedDict((name, plain(getattr(tensor, name))) for name in names)
        return dict({MARK: "jagged", "ragged": tensor._ragged_idx}, **parts)
    made = _strided(tensor)
    return {MARK: "attributed", "tensor": made, "attributes": attributes} if attributes else made


def _strided(tensor: Any) -> Any:
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        tensor = tensor.as_subclass(torch.Tensor)
    if getattr(tensor, "is_nested", False):
        buffer, sizes, strides, offsets = tensor._reduce_ex_internal(2)[1]
        parts = {"buffer": buffer, "sizes": sizes, "strides": strides}
        listed = offsets.tolist() if isinstance(offsets, torch.Tensor) else list(offsets)
        return dict({MARK: "nested", "offsets": listed}, **parts)
    if getattr(tensor, "is_quantized", False):
        return _quantized(tensor)
    layout = str(getattr(tensor, "layout", "torch.strided")).replace("torch.", "")
    if layout == "strided":
        return tensor
    made: Dict[str, Any] = {MARK: layout, "size": tuple(tensor.size())}
    if layout == "sparse_coo":
        made.update({"values": tensor._values(), "indices": tensor._indices()})
        made["coalesced"] = not tensor._nnz() or bool(tensor.is_coalesced())
        return made
    by_row = layout in ("sparse_csr", "sparse_bsr")
    made["values"] = tensor.values()
    made["outer"] = tensor.crow_indices() if by_row else tensor.ccol_indices()
    made["inner"] = tensor.col_indices() if by_row else tensor.row_indices()
    return made


def _quantized(tensor: Any) -> Dict[str, Any]:
    scheme = str(tensor.qscheme()).replace("torch.", "")
    facts: Dict[str, Any] = {"dtype": str(tensor.dtype).replace("torch.", ""), "offset": tensor.storage_offset()}
    facts.update({"shape": tuple(tensor.size()), "stride": tuple(tensor.stride()), "bytes": _bytes(tensor)})
    if "channel" in scheme:
        # Early releases write lists of numbers, later ones tensors.
        scales, points = tensor.q_per_channel_scales().tolist(), tensor.q_per_channel_zero_points().tolist()
        facts.update({"scales": scales, "zero_points": points, "axis": tensor.q_per_channel_axis()})
    else:
        facts.update({"scale": tensor.q_scale(), "zero_point": tensor.q_zero_point()})
    return dict({MARK: scheme}, **facts)


def _bytes(tensor: Any) -> bytes:
    """Return every byte of a tensor's storage."""
    storage = (getattr(tensor, "untyped_storage", None) or tensor.storage)()
    size = storage.nbytes() if hasattr(storage, "nbytes") else storage.size() * storage.element_size()
    return ctypes.string_at(storage.data_ptr(), size) if size else b""
