"""A failing example as a script that anyone can run: it needs torch, and what the cell itself names."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from matrix.cells import Cell
from matrix.nodes import (
    BoolNode,
    BytesNode,
    ComplexNode,
    DeviceNode,
    DictNode,
    DTypeNode,
    FloatNode,
    IntNode,
    ListNode,
    Node,
    NoneNode,
    ODictNode,
    SetNode,
    SizeNode,
    StrNode,
    TensorNode,
    TupleNode,
)
from matrix.spec import CheckpointSpec

_INDENT: Final = "    "

_TEMPLATE: Final = '''"""{title}

Expected: {expected}
Seen: {seen}
"""

import base64
import ctypes
import struct
import tempfile
import zlib
from collections import OrderedDict
from pathlib import Path

import torch


def storage(packed):
    data = bytearray(zlib.decompress(base64.b64decode(packed)))
    return torch.frombuffer(data, dtype=torch.uint8).untyped_storage() if data else torch.UntypedStorage(0)


def tensor(dtype, storage, offset, shape, stride, *, grad=False, parameter=False, conj=False, neg=False):
    made = torch.empty((0,), dtype=dtype).set_(storage, offset, shape, stride)
    made = made.conj() if conj else made
    made = torch._neg_view(made) if neg else made
    return torch.nn.Parameter(made, requires_grad=grad) if parameter else made.requires_grad_(grad)


def number(bits):
    return struct.unpack(">d", bytes.fromhex(bits))[0]


def with_metadata(state, metadata):
    state._metadata = metadata
    return state


def facts(value):
    """What is compared: types, bits, and everything about tensors but their identity."""
    if isinstance(value, torch.Tensor):
        kept = value.untyped_storage()
        here = kept.device.type == "cpu" and kept.nbytes()
        data = ctypes.string_at(kept.data_ptr(), kept.nbytes()).hex() if here else ""
        return (
            type(value).__name__, str(value.dtype), tuple(value.shape), value.stride(), value.storage_offset(),
            str(value.device), value.requires_grad, value.is_conj(), value.is_neg(), data,
        )
    if isinstance(value, dict):
        items = [(facts(k), facts(v)) for k, v in value.items()]
        return (type(value).__name__, items, facts(getattr(value, "_metadata", None)))
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, [facts(v) for v in value])
    if isinstance(value, float):
        return struct.pack(">d", value).hex()
    return (type(value).__name__, repr(value))


storages = [
{storages}
]
state = {state}
path = str(Path(tempfile.mkdtemp()) / "example{suffix}")
{write}
loaded = {read}
before, after = facts(state), facts(loaded)
print("saved: ", str(before)[:2000])
print("loaded:", str(after)[:2000])
print("the same" if before == after else "NOT the same")
raise SystemExit(before != after)
'''

_WRITE: Final[Mapping[str, Callable[[Cell], str]]] = {
    "torch": lambda cell: (
        f"torch.save(state, path, pickle_protocol={cell['protocol'].removeprefix('p')}, "
        f"_use_new_zipfile_serialization={cell['format'] == 'torch-zip'})"
    ),
    "compat": lambda cell: f"import compat\n\ncompat.save(state, path, format={cell['format']!r})",
    "safetensors": lambda _: "from safetensors.torch import save_file\n\nsave_file(state, path)",
}
_MAP_LOCATION: Final = {
    "none": "None",
    "cpu": "'cpu'",
    "device": "torch.device('cpu')",
    "dict": "{'cpu': 'cpu'}",
    "callable": "lambda storage, location: storage",
    "meta": "'meta'",
}


def _written(cell: Cell) -> str:
    """The lines that write the file, at `path` in the end."""
    if cell.check != "convert":
        return _WRITE[cell["writer"]](cell)
    there, back = cell["via"], cell["format"]
    return "\n".join(
        (
            "import compat",
            "",
            f"compat.save(state, path, format={back!r})",
            f"compat.convert(path, path + '.there', to={there!r})",
            f"compat.convert(path + '.there', path + '.back', to={back!r})",
            "path += '.back'",
        )
    )


def _read(cell: Cell) -> str:
    if cell.check == "convert":
        return "compat.load(path)"
    place = _MAP_LOCATION[cell["map_location"]]
    if cell["reader"] == "safetensors":
        device = "'cpu'" if cell["map_location"] == "none" else f"str({place})"
        return f"__import__('safetensors.torch').torch.load_file(path, device={device})"
    module = "__import__('compat')" if cell["reader"] == "compat" else "torch"
    mapped = ", mmap=True" if cell["mmap"] == "mmap" else ""
    return f"{module}.load(path, map_location={place}, weights_only={cell['weights_only'] == 'wo'}{mapped})"


def script(spec: CheckpointSpec, cell: Cell, *, suffix: str, expected: str, seen: str) -> str:
    """The text of a Python script that builds one state, writes it and reads it back as the cell does.

    Args:
        spec: the state.
        cell: what was done with it.
        suffix: the written file's suffix.
        expected: what should have happened, for the docstring.
        seen: what did.
    """
    packed = (
        f"{_INDENT}storage({base64.b64encode(zlib.compress(storage.data, 9)).decode('ascii')!r}),"
        for storage in spec.storages
    )
    return _TEMPLATE.format(
        title=_prose(cell.id),
        expected=_prose(expected),
        seen=_prose(seen),
        storages="\n".join(packed),
        state=expression(spec.tree),
        suffix=suffix,
        write=_written(cell),
        read=_read(cell),
    )


def rerun(cell: Cell, seed: int, *, expected: str, seen: str) -> str:
    """The text of a script that runs a cell again, for checks that need more than a state."""
    arguments = ["run", "--cells", cell.id, "--seed", str(seed), "--profile", "quick"]
    return (
        f'"""{_prose(cell.id)}\n\nExpected: {_prose(expected)}\nSeen: {_prose(seen)}\n"""\n\n'
        f"from matrix.cli import main\n\nmain({arguments!r})\n"
    )


def _prose(text: str) -> str:
    """Text that cannot end the docstring it stands in."""
    return text.encode("unicode_escape").decode("ascii").replace('"""', "'''")[:1000]


