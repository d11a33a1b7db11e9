"""safetensors files: what the library writes, what it reads of ours, and headers that break the rules."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save, save_file

import compat
from compat.dtypes import BY_SAFETENSORS
from compat.errors import Corrupt, UnknownFormat, Unsupported
from tests.compat.making import dumped, header, raw

NAMED = sorted({dtype.name for dtype in BY_SAFETENSORS.values()})


@pytest.mark.parametrize("dtype", NAMED)
def test_every_named_dtype_goes_both_ways(dtype: str, tmp_path: Path) -> None:
    live: torch.dtype = getattr(torch, dtype)
    content = torch.arange(64, dtype=torch.uint8) % 2 if dtype == "bool" else torch.arange(64, dtype=torch.uint8)
    state = {"a": content.view(live).reshape(2, -1)}
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    compat.save(state, ours, format="safetensors")
    save_file(state, theirs)
    for found in (load_file(ours)["a"], compat.load(theirs)["a"], compat.load(ours)["a"]):
        assert (found.dtype, found.shape) == (live, state["a"].shape)
        assert found.view(torch.uint8).flatten().tolist() == content.tolist()
    assert not compat.diff(ours, theirs)


def test_the_library_finds_logical_values_of_views(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    z = torch.view_as_complex(base.reshape(6, 2).clone())
    state = {
        "t": base.t(),
        "step": base[:, ::2],
        "expanded": base[0].expand(2, 4),
        "conj": z.conj(),
        "neg": z.conj().imag,
    }
    path = tmp_path / "x"
    compat.save(state, path, format="safetensors")
    found = load_file(path)
    assert set(found) == set(state)
    for name, tensor in state.items():
        assert raw(found[name]) == raw(tensor), name


def test_metadata_of_others_is_kept(tmp_path: Path) -> None:
    content = save({"a": torch.ones(2)}, metadata={"format": "pt", "author": "ü"})
    with compat.open(content) as checkpoint:
        assert checkpoint.metadata == {"format": "pt", "author": "ü"}
    compat.convert(content, tmp_path / "x.safetensors")
    with compat.open(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.metadata == {"format": "pt", "author": "ü"}


def one(**facts: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **facts}}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (header("{" + " " * 10 + "]"), "header is no JSON"),
        (header(json.dumps({"__metadata__": {}}).encode("utf-16-le")), "header is no JSON"),
        (header(b'{"\xff":1}'), "header is no JSON"),
        (header("{" + '"a":[' * 50_000), "header is no JSON"),
        (header({"a": 1}), "tensor 'a' is described by 1"),
        (header(one(shape=[1] * 65), bytes(8)), "has 65 dimensions"),
        (header(one(shape=[1 << 63]), bytes(8)), "natural numbers"),
        (header(one(shape=[1.5]), bytes(8)), "natural numbers"),
        (header(one(shape="2"), bytes(8)), "natural numbers"),
        (header(one(data_offsets=[0]), bytes(8)), "data_offsets of 'a' are"),
        (header(one(data_offsets=[8, 0]), bytes(8)), "data_offsets of 'a' are"),
        (header(one(dtype=["F32"]), bytes(8)), "unknown dtype"),
        (header(one(dtype="F4", shape=[3]), bytes(8)), "of F4 has shape"),
        (header({**one(), "b": one()["a"]}, bytes(8)), "'b' begins at 0; expected 8"),
        (header({**one(), "b": one(data_offsets=[4, 12])["a"]}, bytes(12)), "'b' begins at 4; expected 8"),
        (struct.pack("<Q", 90) + b'{"a":1}', "ends inside its header of 90 bytes"),
        (header({"__metadata__": []}), "an object of strings"),
    ],
)
def test_a_broken_rule_is_said(file: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        compat.open(file)


def test_an_endless_number_or_a_million_names_take_no_time() -> None:
    digits = ",".join(["9" * 4000] * 500)
    with pytest.raises(Corrupt):
        compat.open(header(f'{{"a":{{"dtype":"F32","shape":[{digits}],"data_offsets":[0,0]}}}}'))
    names = ",".join(f'"{n}":1' for n in range(100_000))
    with pytest.raises(Corrupt, match="names 'z' twice"):
        compat.open(header(f'{{{names},"z":1,"z":1}}'))


def test_a_header_larger_than_the_format_allows_is_unknown() -> None:
    with pytest.raises(UnknownFormat):
        compat.open(struct.pack("<Q", 100_000_001) + b"{" + bytes(100))


def test_an_empty_file_of_arrays_is_an_empty_dict() -> None:
    assert compat.load(header({})) == {}
    assert compat.load(save({})) == {}


def test_metadata_that_is_no_text_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no Unicode text"):
        compat.convert(header('{"__metadata__":{"a":"\\ud800"}}'), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_meta_tensors_are_refused() -> None:
    with pytest.raises(Unsupported, match="has no data") as caught:
        dumped({"a": torch.empty(2, device="meta")}, "safetensors")
    assert caught.value.feature == "meta"


def test_elements_of_six_bits_are_listed_copied_and_given_back(tmp_path: Path) -> None:
    facts: dict[str, dict[str, Any]] = {
        "a": {"dtype": "F6_E2M3", "shape": [2, 4], "data_offsets": [0, 6]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [6, 10]},
        "c": {"dtype": "F6_E3M2", "shape": [4], "data_offsets": [10, 13]},
    }
    text = json.dumps(facts).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "six.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(13)))
    with safetensors.safe_open(path, "np") as theirs:
        assert set(theirs.keys()) == {"a", "b", "c"}
    with compat.open(path) as checkpoint:
        assert checkpoint.tensors["a"].attributes == {"safetensors_dtype": "F6_E2M3", "safetensors_shape": [2, 4]}
    assert compat.load(path)["a"].tolist() == [0, 1, 2, 3, 4, 5]
    compat.convert(path, tmp_path / "through.pt")
    compat.convert(tmp_path / "through.pt", tmp_path / "back.safetensors")
    with compat.open(tmp_path / "back.safetensors") as back:
        assert back.tensors["a"].attributes == {"safetensors_dtype": "F6_E2M3", "safetensors_shape": [2, 4]}
    written = (tmp_path / "back.safetensors").read_bytes()
    said = json.loads(written[8 : 8 + int.from_bytes(written[:8], "little")])
    assert (said["a"]["dtype"], said["a"]["shape"], said["c"]["dtype"]) == ("F6_E2M3", [2, 4], "F6_E3M2")
    facts["a"]["shape"] = [2, 3]
    text = json.dumps(facts).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(13)))
    with pytest.raises(Corrupt, match="expected 36 bits"):
        compat.open(path)
