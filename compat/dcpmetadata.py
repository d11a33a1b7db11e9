"""The description of a folder of `torch.distributed.checkpoint`, read from its pickle as inert records.

Source: `torch/distributed/checkpoint/metadata.py`, `filesystem.py` and `planner_helpers.py` of torch 2.0 to 2.15, and
`torch/distributed/_shard/checkpoint/` of torch 1.13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from compat.checkpoint import Opaque, TorchValue
from compat.dcpparts import check_parts
from compat.errors import Corrupt, Unsupported, brief
from compat.pickles import read_pickle
from compat.rebuild import MEANINGS
from compat.records import MAX_DIMS, MAX_INT64
from compat.sources import Source

METADATA: Final = ".metadata"
# Of one rank, where the ranks wrote without coordination (torch 2.9 and newer, `use_collectives=False`).
OF_A_RANK: Final = re.compile(r"__(\d{1,9})\.metadata\Z")
# TensorProperties pickles itself as (dtype, layout, requires_grad, memory format, pinned).
_PROPERTIES: Final = ("dtype", "layout", "requires_grad", "memory_format", "pin_memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of a tensor: where it begins in it, its shape, and where its bytes lie.

    Attributes:
        offsets, sizes: in elements, for each dimension of the tensor.
        path, offset, length: the file in the folder, and the part of it that is a file of torch.save.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One entry: a tensor of some shape in chunks, or a pickled value (`shape` is None) in one.

    Attributes:
        chunks: the parts, in the writer's order, each region once.
        copies: what other ranks wrote for a region, with the part among `chunks` that it must equal.
    """

    shape: tuple[int, ...] | None
    dtype: str | None
    requires_grad: bool
    chunks: tuple[Chunk, ...]
    copies: tuple[tuple[Chunk, Chunk], ...] = ()


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


def is_description(name: str) -> bool:
    """Whether a file of that name describes a folder, or one rank's part of it."""
    return name == METADATA or OF_A_RANK.match(name) is not None


def read_description(folder: Source, names: Sequence[str]) -> Description:
    """The description of a folder that has files of these names: the one of all ranks, or those of each together.

    Raises:
        Corrupt: it is damaged, describes something else, or a tensor is not whole.
        Unsupported: an item needs an extension, such as compression; or the ranks describe different things.
    """
    own = sorted((int(found[1]), name) for name in names if (found := OF_A_RANK.match(name)))
    files = [METADATA] if METADATA in names else [name for _, name in own]
    described = [_read(folder.beside(name)) for name in files]
    whole = described[0] if len(described) == 1 else _merged(described, folder)
    for name, item in whole.items.items():
        if item.shape is not None:
            check_parts(name, item.shape, [(c.offsets, c.sizes) for c in item.chunks], folder.beside(files[0]).name)
    return whole


def _read(source: Source) -> Description:
    raw = bytes(source.read(0, source.size))
    tree, _, named = read_pickle(raw, meanings=MEANINGS, persistent=_no_storages, source=source.name)
    facts = _fields(tree, "Metadata", source)
    described, stored = facts.get("state_dict_metadata"), facts.get("storage_data")
    if not isinstance(described, dict) or not isinstance(stored, dict):
        raise Corrupt("describes no state", source=source.name, expected="state_dict_metadata and storage_data")
    places = {_index(key, source): _place(value, source) for key, value in stored.items()}
    items = {_text(name, source): _item(name, value, places, source) for name, value in described.items()}
    planned = facts.get("planner_data")
    # Planners other than torch's default one keep there what they like.
    paths = planned if isinstance(planned, dict) and all(isinstance(path, tuple) for path in planned.values()) else {}
    said = {"version": facts["version"]} if isinstance(facts.get("version"), str) else {}
    return Description(items=items, paths=paths, globals=tuple(named), facts=said)


def _merged(described: Sequence[Description], folder: Source) -> Description:
    """One description of the state that several ranks wrote, each without knowing of the others."""
    items: dict[str, Item] = {}
    paths: dict[str, tuple[Any, ...]] = {}
    for rank in described:
        for name, item in rank.items.items():
            known = items.setdefault(name, item)
            if known is not item:
                items[name] = _joined(name, known, item, folder)
        paths |= {name: path for name, path in rank.paths.items() if name not in paths}
    named = dict.fromkeys(name for rank in described for name in rank.globals)
    return Description(items=items, paths=paths, globals=tuple(named), facts=described[0].facts)


