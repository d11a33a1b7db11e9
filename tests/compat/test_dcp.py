"""Folders of torch.distributed.checkpoint: torch's own writer and reader, one rank and two."""

from __future__ import annotations

import inspect
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import compat
from compat.dcptree import nest
from compat.errors import CompatError, Corrupt, TargetExists, Unsupported

dcp: Any = pytest.importorskip("torch.distributed.checkpoint")
# Releases without the option see for themselves that there is one process.
if not hasattr(dcp, "save"):
    pytest.skip("this torch has an early form of it, which the corpus has files of", allow_module_level=True)
ALONE: dict[str, Any] = {"no_dist": True} if "no_dist" in inspect.signature(dcp.save).parameters else {}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # A single process is what these tests ask for.
        warnings.simplefilter("ignore")
        yield


def raw(tensor: torch.Tensor) -> tuple[Any, ...]:
    plain = tensor.detach().contiguous().reshape(-1)
    return (tensor.dtype, tuple(tensor.shape), bytes(plain.view(torch.uint8).numpy()) if plain.numel() else b"")


def state() -> dict[str, Any]:
    base = torch.arange(12.0).reshape(3, 4)
    made: dict[str, Any] = {"model": {"w": base, "turned": base.t(), "part": base[1:, 2:], "empty": torch.zeros(0, 3)}}
    for dtype in (torch.bfloat16, torch.float8_e5m2, torch.complex128, torch.bool, torch.uint64, torch.int8):
        made["model"][str(dtype)] = torch.tensor([1, 0, 1]).to(dtype)
    made["optimizer"] = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {**made, "epoch": 3, "list": [torch.zeros(1), "text", None]}


def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    saved = state()
    dcp.save(saved, checkpoint_id=tmp_path / "c", **ALONE)
    loaded = compat.load(tmp_path / "c")
    for name, tensor in saved["model"].items():
        assert raw(loaded["model"][name]) == raw(tensor), name
    assert loaded["epoch"] == 3
    assert loaded["list"][1:] == ["text", None]
    assert loaded["optimizer"]["param_groups"] == [{"lr": 0.1, "params": [0]}]
    assert raw(loaded["optimizer"]["state"]["0"]["exp_avg"]) == raw(torch.ones(2))
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(tmp_path / "c", tmp_path / "torch.pt")
    theirs = torch.load(tmp_path / "torch.pt", weights_only=False)
    assert theirs["model"].keys() == loaded["model"].keys()


def test_what_is_written_torch_reads(tmp_path: Path) -> None:
    saved = state()
    compat.save(saved, tmp_path / "c", format="dcp")
    target = {"model": {name: torch.zeros_like(tensor) for name, tensor in saved["model"].items()}}
    dcp.load(target, checkpoint_id=tmp_path / "c", **ALONE)
    for name, tensor in saved["model"].items():
        assert raw(target["model"][name]) == raw(tensor), name
    back = compat.load(tmp_path / "c")
    assert back["optimizer"]["state"][0].keys() == {"exp_avg"}
    assert back["model"]["part"].data_ptr() == back["model"]["w"].data_ptr() + 24
    assert back["model"]["turned"].stride() == (1, 4)


