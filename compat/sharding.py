"""Checkpoints of several files: an index that says which shard holds which tensor, and the shards beside it.

The index is `{"metadata": {"total_size": bytes}, "weight_map": {tensor: shard}}`, as `save_pretrained` and
`split_state_dict_into_shards_factory` of huggingface_hub and transformers write it. Each shard is a file of a
single-file format with a flat dict of tensors. What a flat dict does not say (nesting, extras, `_metadata`)
lies in the index's metadata under `compat.layout`, where only compat finds it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, Final

from compat import formats, plainjson
from compat.atomic import Counted
from compat.checkpoint import Checkpoint, TensorRecord, path_text, walk
from compat.errors import CompatError, Corrupt, Unsupported, brief
from compat.formats import Capabilities, Format, WriteOptions, Written
from compat.layout import array_names
from compat.sources import FolderSource, Source

_CARRIED: Final = "compat.layout"
_VERSION: Final = 1
_MAX_INDEX: Final = 100_000_000
_MAX_SHARDS: Final = 10_000
_TRIED: Final = 4
_NUMBERED: Final = re.compile(r"-\d{5}-of-(\d{5})\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index that was read.

    Attributes:
        source: the index's own file; weight_map: tensor → shard; metadata: what else it says.
    """

    source: Source
    weight_map: dict[str, str]
    metadata: dict[str, Any]


def index_of(source: Source, suffix: str) -> Index | None:
    """The index that a file is, or the only one with that suffix in a folder; None where there is none.

    Raises:
        Corrupt: it is an index by its first bytes, and damaged.
    """
    known = source.cache.get("index")
    if isinstance(known, Index):
        return known
    if isinstance(source, FolderSource):
        names = [name for name in source.files() if name.endswith(f"{suffix}.index.json")]
        return index_of(source.beside(names[0]), suffix) if len(names) == 1 else None
    if source.size > _MAX_INDEX or b'"weight_map"' not in (text := source.read(0, source.size)):
        return None
    index = source.cache["index"] = _parse(source, bytes(text))
    return index


