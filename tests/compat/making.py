"""Makes the files that tests of `compat` read: pickle streams in each container, headers, archives, damage."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import compat

FORMATS = ("torch-zip", "torch-legacy", "safetensors")
REAL = Path(__file__).parents[3] / "shared" / "real"


# Releases before 2.0 write neither conj and neg bits nor attributes, and say nothing.
with_marks = pytest.mark.skipif(
    not hasattr(torch._utils, "get_tensor_metadata"),
    reason="this torch does not write conj and neg bits, or attributes",
)


def known_dtypes(*names: str) -> tuple[torch.dtype, ...]:
    """Those of these dtypes that this torch has."""
    return tuple(getattr(torch, name) for name in names if hasattr(torch, name))


def storage_of(tensor: torch.Tensor) -> Any:
    """The untyped storage of a tensor, which torch hands out by another way before 2.0."""
    return tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else vars(tensor.storage())["_storage"]  # type: ignore[no-untyped-call]


def text(value: str) -> bytes:
    """The opcode that pushes a text."""
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    """The opcode that pushes a whole number, of any size."""
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(encoded)) + encoded


def name(full: str) -> bytes:
    """The opcode that pushes what a name stands for."""
    module, _, attribute = full.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def doubled(opener: bytes, closer: bytes, levels: int) -> bytes:
    """A container that holds the one below it twice, level by level."""
    stream = b")\x85q\x00"
    for level in range(levels):
        stream += opener + (b"h" + bytes([level])) * 2 + closer + b"q" + bytes([level + 1])
    return stream


def zipped(body: bytes, records: Mapping[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    """A torch-zip file with this pickle stream (without its PROTO and STOP) and these further records."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        for record, content in (records or {}).items():
            archive.writestr(f"archive/{record}", content)
    return buffer.getvalue()


def legacy(body: bytes, keys: bytes = b"]", data: bytes = b"") -> bytes:
    """A torch-legacy file with this content stream and this list of storages."""
    facts = b"}(" + text("little_endian") + b"\x88" + text("protocol_version") + b"M\xe9\x03u"
    magic = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
    return b"".join(b"\x80\x02" + part + b"." for part in (magic, b"M\xe9\x03", facts, body, keys)) + data


def storage_id(key: str = "0", kind: str = "torch.FloatStorage", device: str = "cpu", numel: int = 4) -> bytes:
    """The opcodes that push a storage."""
    return b"(" + text("storage") + name(kind) + text(key) + text(device) + number(numel) + b"tQ"


def tensor(shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0, **storage: Any) -> bytes:
    """The opcodes that push a tensor, as torch writes them."""
    sizes = b"(" + b"".join(map(number, shape)) + b"t(" + b"".join(map(number, stride)) + b"t"
    empty = name("collections.OrderedDict") + b")R"
    place = storage_id(**storage) + number(offset) + sizes + b"\x89" + empty
    return name("torch._utils._rebuild_tensor_v2") + b"(" + place + b"tR"


def header(tensors: Mapping[str, Any] | str | bytes, data: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    if isinstance(tensors, Mapping):
        tensors = json.dumps(tensors)
    encoded = tensors.encode() if isinstance(tensors, str) else tensors
    return len(encoded).to_bytes(8, "little") + encoded + data


def carried(layout: Mapping[str, Any], data: bytes = b"0000") -> bytes:
    """A safetensors file with one float32 array `a` and this carried layout."""
    described = {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [0, len(data)]}
    return header({"__metadata__": {"compat.layout": json.dumps(layout)}, "a": described}, data)


def dumped(state: Any, format: str = "torch-zip") -> bytes:  # noqa: A002 - the field's word
    """What compat writes."""
    buffer = io.BytesIO()
    compat.save(state, buffer, format=format)
    return buffer.getvalue()


def torch_dumped(state: Any, *, zipped: bool = True, protocol: int = 2) -> bytes:
    """What torch writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return buffer.getvalue()


def raw(tensor: torch.Tensor) -> bytes:
    """A tensor's values as bytes, whatever its dtype."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().clone()
    content: list[int] = storage_of(plain).tolist()
    return bytes(content[: plain.numel() * plain.element_size()])