def _joined(name: str, known: Item, item: Item, folder: Source) -> Item:
    if (known.shape, known.dtype) != (item.shape, item.dtype):
        raise Unsupported(
            f"its ranks hold different things as {brief(name)}: {known.dtype or 'a value'} of {brief(known.shape)} "
            f"and {item.dtype or 'a value'} of {brief(item.shape)}",
            feature="ranks",
            source=folder.name,
            expected="parts of one state",
            hint="Each rank wrote a state of its own: put the files of one into a folder, and open that; or save "
            "with use_collectives=True.",
        )
    regions = {(chunk.offsets, chunk.sizes): chunk for chunk in known.chunks}
    fresh = [chunk for chunk in item.chunks if (chunk.offsets, chunk.sizes) not in regions]
    copies = [(regions[c.offsets, c.sizes], c) for c in item.chunks if (c.offsets, c.sizes) in regions]
    return replace(known, chunks=(*known.chunks, *fresh), copies=(*known.copies, *copies))


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


def _text(name: Any, source: Source) -> str:
    if not isinstance(name, str):
        raise Corrupt(f"an item is named {brief(name)}", source=source.name, expected="a text")
    return name


def _index(node: Any, source: Source) -> tuple[str, tuple[int, ...] | None]:
    facts = _fields(node, "MetadataIndex", source)
    offset = facts.get("offset")
    return _text(facts.get("fqn"), source), None if offset is None else _numbers(offset, "offsets", source)


def _place(node: Any, source: Source) -> tuple[str, int, int]:
    facts = _fields(node, "_StorageInfo", source)
    if facts.get("transform_descriptors"):
        raise Unsupported(
            f"its items were transformed by {brief(facts['transform_descriptors'])}",
            feature="extension",
            source=source.name,
            expected="items that no extension compressed or changed",
            hint="Load it with torch.distributed.checkpoint and that extension, and save it again without.",
        )
    path = facts.get("relative_path")
    offset, length = _numbers((facts.get("offset"), facts.get("length")), "places", source)
    if not isinstance(path, str):
        raise Corrupt(f"an item lies in {brief(path)}", source=source.name, expected="a file's name")
    return path, offset, length


def _item(name: str, node: Any, places: Mapping[Any, tuple[str, int, int]], source: Source) -> Item:
    if _name(node) == "BytesStorageMetadata":
        chunk = _chunk(name, None, (), places, source)
        return Item(shape=None, dtype=None, requires_grad=False, chunks=(chunk,))
    facts = _fields(node, "TensorStorageMetadata", source)
    shape = _numbers(facts.get("size"), f"the sizes of {brief(name)}", source)
    listed = facts.get("chunks")
    if not isinstance(listed, list):
        raise Corrupt(f"the parts of {brief(name)} are {brief(listed)}", source=source.name, expected="a list")
    # Early releases list the copies of a replicated tensor, all of which are one place.
    chunks: dict[Any, Chunk] = {}
    for one in listed:
        part = _fields(one, "ChunkStorageMetadata", source)
        offsets = _numbers(part.get("offsets"), f"the offsets of a part of {brief(name)}", source)
        sizes = _numbers(part.get("sizes"), f"the sizes of a part of {brief(name)}", source)
        chunks[offsets, sizes] = _chunk(name, offsets, sizes, places, source)
    dtype, requires_grad = _properties(facts.get("properties"))
    return Item(shape=shape, dtype=dtype, requires_grad=requires_grad, chunks=tuple(chunks.values()))


def _chunk(
    name: str,
    offsets: tuple[int, ...] | None,
    sizes: tuple[int, ...],
    places: Mapping[Any, tuple[str, int, int]],
    source: Source,
) -> Chunk:
    place = places.get((name, offsets))
    if place is None:
        where = "" if offsets is None else f" the part at {list(offsets)} of"
        raise Corrupt(f"does not say where{where} {brief(name)} lies", source=source.name)
    path, offset, length = place
    return Chunk(offsets=offsets or (), sizes=sizes, path=path, offset=offset, length=length)


def _properties(node: Any) -> tuple[str | None, bool]:
    """The dtype and requires_grad; how they are pickled changed over the releases."""
    state = node.state if isinstance(node, Opaque) else None
    facts = dict(zip(_PROPERTIES, state, strict=False)) if isinstance(state, tuple) else state
    facts = facts if isinstance(facts, dict) else {}
    dtype = facts.get("dtype")
    return dtype.name if isinstance(dtype, TorchValue) else None, facts.get("requires_grad") is True