def _parse(source: Source, text: bytes) -> Index:
    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"the index is no JSON: {error!s:.120}", source=source.name) from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    metadata = content.get("metadata", {}) if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise Corrupt(
            f"the index's weight_map is {brief(weight_map)}",
            source=source.name,
            expected="an object that gives each tensor's name the file that holds it",
        )
    if not isinstance(metadata, dict):
        raise Corrupt(f"the index's metadata is {brief(metadata)}", source=source.name, expected="an object")
    if len(set(weight_map.values())) > _MAX_SHARDS:
        raise Corrupt(f"the index names {len(set(weight_map.values())):,} files", source=source.name)
    return Index(source=source, weight_map=weight_map, metadata=metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{brief(twice)} is named twice")
    return found


def capabilities_of(shards: str) -> Capabilities:
    """What an index and shards of that format keep together: what the shards do, with extras as JSON."""
    return replace(formats.get(shards).capabilities, extras="json", opaque=False)


def detect(source: Source, suffix: str, shards: str) -> bool:
    """Whether a file or folder is an index of shards of that format, told by what the first shard's content is."""
    if source.folder is None and source.head.lstrip()[:1] != b"{":
        return False
    index = index_of(source, suffix)
    if index is None:
        return False
    for shard in sorted(set(index.weight_map.values()))[:_TRIED]:
        with contextlib.suppress(CompatError):
            return _format_of(index.source.beside(shard), shards) is not None
    # No shard can be read: the names say whose index it is, and `open` says what is wrong.
    return any(
        name.endswith(suffix) for name in (index.source.name.removesuffix(".index.json"), *index.weight_map.values())
    )


def _format_of(shard: Source, shards: str) -> Format | None:
    """The shard's format, when it is the one that is written or an older one of the same writers."""
    family = (formats.get(shards), *(f for f in formats.all_formats() if f.shape == "file" and f.writable))
    pickled = family[0].unpickles
    return next(
        (f for f in family if f.unpickles == pickled and (pickled or f.name == shards) and f.detect(shard)), None
    )


def open_sharded(source: Source, name: str, suffix: str, shards: str) -> Checkpoint:
    """Read an index and the descriptions in all its shards.

    Raises:
        Corrupt: index and shards disagree, a shard is missing, or a name leads out of the folder.
    """
    index = index_of(source, suffix)
    if index is None:
        raise Corrupt("holds no index of shards", source=source.name)
    held: dict[str, Any] = {}
    for shard in sorted(set(index.weight_map.values())):
        held |= _shard(index, shard, shards)
    _complete(index)
    missing = [tensor for tensor in index.weight_map if tensor not in held]
    if missing:
        raise Corrupt(
            f"the index says that {index.weight_map[missing[0]]} holds {brief(missing[0])}, and it does not"
            + (f" (nor {len(missing) - 1:,} more of its tensors)" if len(missing) > 1 else ""),
            source=index.source.name,
            hint="Index and shards are of different checkpoints; get them again, together.",
        )
    tree, carried = _tree(index, {tensor: held[tensor] for tensor in index.weight_map})
    return Checkpoint(
        format=name,
        tree=tree,
        source=source.name,
        metadata={key: value for key, value in index.metadata.items() if key != _CARRIED},
        notes=_notes(index, held),
        carried=carried,
        close=source.close,
    )


def _complete(index: Index) -> None:
    """Check the shards' numbers, where their names have some: `…-00002-of-00005.…` is one of five."""
    numbers = [_NUMBERED.search(shard) for shard in set(index.weight_map.values())]
    counts = {int(found[1]) for found in numbers if found}
    if all(numbers) and len(counts) == 1 and counts != {len(numbers)}:
        raise Corrupt(
            f"the index names {len(numbers):,} of {counts.pop():,} shards",
            source=index.source.name,
            hint="Tensors are missing from it; get it again.",
        )


def _shard(index: Index, shard: str, shards: str) -> dict[str, Any]:
    """What one shard holds, when that is what the index says."""
    source = index.source.beside(shard)
    found = _format_of(source, shards)
    if found is None:
        raise Corrupt(f"is no {shards} file", source=source.name, hint="Get this shard again.")
    try:
        tree = found.open(source).tree
    except CompatError as error:
        error.source = error.source or source.name
        raise
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise Corrupt("is no flat dict of tensors", source=source.name, expected="a shard of a checkpoint")
    for tensor in tree:
        if index.weight_map.get(tensor) != shard:
            place = index.weight_map.get(tensor)
            raise Corrupt(
                f"holds {brief(tensor)}, which the index " + (f"places in {place}" if place else "does not name"),
                source=source.name,
                hint="Index and shards are of different checkpoints; get them again, together.",
            )
    return dict(tree)


def _tree(index: Index, tensors: dict[str, Any]) -> tuple[Any, list[str]]:
    text = index.metadata.get(_CARRIED)
    if text is None:
        return tensors, []
    try:
        layout = json.loads(text)
        if layout["version"] != _VERSION:
            raise Unsupported(
                f"{_CARRIED} has version {brief(layout['version'])}",
                feature="version",
                source=index.source.name,
                expected=f"{_VERSION}",
                hint="A newer compat wrote it; update compat.",
            )
        used: set[int] = set()

        def tensor(name: str) -> Any:
            used.add(id(tensors[name]))
            return tensors[name]

        tree = plainjson.decode(layout["tree"], tensor)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Corrupt(f"{_CARRIED} is damaged: {error!s:.120}", source=index.source.name) from error
    for name, record in tensors.items():
        if id(record) not in used:
            raise Corrupt(f"{_CARRIED} leaves out the tensor {brief(name)}", source=index.source.name)
    return tree, [path_text(path) for path, leaf in walk(tree) if not isinstance(leaf, TensorRecord)]


def _notes(index: Index, held: dict[str, Any]) -> list[str]:
    said = index.metadata.get("total_size")
    records = [record for record in held.values() if isinstance(record, TensorRecord)]
    every = sum(record.nbytes for record in records)
    # Writers differ in whether names that share a storage count once.
    distinct = sum({id(record.storage): record.nbytes for record in records}.values())
    if not isinstance(said, int) or said in (every, distinct):
        return []
    return [f"the index says total_size {said:,}; its tensors have {every:,} bytes"]


def write_sharded(checkpoint: Checkpoint, folder: FilePath, options: WriteOptions, shards: str) -> Written:
    """Write shards of at most `max_shard_size` bytes of tensors each, and their index, into a folder.

    Tensors that share a storage stay together, and a tensor is never split: such a shard may be larger.

    Raises:
        Unsupported: the tree holds what neither a shard nor the index can.
    """
    found = formats.get(shards)
    leaves = [(path, leaf) for path, leaf in walk(checkpoint.tree) if isinstance(leaf, TensorRecord)]
    names = array_names([path for path, _ in leaves])
    records = {name: leaf for name, (_, leaf) in zip(names, leaves, strict=True)}
    written = Written()
    metadata: dict[str, Any] = {"total_size": sum(record.nbytes for record in records.values())}
    layout = _layout(checkpoint.tree, records)
    if layout is not None:
        metadata[_CARRIED] = layout
        for path, leaf in walk(checkpoint.tree):
            if not isinstance(leaf, TensorRecord):
                feature = "metadata" if "._metadata" in map(str, path) else "extras"
                written.carried.setdefault(feature, []).append(path_text(path))
    for name, (path, _) in zip(names, leaves, strict=True):
        if path_text(path) != name:
            written.renamed[path_text(path)] = name
    shown = {name: path_text(path) for name, (path, _) in zip(names, leaves, strict=True)}
    groups = _groups(records, options.max_shard_size, whole=found.capabilities.hidden_bytes)
    stem, suffix = _named_after(options.filename, found.suffixes[0])
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        shard = f"{stem}-{number:05}-of-{len(groups):05}{suffix}"
        part = Checkpoint(format=found.name, tree=group, source=checkpoint.source)
        said = _write_shard(found, part, folder / shard, options)
        weight_map |= dict.fromkeys(group, shard)
        for ours, theirs in ((written.lost, said.lost), (written.carried, said.carried)):
            for feature, lost in theirs.items():
                # A shard without tensors has values of its own.
                ours.setdefault(feature, []).extend(shown[name] for name in lost if name in shown)
    index = {"metadata": metadata, "weight_map": {name: weight_map[name] for name in records}}
    (folder / options.filename).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return written


def _layout(tree: Any, records: dict[str, TensorRecord]) -> str | None:
    """What restores the tree around the tensors; None where it is a flat dict of them."""
    if type(tree) is dict and list(tree) == list(records) and all(tree[name] is records[name] for name in records):
        return None
    of_record = {id(record): name for name, record in reversed(records.items())}
    encoded = plainjson.encode(tree, lambda record, _: of_record[id(record)])
    return json.dumps({"version": _VERSION, "tree": encoded}, separators=(",", ":"))


def _groups(records: dict[str, TensorRecord], limit: int, *, whole: bool) -> list[dict[str, TensorRecord]]:
    """The shards' contents, filled in order; with `whole`, a storage counts with the bytes that no tensor shows."""
    units: dict[int, dict[str, TensorRecord]] = {}
    for name, record in records.items():
        units.setdefault(id(record.storage), {})[name] = record
    groups: list[dict[str, TensorRecord]] = [{}]
    room = limit
    for unit in units.values():
        first = next(iter(unit.values()))
        size = first.storage.nbytes if whole else sum(record.nbytes for record in unit.values())
        if size > room and groups[-1]:
            groups.append({})
            room = limit
        groups[-1] |= unit
        room -= size
    return groups


def _named_after(filename: str, suffix: str) -> tuple[str, str]:
    """How the shards of an index are called: `model.safetensors.index.json` gives `model` and `.safetensors`."""
    name = FilePath(filename.removesuffix(".json").removesuffix(".index"))
    return (name.stem, name.suffix) if name.suffix else (name.name, suffix)


def _write_shard(found: Format, part: Checkpoint, path: FilePath, options: WriteOptions) -> Written:
    if found.write is None:
        raise Unsupported(f"{found.name} can be read, not written", feature="write")
    with path.open("xb") as file:
        target: Any = file if options.progress is None else Counted(file, options.progress)
        return found.write(part, target, replace(options, name=path.stem, filename=path.name))
