"""TorchScript archives, against torch.jit's own writer and reader."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections import OrderedDict
from typing import Any

import pytest
import torch

import compat
from compat.errors import Corrupt
from matrix.spec import compare
from matrix.tensors import describe

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 1)
        self.norm = torch.nn.BatchNorm2d(2)
        self.head = torch.nn.Linear(2, 2)
        self.tied = torch.nn.Linear(2, 2)
        self.tied.weight = self.head.weight
        self.register_buffer("scale", torch.tensor([1.0, 2.0]))
        self.plain = torch.zeros(3)
        self.sizes = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x)).mean((2, 3)) * self.scale
        out: torch.Tensor = self.tied(self.head(y)) + self.plain.sum() + len(self.sizes)
        return out


def archive(module: Any) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    return buffer.getvalue()


def scripted() -> Any:
    return torch.jit.script(Net().eval())


def traced() -> Any:
    return torch.jit.trace(Net().eval(), torch.ones(2, 1, 2, 2))  # type: ignore[no-untyped-call]  # as above


def renamed(content: bytes, old: str, new: str) -> bytes:
    """The archive with one record under another name, in its directory and in the record's own header."""
    assert content.count(old.encode()) >= 2
    assert len(old) == len(new)
    return content.replace(old.encode(), new.encode())


def test_an_archive_without_its_constants_is_damaged_and_no_file_of_torch_save() -> None:
    with pytest.raises(Corrupt, match=r"constants.pkl' is missing"):
        compat.open(renamed(archive(scripted()), "constants.pkl", "constants.qkl"))


def test_a_class_that_the_code_does_not_have_is_damage() -> None:
    """Without its declaration, nothing says which of its tensors are parameters."""
    with pytest.raises(Corrupt, match="a module is of the class"):
        compat.open(renamed(archive(scripted()), "code/__torch__/", "cope/__torch__/"))


@pytest.mark.parametrize("make", [scripted, traced])
def test_the_state_dict_has_torchs_names_order_and_bytes(make: Any) -> None:
    module = make()
    loaded = compat.load(archive(module))["state_dict"]
    plain = OrderedDict((key, tensor.detach()) for key, tensor in loaded.items())
    expected = OrderedDict(module.state_dict())
    assert compare(describe(expected), describe(plain)) == ()


def test_parameters_and_buffers_are_told_apart() -> None:
    with compat.open(archive(scripted())) as checkpoint:
        kinds = {name: record.kind for name, record in checkpoint.tree["state_dict"].items()}
    assert kinds["conv.weight"] == "parameter"
    assert kinds["norm.running_mean"] == kinds["scale"] == "tensor"


def test_other_attributes_are_kept_apart() -> None:
    loaded = compat.load(archive(scripted()))
    assert loaded["attributes"]["plain"].tolist() == [0, 0, 0]
    assert loaded["attributes"]["sizes"] == [1, 2]


def test_a_frozen_module_has_constants_and_says_so() -> None:
    with compat.open(archive(torch.jit.freeze(scripted()))) as checkpoint:
        assert len(checkpoint.tree["constants"]) > 0
        assert "a frozen module" in checkpoint.notes[0]
        assert not checkpoint.tree["state_dict"]


def test_load_state_dict_finds_the_weights() -> None:
    module = Net().eval()
    state = compat.load_state_dict(archive(torch.jit.script(module)))
    fresh = Net().eval()
    fresh.load_state_dict(state)
    x = torch.ones(2, 1, 3, 3)
    assert torch.equal(fresh(x), module(x))


def test_no_code_of_an_archive_is_run() -> None:
    import sys

    before = {name for name in sys.modules if name.startswith("__torch__")}
    compat.load(archive(scripted()))
    assert {name for name in sys.modules if name.startswith("__torch__")} == before


def test_every_truncation_is_refused() -> None:
    content = archive(scripted())
    for size in range(0, len(content), 97):
        with pytest.raises(compat.CompatError):
            compat.open(content[:size])


def zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return buffer.getvalue()


def described(**changes: Any) -> bytes:
    """An archive as torch 1.2 wrote it: modules in JSON, tensors beside it, attributes in a pickle."""

    def tensor(key: str, dims: list[str], kind: str) -> dict[str, Any]:
        return {"dims": dims, "offset": "0", "dataType": kind, "data": {"key": key}, "device": "cpu"} | (
            {"strides": ["1"]} if dims else {}
        )

    conv = {
        "name": "conv",
        "parameters": [{"isBuffer": False, "tensorId": "0", "name": "weight"}],
        "attributes": [{"type": "Tensor", "name": "count", "id": "0"}, {"type": "int", "name": "size", "id": "1"}],
    }
    model = {
        "protoVersion": "5",
        "mainModule": {"name": "net", "submodules": [conv]},
        "producerName": "pytorch",
        "tensors": [tensor("tensors/0", ["2"], "FLOAT"), tensor("tensors/1", [], "INT64")],
    }
    attributes = b"\x80\x02(ctorch.jit._pickle\nbuild_tensor_from_id\n(K\x01tRK\x07t."
    entries = {
        "net/version": b"1\n",
        "net/model.json": json.dumps(model | changes).encode(),
        "net/attributes.pkl": attributes,
        "net/tensors/0": struct.pack("<2f", 1.5, -0.0),
        "net/tensors/1": struct.pack("<q", 9),
    }
    return zipped(entries)


def test_archives_described_in_json_are_read() -> None:
    loaded = compat.load(described())
    assert list(loaded["state_dict"]) == ["conv.weight", "conv.count"]
    assert loaded["state_dict"]["conv.weight"].tolist() == [1.5, 0]
    assert loaded["state_dict"]["conv.count"].item() == 9
    assert loaded["attributes"] == {"conv.size": 7}


@pytest.mark.parametrize(
    "changes",
    [
        {"mainModule": {"parameters": [{"tensorId": "7", "name": "x"}]}},
        {"mainModule": []},
        {"tensors": [{"dims": ["3"], "dataType": "FLOAT", "data": {"key": "tensors/0"}}]},
        {"tensors": [{"dims": ["2"], "dataType": "FLOAT", "data": {"key": "tensors/9"}}]},
        {"tensors": 3},
    ],
)
def test_a_description_that_contradicts_its_records_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(compat.Corrupt):
        compat.load(described(**changes))


def test_zip_files_of_torch_1_4_are_read() -> None:
    """Their tensors lie in another folder, and every later torch fails on them."""
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(3)}, buffer)
    with zipfile.ZipFile(buffer) as source:
        entries = {name.replace("/data/", "/tensors/"): source.read(name) for name in source.namelist()}
    old = zipped(entries)
    with pytest.raises(RuntimeError, match="failed locating file data/0"):
        torch.load(io.BytesIO(old))
    assert compat.load(old)["a"].tolist() == [0, 1, 2]