def test_converting_there_and_back(tmp_path: Path) -> None:
    compat.save(state(), tmp_path / "a.pt")
    compat.convert(tmp_path / "a.pt", tmp_path / "folder", to="dcp")
    compat.convert(tmp_path / "folder", tmp_path / "b.pt")
    assert not compat.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    with pytest.raises(TargetExists):
        compat.convert(tmp_path / "a.pt", tmp_path / "folder", to="dcp")
    compat.convert(tmp_path / "a.pt", tmp_path / "folder", to="dcp", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt", "folder"]
    with pytest.raises(Unsupported):
        compat.save({"a": object()}, tmp_path / "bad", format="dcp")
    assert not (tmp_path / "bad").exists()


# How a rank ends whose torch cannot be asked to write on its own.
UNASKED = 77
RANKS = """
import inspect, sys, warnings
import torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
warnings.simplefilter("ignore")
rank, store, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
base = torch.arange(35, dtype=torch.float64).reshape(5, 7)
state = {
    "rows": distribute_tensor(base, mesh, [Shard(0)]),
    "columns": distribute_tensor(base.to(torch.bfloat16), mesh, [Shard(1)]),
    "copies": distribute_tensor(base + 1, mesh, [Replicate()]),
    "few": distribute_tensor(torch.arange(1), mesh, [Shard(0)]),
    "plain": base + 2,
    "epoch": 4,
}
dcp.save({"model": state}, checkpoint_id=folder)
# Every rank on its own, as with use_collectives=False: of one state, and of two.
del state["few"], state["epoch"]
if "use_collectives" not in inspect.signature(dcp.save).parameters:
    sys.exit(77)
dcp.save({"model": state}, checkpoint_id=folder + "-each", use_collectives=False)
dcp.save({"model": {"own": torch.full((3,), float(rank))}}, checkpoint_id=folder + "-own", use_collectives=False)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder by two real processes, with tensors split unevenly."""
    pytest.importorskip("torch.distributed.device_mesh")
    home = tmp_path_factory.mktemp("ranks")
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, str(rank), str(home / "store"), str(home / "c")],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    said = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] in ([0, 0], [UNASKED, UNASKED]), said
    return home / "c"


def apart(ranks: Path, name: str) -> Path:
    """A folder that ranks wrote on their own."""
    if not ranks.with_name(name).is_dir():
        pytest.skip("the ranks of this torch write together or not at all")
    return ranks.with_name(name)


def test_a_folder_of_two_ranks_is_read_whole(ranks: Path, tmp_path: Path) -> None:
    base = torch.arange(35, dtype=torch.float64).reshape(5, 7)
    assert len(list(ranks.glob("*.distcp"))) == 2
    loaded = compat.load(ranks)["model"]
    expected = {
        "rows": base,
        "columns": base.to(torch.bfloat16),
        "copies": base + 1,
        "few": torch.arange(1),
        "plain": base + 2,
    }
    assert {name: raw(loaded[name]) for name in expected} == {name: raw(tensor) for name, tensor in expected.items()}
    assert loaded["epoch"] == 4
    compat.convert(ranks, tmp_path / "one.safetensors")
    assert not compat.diff(ranks, tmp_path / "one.safetensors")


def test_ranks_that_wrote_on_their_own_are_read_whole(ranks: Path, tmp_path: Path) -> None:
    base = torch.arange(35, dtype=torch.float64).reshape(5, 7)
    folder = apart(ranks, "c-each")
    assert sorted(path.name for path in folder.glob("*.metadata")) == ["__0.metadata", "__1.metadata"]
    loaded = compat.load(folder)["model"]
    expected = {"rows": base, "columns": base.to(torch.bfloat16), "copies": base + 1, "plain": base + 2}
    assert {name: raw(tensor) for name, tensor in loaded.items()} == {name: raw(t) for name, t in expected.items()}
    (folder / "__1.metadata").rename(tmp_path / "kept")
    with pytest.raises(Corrupt, match="A rank's part is missing"):
        compat.open(folder)
    (tmp_path / "kept").rename(folder / "__1.metadata")


