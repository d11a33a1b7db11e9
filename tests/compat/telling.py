"""Says of a live value everything that must come back, as plain data: types, bits, strides, flags, who shares what."""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Any

import numpy as np
import torch

from tests.compat.making import raw, storage_of


def told(value: Any, seen: dict[int, int] | None = None) -> Any:
    """A value as plain data that is equal exactly when the values are the same, bit by bit."""
    seen = {} if seen is None else seen
    if isinstance(value, torch.Tensor):
        return _tensor(value, seen)
    if isinstance(value, (torch.UntypedStorage, torch.storage.TypedStorage)):
        untyped = value._untyped_storage if isinstance(value, torch.storage.TypedStorage) else value
        shown = (type(value).__name__, str(getattr(value, "dtype", "")))
        return (*shown, _share(untyped, seen), all_bytes(untyped))
    if isinstance(value, np.ndarray):
        order = (value.flags.c_contiguous, value.flags.f_contiguous, value.flags.writeable)
        return ("array", type(value).__name__, value.dtype.str, value.shape, order, value.tobytes())
    if isinstance(value, np.generic):
        return ("scalar", type(value).__name__, value.dtype.str, value.tobytes())
    if isinstance(value, dict):
        extra = told(vars(value), seen) if isinstance(value, OrderedDict) and vars(value) else None
        return (type(value).__name__, [(told(k, seen), told(v, seen)) for k, v in value.items()], extra)
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, [told(item, seen) for item in value])
    if isinstance(value, (set, frozenset)):
        return (type(value).__name__, sorted(map(repr, value)))
    if isinstance(value, float):
        return ("float", struct.pack(">d", value))
    return (type(value).__name__, repr(value))


def all_bytes(storage: Any) -> bytes:
    """Everything that an untyped storage holds."""
    return bytes(storage.tolist())


def _share(storage: Any, seen: dict[int, int]) -> int:
    """Which of the storages told of so far this is."""
    return seen.setdefault(storage._cdata, len(seen))


def _tensor(value: torch.Tensor, seen: dict[int, int]) -> Any:
    facts: dict[str, Any] = {
        "type": type(value).__name__,
        "dtype": str(value.dtype),
        "layout": str(value.layout),
        "device": str(value.device),
        "requires_grad": value.requires_grad,
    }
    if value.is_nested:
        offsets: Any = getattr(value, "offsets", None)
        parts = [value.values(), offsets()] if value.layout is torch.jagged else [value.values()]
        facts |= {
            "parts": [told(part.detach(), seen) for part in parts],
            "rows": [told(t.detach()) for t in value.unbind()],
        }
        return facts
    facts |= {"shape": tuple(value.shape), "attributes": told(dict(vars(value)), seen)}
    if value.layout is torch.sparse_coo:
        return facts | {
            "parts": [told(t.detach(), seen) for t in (value._indices(), value._values())],
            "c": value.is_coalesced(),
        }
    if value.layout is not torch.strided:
        rows = value.layout in (torch.sparse_csr, torch.sparse_bsr)
        indices = (value.crow_indices(), value.col_indices()) if rows else (value.ccol_indices(), value.row_indices())
        return facts | {"parts": [told(t.detach(), seen) for t in (*indices, value.values())]}
    facts |= {
        "stride": value.stride(),
        "offset": value.storage_offset(),
        "conj": value.is_conj(),
        "neg": value.is_neg(),
    }
    if value.is_meta:
        return facts
    facts |= {"storage": _share(storage_of(value), seen), "all": all_bytes(storage_of(value))}
    if value.is_quantized:
        scheme = value.qscheme()
        facts["scheme"] = str(scheme)
        if scheme in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            return facts | {"q": (value.q_scale(), value.q_zero_point())}
        return facts | {
            "q": (
                told(value.q_per_channel_scales()),
                told(value.q_per_channel_zero_points()),
                value.q_per_channel_axis(),
            )
        }
    return facts | {"bytes": raw(value)}
