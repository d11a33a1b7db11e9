"""What in a file decides which torch loads it: its container, the opcodes of its pickle streams, and what they call.

A trait is a short text, the same for every file that has it. Nothing of a file is executed for it.

Sources: `torch/serialization.py` (`_save`, `_legacy_save`), `torch/_export/serde/schema.py` (`SCHEMA_VERSION`),
`caffe2/serialize/versions.h`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from compat.checkpoint import Attribute
from compat.errors import CompatError
from compat.pickles.shadows import Named, Shadow, Trace
from compat.sources import Source
from compat.streams import Search
from compat.torcharchive import archive_of

NAME: Final = "the name "
OWN: Final = "a class that is not torch's"
# What comes with Python or with what torch is used with; anything else is a class of someone's own.
_KNOWN: Final = frozenset(
    {"__builtin__", "_codecs", "builtins", "collections", "copy_reg", "copyreg", "datetime", "decimal", "enum"}
    | {"functools", "numpy", "pathlib", "torch"}
)
# Its second argument is a tuple, which grew: `torch/_utils.py`.
_SPARSE: Final = "torch._utils._rebuild_sparse_tensor"
LOAD: Final = "torch.load"
# Format → the call of torch that was measured on it. Of formats without a row, less is told.
ASKED: Final = {
    "torch-export": "torch.export.load",
    "torch-legacy": LOAD,
    "torch-zip": LOAD,
    "torchscript": "torch.jit.load",
}


def traits(found: Search, source: Source) -> frozenset[str]:
    """The traits of a file that was searched; none where it is no checkpoint of torch's.

    Args:
        found: what `compat.streams.search` found in it.
        source: the file.
    """
    checkpoint = found.checkpoint
    if checkpoint is None:
        return frozenset()
    seen = {f"the format {checkpoint.format}", *_of_container(dict(checkpoint.metadata))}
    if ASKED.get(checkpoint.format) == LOAD:
        seen |= set(_of_archive(source))
        for stream in found.streams:
            seen |= set(_of_stream(stream.trace))
    return frozenset(seen)


def _of_container(facts: dict[str, Any]) -> Iterator[str]:
    if "version" in facts:
        yield f"an archive of version {facts['version']}"
    if "schema" in facts:
        yield f"the schema {facts['schema']}"
        yield f"an archive of layout {facts.get('archive', 'none')}"


def _of_archive(source: Source) -> Iterator[str]:
    try:
        archive = archive_of(source)
    except CompatError:
        return
    if archive is None:
        return
    if any(entry.crc32 is None for entry in archive.entries.values()):
        yield "records without sums"
    if any("/tensors/" in name for name in archive.entries):
        yield "tensors below tensors/"


def _of_stream(traced: Trace) -> Iterator[str]:
    yield f"the pickle protocol {traced.protocol}"
    yield from (f"the opcode {name}" for name in traced.opcodes)
    for named in traced.names:
        written = named.written or str(named.name)
        yield NAME + written if written.partition(".")[0] in _KNOWN else OWN
    for node in _shadows(traced.root):
        if isinstance(node.by, Named) and node.by.name.module.partition(".")[0] == "torch":
            yield from _of_call(node, str(node.by.name))
    if traced.carried:
        yield "classes with their source"


def _of_call(node: Shadow, name: str) -> Iterator[str]:
    for step, args in node.below:
        if step == Attribute("args") and isinstance(args, Shadow):
            yield f"a call of {name} with {args.size} arguments"
            if name == _SPARSE:
                parts = (part for _, part in args.below if isinstance(part, Shadow) and part.kind == "tuple")
                yield from (f"a sparse tensor of {part.size} parts" for part in parts)


def _shadows(root: Any) -> Iterator[Shadow]:
    """Every shadow of a tree, once."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Shadow) and id(node) not in seen:
            seen.add(id(node))
            waiting.append(node.by)
            waiting += [value for _, value in node.below]
            yield node
