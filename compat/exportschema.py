"""How `torch.export` describes tensors in its JSON, release by release.

Source: `torch/_export/serde/schema.py` (ScalarType, TensorMeta, PayloadMeta, GraphSignature) of torch 2.1 to 2.15.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from compat.checkpoint import StorageRecord, TensorRecord, check_bounds
from compat.data import Data, read
from compat.dtypes import BY_SCALAR_TYPE
from compat.errors import Corrupt, Unsupported, brief
from compat.records import MAX_DIMS, MAX_INT64
from compat.zipdir import Archive

_STRIDED: Final = 7
_MAX_JSON: Final = 256 * 1024 * 1024
_MAX_RATIO: Final = 200


@dataclass(slots=True, kw_only=True)
class Signature:
    """What the graph's signature says of its inputs.

    Attributes:
        parameters: names of parameters; buffers: names of buffers → whether they are persistent.
        constants: names of tensors that are neither; objects: names of custom objects.
    """

    parameters: list[str] = field(default_factory=list)
    buffers: dict[str, bool] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)


def json_of(archive: Archive, name: str) -> Any:
    """The content of a JSON record.

    Raises:
        Corrupt: there is no such record, it is no JSON, or it inflates to far more than it is.
    """
    data = archive.data(name)
    entry = archive.entries[name]
    if entry.nbytes > _MAX_JSON or entry.nbytes > 1024 * 1024 + _MAX_RATIO * entry.compressed:
        raise Corrupt(f"the record {name} has {entry.nbytes:,} bytes", source=archive.source.name, offset=entry.header)
    try:
        return json.loads(bytes(read(data)).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Corrupt(
            f"the record {name} is no JSON: {error!s:.120}", source=archive.source.name, offset=entry.header
        ) from error


def field_of(node: Any, name: str, kind: type, what: str) -> Any:
    """One field of a JSON object, of the expected type.

    Raises:
        Corrupt: it is not there, or of another type.
    """
    value = node.get(name) if isinstance(node, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Corrupt(f"{what} has {name} {brief(value)}", expected=kind.__name__)
    return value


def numbers(nodes: Any, what: str) -> tuple[int, ...]:
    """Sizes or strides; each is a number, or an object with the number under `as_int`.

    Raises:
        Corrupt: one of them is symbolic, or none.
    """
    if not isinstance(nodes, list) or len(nodes) > MAX_DIMS:
        raise Corrupt(f"{what} are {brief(nodes)}", expected="a list of numbers")
    found: list[Any] = [node.get("as_int") if isinstance(node, dict) else node for node in nodes]
    if any(type(number) is not int or not 0 <= number <= MAX_INT64 for number in found):
        raise Corrupt(f"{what} are {brief(nodes)}", expected="natural numbers")
    return tuple(found)


def tensor_of(
    meta: Any, data: Data, what: str, storages: dict[str, StorageRecord], key: str, *, parameter: bool
) -> TensorRecord:
    """The tensor that a TensorMeta describes, over the bytes of its whole storage.

    Args:
        meta: dtype, sizes, strides and offset, in elements.
        data: the storage's bytes; tensors of one `key` share one.
        what: its name, for messages.
        storages: the storages so far, by key.
        key: the storage's.
        parameter: whether it is a Parameter.

    Raises:
        Corrupt: it reaches beyond its bytes.
        Unsupported: it is sparse, or of a type that torch did not have when this was written.
    """
    number = field_of(meta, "dtype", int, what)
    if number not in BY_SCALAR_TYPE:
        raise Unsupported(f"{what} has the ScalarType {number}", feature="dtype", paths=[what])
    layout = meta.get("layout", _STRIDED)
    layout = layout.get("as_int", _STRIDED) if isinstance(layout, dict) else layout
    if layout != _STRIDED:
        raise Unsupported(f"{what} has the layout {brief(layout)}", feature="layout", paths=[what], expected="strided")
    offset = meta.get("storage_offset", 0)
    offset = offset.get("as_int") if isinstance(offset, dict) else offset
    if type(offset) is not int or not 0 <= offset <= MAX_INT64:
        raise Corrupt(f"the storage_offset of {what} is {brief(meta.get('storage_offset'))}")
    device = meta.get("device") or {}
    name = device.get("type", "cpu") if isinstance(device, dict) else "cpu"
    index = device.get("index") if isinstance(device, dict) else None
    shown = f"{name}:{index}" if isinstance(index, int) and name != "cpu" else str(name)
    storage = storages.setdefault(key, StorageRecord(key=key, nbytes=data.nbytes, data=data, device=shown))
    shape, stride = numbers(meta.get("sizes"), f"sizes of {what}"), numbers(meta.get("strides"), f"strides of {what}")
    if len(shape) != len(stride):
        raise Corrupt(f"{what} has {len(shape)} sizes and {len(stride)} strides")
    record = TensorRecord(
        dtype=BY_SCALAR_TYPE[number],
        shape=shape,
        stride=stride,
        storage_offset=offset,
        storage=storage,
        requires_grad=bool(meta.get("requires_grad", False)),
        kind="parameter" if parameter else "tensor",
    )
    check_bounds(record, path=what)
    return record


def signature_of(program: Any) -> Signature:
    """What a program's graph takes in, in the words of every release."""
    found = Signature()
    module = program.get("graph_module") if isinstance(program, dict) else None
    said = module.get("signature") if isinstance(module, dict) else None
    if not isinstance(said, dict):
        return found
    if isinstance(said.get("inputs_to_parameters"), dict):  # 2.1
        found.parameters = [str(name) for name in said["inputs_to_parameters"].values()]
        buffers = said.get("inputs_to_buffers")
        found.buffers = dict.fromkeys(map(str, buffers.values()), True) if isinstance(buffers, dict) else {}
        return found
    specs = said.get("input_specs")
    for spec in specs if isinstance(specs, list) else []:
        kind, facts = next(iter(spec.items()), ("", {})) if isinstance(spec, dict) else ("", {})
        if not isinstance(facts, dict):
            continue
        if kind == "parameter":
            found.parameters.append(str(facts.get("parameter_name")))
        elif kind == "buffer":
            found.buffers[str(facts.get("buffer_name"))] = facts.get("persistent") is not False
        elif kind == "tensor_constant":
            found.constants.append(str(facts.get("tensor_constant_name")))
        elif kind == "custom_obj":
            found.objects.append(str(facts.get("custom_obj_name")))
    return found


def written_by(program: Any) -> dict[str, str]:
    """Which torch wrote a program, and its schema, as far as it says."""
    facts: dict[str, str] = {}
    schema = program.get("schema_version") if isinstance(program, dict) else None
    if isinstance(schema, int):
        facts["schema"] = f"{schema}"
    elif isinstance(schema, dict):
        facts["schema"] = f"{schema.get('major')}.{schema.get('minor')}"
    torch = program.get("torch_version") if isinstance(program, dict) else None
    if isinstance(torch, str):
        facts["torch"] = torch
    return facts
