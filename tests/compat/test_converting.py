"""Conversion: verified, said, whole or not at all."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import compat
from compat import formats
from compat.errors import Corrupt, TargetExists, Unreadable, Unsupported
from tests.compat.making import FORMATS, dumped, name, storage_of, torch_dumped, zipped

STATE = OrderedDict(a=torch.arange(200_000.0), b=torch.ones(3, 1).t(), n={"epoch": 3})


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_progress_counts_every_byte(source: str, to: str, tmp_path: Path) -> None:
    counted: list[int] = []
    done = compat.convert(dumped(STATE, source), tmp_path / "x", to=to, progress=counted.append)
    assert (done.source_format, done.target_format, done.tensors, done.verified) == (source, to, 2, True)
    assert done.nbytes == (tmp_path / "x").stat().st_size
    assert sum(counted) >= done.nbytes
    assert not compat.diff(tmp_path / "x", dumped(STATE))


def test_a_file_is_converted_onto_itself(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(torch_dumped(STATE))
    with pytest.raises(TargetExists):
        compat.convert(path, path)
    compat.convert(path, path, to="safetensors", overwrite=True)
    assert not compat.diff(path, torch_dumped(STATE))
    assert listed(tmp_path) == ["model.pt"]


def test_a_damaged_record_stops_the_conversion_and_leaves_the_target(tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    target.write_bytes(b"precious")
    content = bytearray(dumped(STATE))
    content[content.index(torch.arange(4.0, 8.0).view(torch.uint8).numpy().tobytes())] ^= 1
    with pytest.raises(Corrupt, match="CRC-32"):
        compat.convert(bytes(content), target, overwrite=True)
    assert target.read_bytes() == b"precious"
    assert listed(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_writer_that_fails_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    def fail(_checkpoint: object, file: Any, _options: object) -> Any:
        file.write(b"half")
        raise error

    source = dumped(STATE)
    broken = replace(formats.get("torch-zip"), write=fail)
    monkeypatch.setattr(formats, "get", lambda _: broken)
    target = tmp_path / "x.pt"
    target.write_bytes(b"precious")
    with pytest.raises(Unreadable if isinstance(error, OSError) else type(error)):
        compat.convert(source, target, to="torch-zip", overwrite=True)
    assert target.read_bytes() == b"precious"
    assert listed(tmp_path) == ["x.pt"]


def test_losses_are_asked_for_and_said(tmp_path: Path) -> None:
    big = torch.zeros(1_000_000)
    source = dumped({"a": big[:4], "b": big[2:6], "c": torch.ones(2, dtype=torch.complex128)})
    target = tmp_path / "x.safetensors"
    with pytest.raises(Unsupported) as refused:
        compat.convert(source, target, allow_loss=["dtype"])
    assert refused.value.feature == "aliasing"
    with pytest.raises(Unsupported) as refused:
        compat.convert(source, target, allow_loss=["aliasing"])
    assert refused.value.feature == "dtype"
    assert listed(tmp_path) == []
    done = compat.convert(source, target, allow_loss=["dtype", "aliasing"])
    assert done.lost == {"aliasing": ["a", "b"]}
    assert done.carried["dtype"] == ["c"]
    loaded = compat.load(target)
    assert torch.equal(loaded["c"], torch.ones(2, dtype=torch.complex128))
    assert storage_of(loaded["a"]).nbytes() == 16
    with pytest.raises(Unsupported, match="there is no loss named 'everything' to allow"):
        compat.convert(source, tmp_path / "y", to="safetensors", allow_loss=["everything"])


def test_without_verification_nothing_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compat.converting._verify", lambda *_: pytest.fail("it was read back"))
    assert compat.convert(dumped(STATE), tmp_path / "x.pt", verify=False).verified is False


def test_unknown_objects_go_from_pickle_to_pickle_and_nowhere_else(tmp_path: Path) -> None:
    body = b"}" + name("m.C") + b"K\x01\x85R}X\x01\x00\x00\x00sK\x02sbK\x00s"
    source = zipped(b"}X\x01\x00\x00\x00k" + body[1:-3] + b"s")
    for to in ("torch-legacy", "torch-zip"):
        compat.convert(source, tmp_path / to, to=to)
        assert not compat.diff(source, tmp_path / to)
    with pytest.raises(Unsupported, match=r"as safetensors: k is <Opaque m\.C>"):
        compat.convert(source, tmp_path / "x.safetensors")


def test_big_files_are_streamed(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "big.pt"
    compat.save({str(n): torch.zeros(1 << 20) for n in range(8)}, path)
    tracemalloc.start()
    try:
        compat.convert(path, tmp_path / "x.safetensors")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_target_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="there is no folder"):
        compat.convert(dumped(STATE), tmp_path / "no" / "x.pt")
    with pytest.raises(Unreadable, match="is a directory"):
        compat.convert(dumped(STATE), tmp_path, to="torch-zip")
    assert listed(tmp_path) == []


def test_a_file_object_is_a_source(tmp_path: Path) -> None:
    assert compat.convert(io.BytesIO(dumped(STATE)), tmp_path / "x.pt").source == "<BytesIO>"
