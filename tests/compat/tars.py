"""Writes what torch 0.1 wrote, from the rules by which torch reads it: `torch/serialization.py`, `legacy_load`."""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from typing import Any

import torch

from tests.compat.making import raw, storage_of

KIND = {torch.float32: "Float", torch.float64: "Double", torch.int64: "Long", torch.uint8: "Byte", torch.int32: "Int"}


class _Pickler(pickle.Pickler):
    """The content's pickler: tensors by their keys, Variables as objects with a state."""

    def __init__(self, file: io.BytesIO, protocol: int, tensors: dict[int, torch.Tensor], *, early: bool) -> None:
        super().__init__(file, protocol)
        self.tensors = tensors
        self.early = early

    def persistent_id(self, value: Any) -> Any:
        if type(value) is torch.Tensor:
            self.tensors[id(value)] = value
            return str(id(value))
        return None

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.nn.Parameter):
            if self.early:
                early = (value.data, None, None, value.requires_grad, False)
                return copyreg.__newobj__, (torch.nn.Parameter,), early  # type: ignore[attr-defined]  # CPython's
            state = (value.requires_grad, False, None)
            return copyreg.__newobj__, (torch.nn.Parameter, value.data), state  # type: ignore[attr-defined]  # as above
        return NotImplemented


def members(state: Any, *, protocol: int = 2, early: bool = False) -> dict[str, bytes]:
    """The members of an archive that holds `state`.

    Args:
        state: anything with plain tensors and Parameters in it.
        protocol: of the pickles.
        early: Variables as the earliest releases wrote them.
    """
    tensors: dict[int, torch.Tensor] = {}
    content = io.BytesIO()
    _Pickler(content, protocol, tensors, early=early).dump(state)

    def dumped(value: Any) -> bytes:
        return pickle.dumps(value, protocol)

    described, storages = [dumped(len(tensors))], {}
    for key, tensor in tensors.items():
        storage = storage_of(tensor)
        storages[storage._cdata] = tensor
        kind = KIND[tensor.dtype]
        described.append(dumped((key, storage._cdata, getattr(torch, f"{kind}Tensor"))))
        described.append(struct.pack("<ii", tensor.dim(), 0))
        numbers = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
        described.append(struct.pack(f"<{len(numbers)}q", *numbers))
    stored = [dumped(len(storages))]
    for key, tensor in storages.items():
        whole = torch.empty(0, dtype=tensor.dtype).set_(storage_of(tensor))
        stored.append(dumped((key, "cpu", getattr(torch, f"{KIND[tensor.dtype]}Storage"))))
        stored.append(struct.pack("<q", whole.numel()) + raw(whole))
    stored.append(dumped([]))
    facts = {"protocol_version": 1000, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 8}}
    return {
        "sys_info": dumped(facts),
        "pickle": content.getvalue(),
        "tensors": b"".join(described),
        "storages": b"".join(stored),
    }


def archive(content: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None) -> bytes:
    """The archive of these members, as Python's own writer makes it; `change` may falsify each header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            # Dates with fractions are what made every header of torch's archives an extended one.
            info.size, info.mtime = len(data), 1480000000.25
            if change is not None:
                change(info)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
