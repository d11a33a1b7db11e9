"""Golden folders of torch.distributed.checkpoint, by one process and by two."""

import importlib
import os
import subprocess
import sys
import tempfile
from collections import OrderedDict
from typing import Any

from matrix.corpus.writer.release import torch

WORLD = 2


def add(folder: Any) -> None:
    """Write everything of this room."""
    state = state_of(folder.zoo)
    folder.spec("dcp", state)
    folder.add("state.dcp", "dcp", "folder", lambda path: save(state, path, True))
    if os.environ.get("CORPUS_RANKS"):
        folder.spec("dcp-ranks", sharded_state())
        folder.add("ranks.dcp", "dcp-ranks", "folder", save_by_ranks)


def state_of(zoo: Any) -> Any:
    """Return a nested state with a plain value."""
    model = OrderedDict(zoo.fill(zoo.Small()).state_dict())
    turned = torch.arange(6.0).view(2, 3).t()
    return {"model": model, "epoch": 3, "turned": turned, "half": torch.tensor([0.5, -2.0]).half()}


def save(state: Any, path: str, alone: bool) -> str:
    """Save as a folder with the newest function that this torch has."""
    dcp: Any = importlib.import_module("torch.distributed.checkpoint")
    writer = dcp.FileSystemWriter(path)
    if alone and not hasattr(dcp, "save"):
        os.makedirs(path)
    if hasattr(dcp, "save"):
        try:
            dcp.save(state, storage_writer=writer, no_dist=alone)
        except TypeError:  # releases that find out by themselves
            dcp.save(state, storage_writer=writer)
    else:
        dcp.save_state_dict(state, writer, no_dist=alone)
    return "dcp"


def sharded_state() -> Any:
    """Return the whole tensors that two processes hold the parts of."""
    return {"rows": torch.arange(15.0).view(5, 3), "columns": torch.arange(8.0).view(2, 4), "same": torch.ones(3)}


def save_by_ranks(path: str) -> str:
    """Run two processes of this torch that save their parts together."""
    meeting = os.path.join(tempfile.mkdtemp(), "meeting")
    command = [sys.executable, "-m", "matrix.corpus.writer.folders", path, meeting]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(WORLD)]  # noqa: S603 - this interpreter
    codes = [rank.wait() for rank in ranks]
    if any(codes):
        msg = f"the processes ended with {codes}"
        raise RuntimeError(msg)
    return "dcp"


def be_rank(path: str, meeting: str, rank: int) -> None:
    """Save this process's parts."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    dist = torch.distributed
    dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=WORLD)
    mesh = init_device_mesh("cpu", (WORLD,))
    placements = {"rows": Shard(0), "columns": Shard(1), "same": Replicate()}
    whole = sharded_state()
    state = {name: distribute_tensor(value, mesh, [placements[name]]) for name, value in whole.items()}
    save(state, path, False)
    dist.destroy_process_group()


if __name__ == "__main__":
    be_rank(sys.argv[1], sys.argv[2], int(sys.argv[3]))