def test_ranks_that_hold_different_states_are_refused(ranks: Path, tmp_path: Path) -> None:
    folder = apart(ranks, "c-own")
    with pytest.raises(Unsupported, match=r"'model\.own' has other values in __1_0\.distcp .* the files of one"):
        compat.open(folder)
    for path in folder.glob("__1*"):
        shutil.copy(path, tmp_path)
    assert compat.load(tmp_path)["model"]["own"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("paths", "tree"),
    [
        ({"x.1": ("x", 1), "x.0": ("x", 0)}, {"x": ["x.0", "x.1"]}),
        ({"x.2": ("x", 2)}, {"x": [None, None, "x.2"]}),
        ({"a": ("a",), "b.c": ("b", "c")}, {"a": "a", "b": {"c": "b.c"}}),
        ({"a": ("a",), "a.b": ("a", "b")}, None),
        ({"a": ("a",), "b": ("a",)}, None),
        ({"a": ()}, None),
        ({"a": (1.5,)}, None),
        ({"a": ("x", -1)}, None),
        ({"a": ("x", 10**9)}, None),
        ({"a": ("x", 0), "b": ("x", "k")}, None),
    ],
)
def test_trees_come_back_from_their_paths(paths: dict[str, tuple[Any, ...]], tree: Any) -> None:
    if tree is not None:
        assert nest({name: name for name in paths}, paths) == tree
        return
    with pytest.raises(Corrupt):
        nest({name: name for name in paths}, paths)


def damaged(ranks: Path, tmp_path: Path, edit: Callable[[Any], None]) -> Path:
    """A copy of the folder whose description was changed, by torch's own classes."""
    copy = tmp_path / "copy"
    shutil.copytree(ranks, copy)
    metadata = pickle.loads((copy / ".metadata").read_bytes())
    edit(metadata)
    (copy / ".metadata").write_bytes(pickle.dumps(metadata))
    return copy


def place(metadata: Any, name: str) -> Any:
    return next(value for key, value in metadata.storage_data.items() if key.fqn == name)


def leads(path: str) -> Callable[[Any], None]:
    return lambda metadata: setattr(place(metadata, "model.plain"), "relative_path", path)


def lies_at(field: str, value: int) -> Callable[[Any], None]:
    return lambda metadata: setattr(place(metadata, "model.plain"), field, value)


def without_a_chunk(metadata: Any) -> None:
    metadata.state_dict_metadata["model.rows"].chunks.pop()


def twice_a_chunk(metadata: Any) -> None:
    chunks = metadata.state_dict_metadata["model.rows"].chunks
    chunks[1] = chunks[0]


def larger(metadata: Any) -> None:
    metadata.state_dict_metadata["model.plain"].chunks[0].sizes = torch.Size([5, 8])


def elsewhere(metadata: Any) -> None:
    metadata.planner_data["model.plain"] = ("model", 3)


def transformed(metadata: Any) -> None:
    place(metadata, "model.plain").transform_descriptors = ["zstd"]


DAMAGES: list[tuple[Callable[[Any], None], type[CompatError]]] = [
    (leads("../../secret"), Corrupt),
    (leads("/etc/passwd"), Corrupt),
    (leads("__9_0.distcp"), Corrupt),
    (lies_at("offset", 1 << 50), Corrupt),
    (lies_at("length", 10), Corrupt),
    (lies_at("offset", 3), CompatError),
    (without_a_chunk, Corrupt),
    (twice_a_chunk, Corrupt),
    (larger, Corrupt),
    (elsewhere, Corrupt),
    (transformed, Unsupported),
]


@pytest.mark.parametrize(("edit", "error"), DAMAGES, ids=map(str, range(len(DAMAGES))))
def test_a_folder_that_lies_is_refused(
    edit: Callable[[Any], None], error: type[CompatError], ranks: Path, tmp_path: Path
) -> None:
    with pytest.raises(error):
        compat.open(damaged(ranks, tmp_path, edit))


def test_a_missing_or_cut_file_is_named(ranks: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ranks, copy)
    file = copy / "__1_0.distcp"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(Corrupt, match=r"__1_0\.distcp"):
        compat.open(copy)
    file.unlink()
    with pytest.raises(Corrupt, match=r"__1_0\.distcp.*not there"):
        compat.open(copy)


def test_nothing_in_a_description_is_called(tmp_path: Path) -> None:
    class Touched:
        def __reduce__(self) -> Any:
            return (exec, ("raise SystemExit('executed')",))

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Touched()))
    with pytest.raises(Corrupt):
        compat.open(tmp_path)
