"""Indexes and their shards: what is written, what is checked, and what other libraries read."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import compat
from compat.errors import Corrupt, TargetExists, Unsupported
from tests.compat.making import storage_of

SUFFIXES = ("safetensors", "bin")


def state() -> OrderedDict[str, Any]:
    made: OrderedDict[str, Any] = OrderedDict(
        (f"layer{n}.weight", torch.arange(64, dtype=torch.float32) + 64 * n) for n in range(6)
    )
    made["tied"] = made["layer5.weight"].detach()
    made["slice"] = made["layer0.weight"][8:16]
    return made


def bytes_of(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().view(torch.uint8).numpy())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_split_and_merged_it_is_the_same(suffix: str, tmp_path: Path) -> None:
    tree = {"state_dict": state(), "epoch": 3, "note": ("a", None, -0.0)}
    whole = tmp_path / "whole.pt"
    compat.save(tree, whole)
    done = compat.convert(whole, tmp_path / f"m.{suffix}", max_shard_size=300)
    assert Path(done.target).name == f"m.{suffix}.index.json"
    assert sorted(path.name for path in tmp_path.glob("m-*")) == [f"m-{n:05}-of-00006.{suffix}" for n in range(1, 7)]
    compat.convert(done.target, tmp_path / "back.pt")
    assert not compat.diff(whole, tmp_path / "back.pt")
    back = compat.load(done.target)["state_dict"]
    assert list(back) == list(state())
    assert back["tied"].data_ptr() == back["layer5.weight"].data_ptr()
    assert storage_of(back["slice"]).data_ptr() == storage_of(back["layer0.weight"]).data_ptr()


def test_other_libraries_read_the_shards(tmp_path: Path) -> None:
    tensors = {f"t{n}": torch.full((10,), float(n)) for n in range(4)}
    for suffix, load in (("safetensors", load_file), ("bin", torch.load)):
        compat.save(tensors, tmp_path / f"m.{suffix}.index.json")
        index = json.loads((tmp_path / f"m.{suffix}.index.json").read_text())
        assert index["metadata"] == {"total_size": 160}
        assert list(index["weight_map"]) == list(tensors)
        held = {k: v for shard in set(index["weight_map"].values()) for k, v in load(tmp_path / shard).items()}
        assert {name: bytes_of(tensor) for name, tensor in held.items()} == {
            name: bytes_of(tensor) for name, tensor in tensors.items()
        }


def test_what_other_libraries_write_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "model-2.safetensors")
    index = {
        "metadata": {"total_size": 20, "total_parameters": 5},
        "weight_map": {"b": "model-2.safetensors", "a": "model-1.safetensors"},
    }
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    for src in (path, tmp_path):
        with compat.open(src) as checkpoint:
            assert checkpoint.format == "safetensors-sharded"
            assert checkpoint.metadata["total_parameters"] == 5
            assert list(checkpoint.tensors) == ["b", "a"]
            assert not checkpoint.notes
    index["metadata"] = {"total_size": 21}
    path.write_text(json.dumps(index))
    with compat.open(path) as checkpoint:
        assert checkpoint.notes == ["the index says total_size 21; its tensors have 20 bytes"]


def test_shards_of_the_legacy_format_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "x.bin"}}))
    assert compat.load(path)["a"].tolist() == [1.0, 1.0]


def rename(index: dict[str, Any], old: str, new: str) -> None:
    index["weight_map"] = {k: new if v == old else v for k, v in index["weight_map"].items()}


def drop(index: dict[str, Any], folder: Path) -> None:
    del folder
    index["weight_map"].popitem()


def forget(index: dict[str, Any], folder: Path) -> None:
    del folder
    first = min(index["weight_map"].values())
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v != first}


def invent(index: dict[str, Any], folder: Path) -> None:
    del folder
    index["weight_map"]["made.up"] = next(iter(index["weight_map"].values()))


def swap(index: dict[str, Any], folder: Path) -> None:
    del folder
    names = sorted(set(index["weight_map"].values()))
    index["weight_map"] = {k: names[(names.index(v) + 1) % len(names)] for k, v in index["weight_map"].items()}


def lead(where: str) -> Callable[[dict[str, Any], Path], None]:
    def change(index: dict[str, Any], folder: Path) -> None:
        first = min(index["weight_map"].values())
        outside = folder.parent / "outside.file"
        (folder / first).rename(outside)
        if where == "link":
            (folder / first).symlink_to(outside)
        else:
            rename(index, first, {"parent": "../outside.file", "absolute": str(outside)}[where])

    return change


def lose(index: dict[str, Any], folder: Path) -> None:
    (folder / sorted(set(index["weight_map"].values()))[1]).unlink()


def cut(index: dict[str, Any], folder: Path) -> None:
    shard = folder / sorted(set(index["weight_map"].values()))[1]
    shard.write_bytes(shard.read_bytes()[:-30])


def numbers(index: dict[str, Any], folder: Path) -> None:
    del folder
    index["weight_map"] = dict.fromkeys(index["weight_map"], 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "which the index does not name"),
        (forget, "names 1 of 2 shards"),
        (invent, "holds 'made.up', and it does not"),
        (swap, "which the index places in"),
        pytest.param(lead("parent"), "leads out of its folder", id="parent"),
        pytest.param(lead("absolute"), "leads out of its folder", id="absolute"),
        pytest.param(lead("link"), "leads out of its folder", id="link"),
        (lose, "which is not there"),
        (cut, "cut short|Get this shard again|missing|central directory"),
        (numbers, "weight_map is"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_index_and_shards_must_agree(
    change: Callable[[dict[str, Any], Path], None], message: str, suffix: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    compat.save({f"t{n}": torch.full((64,), float(n)) for n in range(4)}, tmp_path / "one.pt")
    compat.convert(tmp_path / "one.pt", folder / f"m.{suffix}", max_shard_size=512)
    path = folder / f"m.{suffix}.index.json"
    index = json.loads(path.read_text())
    change(index, folder)
    path.write_text(json.dumps(index))
    with pytest.raises(Corrupt, match=message):
        compat.open(path)


def test_a_cached_repository_may_link_to_its_blobs(tmp_path: Path) -> None:
    home = tmp_path / "models--a--b"
    snapshot = home / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    compat.save({"a": torch.ones(1)}, tmp_path / "m.safetensors.index.json")
    for path in tmp_path.glob("m*"):
        if path.is_file():
            path.rename(home / "blobs" / path.name)
            (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert compat.load(snapshot / "m.safetensors.index.json")["a"].tolist() == [1.0]


def test_nothing_is_left_when_a_name_is_taken(tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors.index.json"
    taken = tmp_path / "m-00001-of-00001.safetensors"
    taken.write_bytes(b"mine")
    with pytest.raises(TargetExists):
        compat.save({"a": torch.ones(1)}, target)
    assert [path.name for path in tmp_path.iterdir()] == [taken.name]
    assert taken.read_bytes() == b"mine"
    compat.save({"a": torch.ones(1)}, target, overwrite=True)
    assert list(compat.load(target)) == ["a"]


def test_what_a_shard_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    for suffix, bad in (("safetensors", torch.zeros(2, dtype=torch.complex128)), ("bin", object())):
        with pytest.raises(Unsupported):
            compat.save({"a": bad}, tmp_path / f"m.{suffix}.index.json")
    assert list(tmp_path.iterdir()) == []


def test_sizes_as_people_write_them(tmp_path: Path) -> None:
    compat.save({f"t{n}": torch.zeros(300) for n in range(4)}, tmp_path / "one.pt")
    sizes: tuple[tuple[int | str, int], ...] = (("2.4KB", 2), ("1kib", 4), (10**9, 1), ("5 GB", 1))
    for number, (size, shards) in enumerate(sizes):
        done = compat.convert(tmp_path / "one.pt", tmp_path / f"{number}.safetensors", max_shard_size=size)
        assert len(list(tmp_path.glob(f"{number}-*"))) == shards, size
        assert done.verified
    for bad in ("many", 0, "-1GB", "5XB"):
        with pytest.raises(Unsupported, match="is no size"):
            compat.convert(tmp_path / "one.pt", tmp_path / "x.safetensors", max_shard_size=bad)
    with pytest.raises(Unsupported, match="has no shards"):
        compat.convert(tmp_path / "one.pt", tmp_path / "x.pt", to="torch-legacy", max_shard_size=10)
