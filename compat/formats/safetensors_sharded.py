"""`safetensors-sharded`: safetensors files and a `*.safetensors.index.json` that says which tensor lies where.

- kept for every reader: what `safetensors` keeps, shard by shard.
- kept for compat: aliases, strides and flags, in each shard; the tree and extras that JSON can say, in the
  index's metadata under `compat.layout`.
- refused and dropped: as `safetensors` does.
- checked: every name of the index against every shard, both ways; shards lie in the index's folder.
- read: by the index, or by the folder that holds one.

Source of the layout: `split_state_dict_into_shards_factory` and `save_torch_model` of huggingface_hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compat.checkpoint import Checkpoint
from compat.formats._format import Format, WriteOptions, Written
from compat.sharding import capabilities_of, detect, open_sharded, write_sharded
from compat.sources import Source

_SHARDS: Final = "safetensors"
_SUFFIX: Final = ".safetensors"


def _detect(source: Source) -> bool:
    return detect(source, _SUFFIX, _SHARDS)


def _open(source: Source) -> Checkpoint:
    return open_sharded(source, FORMAT.name, _SUFFIX, _SHARDS)


def _write(checkpoint: Checkpoint, folder: Path, options: WriteOptions) -> Written:
    return write_sharded(checkpoint, folder, options, _SHARDS)


FORMAT = Format(
    name="safetensors-sharded",
    summary="huggingface_hub, transformers and diffusers, for large models",
    suffixes=(".safetensors.index.json",),
    asked_by=(".safetensors.index.json",),
    shape="files",
    shards=_SHARDS,
    detect=_detect,
    open=_open,
    write_files=_write,
    capabilities=capabilities_of(_SHARDS),
)
