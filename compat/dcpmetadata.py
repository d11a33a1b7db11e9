"""The description of a folder of `torch.distributed.checkpoint`, read from its pickle as inert records.

Source: `torch/distributed/checkpoint/metadata.py`, `filesystem.py` and `planner_helpers.py` of torch 1.13 to 2.15.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from compat.checkpoint import Opaque, TorchValue
from compat.errors import Corrupt, Unsupported, brief
from compat.pickles import read_pickle
from compat.rebuild import MEANINGS
from compat.records import MAX_DIMS, MAX_INT64
from compat.sources import Source

METADATA: Final = ".metadata"
_MAX_CHUNKS: Final = 1_000_000
# TensorProperties pickles itself as (dtype, layout, requires_grad, memory format, pinned).
_PROPERTIES: Final = ("dtype", "layout", "requires_grad", "memory_format", "pin_memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of a tensor: where it begins in it, its shape, and where its bytes lie.

    Attributes:
        path, offset, length: the file in the folder, and the part of it that is a file of torch.save.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One entry: a tensor of some shape in chunks, or a pickled value (`shape` is None) in one."""

    shape: tuple[int, ...] | None
    dtype: str | None
    requires_grad: bool
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a folder holds.

    Attributes:
        items: name → entry.
        paths: name → the keys that lead to it in the nested state; empty where the writer did not flatten.
        globals: what the pickle names.
        facts: what else it says.
    """

    items: dict[str, Item]
    paths: dict[str, tuple[Any, ...]]
    globals: tuple[str, ...]
    facts: dict[str, str]


def read_metadata(source: Source) -> Description:
    """The description in a `.metadata` file.

    Raises:
        Corrupt: it is damaged, or describes something else.
        Unsupported: it needs an extension, such as compression.
    """
    raw = bytes(source.read(0, source.size))
    tree, _, named = read_pickle(raw, meanings=MEANINGS, persistent=_no_storages, source=source.name)
    facts = _fields(tree, "Metadata", source)
    described, stored = facts.get("state_dict_metadata"), facts.get("storage_data")
    if not isinstance(described, dict) or not isinstance(stored, dict):
        raise Corrupt("describes no state", source=source.name, expected="state_dict_metadata and storage_data")
    places = {_index(key, source): _place(value, source) for key, value in stored.items()}
    items = {str(name): _item(str(name), value, places, source) for name, value in described.items()}
    planned = facts.get("planner_data")
    paths = (
        {str(name): tuple(path) for name, path in planned.items() if isinstance(path, (tuple, list))}
        if isinstance(planned, dict)
        else {}
    )
    said = {"version": str(facts["version"])} if isinstance(facts.get("version"), str) else {}
    return Description(items=items, paths=paths, globals=tuple(named), facts=said)


def _no_storages(pid: Any) -> Any:
    raise Corrupt(f"refers to a storage {brief(pid)}", expected="a description without tensors")


def _name(node: Any) -> str:
    return str(node.name).rpartition(".")[2] if isinstance(node, Opaque) else ""


def _fields(node: Any, kind: str, source: Source) -> Mapping[str, Any]:
    """The fields of a dataclass that was pickled.

    Raises:
        Corrupt: it is another one.
    """
    if _name(node) != kind or not isinstance(node.state, dict):
        raise Corrupt(f"has {brief(node)}", source=source.name, expected=f"a {kind}")
    return {str(key): value for key, value in node.state.items()}


def _numbers(value: Any, what: str, source: Source) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > MAX_DIMS:
        raise Corrupt(f"{what} are {brief(value)}", source=source.name)
    found = tuple(value)
    if any(type(number) is not int or not 0 <= number <= MAX_INT64 for number in found):
        raise Corrupt(f"{what} are {brief(value)}", source=source.name, expected="natural numbers")
    return found


def _index(node: Any, source: Source) -> tuple[str, tuple[int, ...] | None]:
    facts = _fields(node, "MetadataIndex", source)
    offset = facts.get("offset")
    return str(facts.get("fqn")), None if offset is None else _numbers(offset, "offsets", source)


def _place(node: Any, source: Source) -> tuple[str, int, int]:
    facts = _fields(node, "_StorageInfo", source)
    if facts.get("transform_descriptors"):
        raise Unsupported(
            f"its items are transformed by {brief(facts['transform_descriptors'])}",
            feature="extension",
            source=source.name,
            hint="torch.distributed.checkpoint reads it with that extension.",
        )
    path = facts.get("relative_path")
    offset, length = _numbers((facts.get("offset"), facts.get("length")), "places", source)
    if not isinstance(path, str):
        raise Corrupt(f"an item lies in {brief(path)}", source=source.name, expected="a file's name")
    return path, offset, length


def _item(name: str, node: Any, places: Mapping[Any, tuple[str, int, int]], source: Source) -> Item:
    if _name(node) == "BytesStorageMetadata":
        place = places.get((name, None))
        if place is None:
            raise Corrupt(f"does not say where {brief(name)} lies", source=source.name)
        path, offset, length = place
        chunk = Chunk(offsets=(), sizes=(), path=path, offset=offset, length=length)
        return Item(shape=None, dtype=None, requires_grad=False, chunks=(chunk,))
    facts = _fields(node, "TensorStorageMetadata", source)
    shape = _numbers(facts.get("size"), f"sizes of {brief(name)}", source)
    listed = facts.get("chunks")
    if not isinstance(listed, list) or len(listed) > _MAX_CHUNKS:
        raise Corrupt(f"the chunks of {brief(name)} are {brief(listed)}", source=source.name)
    chunks = []
    for one in listed:
        part = _fields(one, "ChunkStorageMetadata", source)
        offsets = _numbers(part.get("offsets"), f"offsets of {brief(name)}", source)
        place = places.get((name, offsets))
        if place is None:
            raise Corrupt(f"does not say where the part of {brief(name)} at {list(offsets)} lies", source=source.name)
        sizes = _numbers(part.get("sizes"), f"sizes of {brief(name)}", source)
        path, offset, length = place
        chunks.append(Chunk(offsets=offsets, sizes=sizes, path=path, offset=offset, length=length))
    dtype, requires_grad = _properties(facts.get("properties"))
    _check_cover(name, shape, chunks, source)
    return Item(shape=shape, dtype=dtype, requires_grad=requires_grad, chunks=tuple(chunks))


def _properties(node: Any) -> tuple[str | None, bool]:
    """The dtype and requires_grad; how they are pickled changed over the releases."""
    state = node.state if isinstance(node, Opaque) else None
    facts = dict(zip(_PROPERTIES, state, strict=False)) if isinstance(state, tuple) else state
    facts = facts if isinstance(facts, dict) else {}
    dtype = facts.get("dtype")
    return dtype.name if isinstance(dtype, TorchValue) else None, facts.get("requires_grad") is True


def _check_cover(name: str, shape: tuple[int, ...], chunks: list[Chunk], source: Source) -> None:
    """Refuse chunks that overlap, reach beyond the tensor, or leave a part of it out."""
    total = 0
    regions = []
    for chunk in chunks:
        if len(chunk.offsets) != len(shape) or len(chunk.sizes) != len(shape):
            raise Corrupt(f"a part of {brief(name)} has other dimensions than {list(shape)}", source=source.name)
        ends = [start + size for start, size in zip(chunk.offsets, chunk.sizes, strict=True)]
        if any(end > size for end, size in zip(ends, shape, strict=True)):
            raise Corrupt(f"a part of {brief(name)} reaches beyond {list(shape)}", source=source.name)
        count = _product(chunk.sizes)
        total += count
        if count:
            regions.append((chunk.offsets, tuple(ends)))
    if total != _product(shape):
        raise Corrupt(
            f"the parts of {brief(name)} have {total:,} elements", source=source.name, expected=f"{_product(shape):,}"
        )
    if _overlap(sorted(regions)):
        raise Corrupt(f"two parts of {brief(name)} overlap", source=source.name)


def _overlap(regions: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    """Whether two boxes of a sorted list share an element; only those that begin before the other ends can."""
    for place, (_, ends) in enumerate(regions):
        for starts, others in regions[place + 1 :]:
            if ends and starts[0] >= ends[0]:
                break
            mine = regions[place][0]
            if all(a < d and c < b for a, b, c, d in zip(mine, ends, starts, others, strict=True)):
                return True
    return False


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
