"""`torch-sharded`: files of `torch.save` and a `*.bin.index.json` that says which tensor lies where.

- kept for every reader: what `torch-zip` keeps of tensors, shard by shard, in one flat dict per shard.
- kept for compat: the tree around the tensors and extras that JSON can say, in the index's metadata under
  `compat.layout`.
- refused: extras that JSON cannot say, opaque objects.
- checked: every name of the index against every shard, both ways; shards lie in the index's folder.
- read: by the index, or by the folder that holds one.

Source of the layout: `shard_checkpoint` of transformers, `split_torch_state_dict_into_shards` of huggingface_hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compat.checkpoint import Checkpoint
from compat.formats._format import Format, WriteOptions, Written
from compat.sharding import capabilities_of, detect, open_sharded, write_sharded
from compat.sources import Source

_SHARDS: Final = "torch-zip"
_SUFFIX: Final = ".bin"


def _detect(source: Source) -> bool:
    return detect(source, _SUFFIX, _SHARDS)


def _open(source: Source) -> Checkpoint:
    return open_sharded(source, FORMAT.name, _SUFFIX, _SHARDS)


def _write(checkpoint: Checkpoint, folder: Path, options: WriteOptions) -> Written:
    return write_sharded(checkpoint, folder, options, _SHARDS)


FORMAT = Format(
    name="torch-sharded",
    summary="transformers before safetensors, for large models",
    suffixes=(".bin.index.json",),
    asked_by=(".bin.index.json", ".pt.index.json", ".pth.index.json"),
    shape="files",
    shards=_SHARDS,
    unpickles=True,
    detect=_detect,
    open=_open,
    write_files=_write,
    capabilities=capabilities_of(_SHARDS),
)