def expression(node: Node, depth: int = 0) -> str:
    """A node as a Python expression, in terms of the script's own helpers."""
    render = _RENDER.get(type(node))
    if render is None:
        return f"None  # {_prose(str(node))}\n"
    return render(node, depth)


def _items(items: list[str], depth: int, brackets: str) -> str:
    if not items:
        return brackets
    pad = _INDENT * (depth + 1)
    lines = "".join(f"{pad}{item},\n" for item in items)
    return f"{brackets[0]}\n{lines}{_INDENT * depth}{brackets[1]}"


def _pairs(node: DictNode, depth: int) -> str:
    pairs = [f"({expression(k, depth + 1)}, {expression(v, depth + 1)})" for k, v in node.items]
    return _items(pairs, depth, "[]")


def _odict(node: Any, depth: int) -> str:
    made = f"OrderedDict({_pairs(node, depth)})"
    return made if node.metadata is None else f"with_metadata({made}, {expression(node.metadata, depth)})"


def _tensor(node: Any, _depth: int) -> str:
    flags = {
        "grad": node.requires_grad,
        "parameter": node.tensor_kind == "parameter",
        "conj": node.conj,
        "neg": node.neg,
    }
    shown = "".join(f", {name}=True" for name, value in flags.items() if value)
    place = f"storages[{node.storage}], {node.storage_offset}, {tuple(node.shape)}, {tuple(node.stride)}"
    return f"tensor(torch.{node.dtype}, {place}{shown})"


_RENDER: Final[Mapping[type[Node], Callable[[Any, int], str]]] = {
    NoneNode: lambda _node, _depth: "None",
    BoolNode: lambda node, _: repr(node.value),
    IntNode: lambda node, _: hex(node.value) if abs(node.value) >> 63 else repr(node.value),
    FloatNode: lambda node, _: f"number({node.bits!r})",
    ComplexNode: lambda node, _: f"complex(number({node.real!r}), number({node.imag!r}))",
    StrNode: lambda node, _: ascii(node.value),
    BytesNode: lambda node, _: repr(node.value),
    ListNode: lambda node, depth: _items([expression(i, depth + 1) for i in node.items], depth, "[]"),
    TupleNode: lambda node, depth: "tuple(" + _items([expression(i, depth + 1) for i in node.items], depth, "[]") + ")",
    SetNode: lambda node, depth: "set(" + _items([expression(i, depth + 1) for i in node.items], depth, "[]") + ")",
    DictNode: lambda node, depth: f"dict({_pairs(node, depth)})",
    ODictNode: _odict,
    SizeNode: lambda node, _: f"torch.Size({list(node.sizes)})",
    DTypeNode: lambda node, _: f"torch.{node.name}",
    DeviceNode: lambda node, _: f"torch.device({node.name!r})",
    TensorNode: _tensor,
}
