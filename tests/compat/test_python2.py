"""Files that Python 2 wrote: byte strings where Python 3 has text, old names, old numbers, old classes."""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compat
from compat.errors import CompatError, UnsafeGlobals
from tests.compat.telling import told

HERE = Path(__file__).parent / "python2"
FILES = sorted(path.name for path in HERE.glob("*.pt"))
T = torch.arange(6.0).view(2, 3)
EXPECTED: dict[str, Any] = {
    "tensors": {"a": T, "b": T.t(), "c": [T, T[1]], "bf": torch.ones(2, dtype=torch.bfloat16)},
    # Bytes that are no UTF-8 come as surrogates, from which `encode(errors="surrogateescape")` makes them again.
    "strs": {
        "plain": "abc",
        "utf8": "é",
        "latin": "\udce9\udcff",
        "u": "é",
        "empty": "",
        "nul": "\0",
        "\udce9": 1,
    },
    "nums": {
        "long": 10**30,
        "l": 5,
        "neg": -3,
        "i": 3,
        "f": 1.5,
        "inf": float("inf"),
        "b": True,
        "c": 1 + 2j,
        "big": 2**31,
        "r": [0, 1, 2],
    },
    "np": {
        "a": np.arange(6.0).reshape(2, 3),
        "i": np.arange(3, dtype="<i2"),
        "s": np.float64(3),
        "n": np.int64(-1),
        "u": np.array(["é"]),
        "b": np.array([b"ab", b"\xff"]),
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "bool": np.array([True]),
        "dt": np.dtype("f4"),
        "all": np.arange(256, dtype="u1"),
    },
    "sets": {
        "s": {1, 2},
        "fs": frozenset([3]),
        "od": OrderedDict([("a", 1)]),
        "cnt": Counter("aab"),
        "t": (1, (2,)),
        "size": torch.Size([2, 3]),
        "dtype": torch.float32,
        "dev": torch.device("cpu"),
        "ba": bytearray(b"ab\xff"),
    },
    "param": torch.nn.Parameter(T.clone()),
    # Torch 1.4 did not say whether it is coalesced.
    "sparse": torch.eye(3).to_sparse()._coalesced_(False),
}


def kind(name: str) -> str:
    """Which object a file holds."""
    return name.partition("-")[0]


def unordered(value: Any) -> Any:
    """Told without the order of keys, which Python 2 did not keep."""
    if type(value) is dict:
        return sorted((repr(key), unordered(item)) for key, item in value.items())
    return repr(told(value))


@pytest.mark.parametrize("name", [name for name in FILES if kind(name) in EXPECTED])
def test_what_python_2_wrote_is_read(name: str) -> None:
    assert unordered(compat.load(HERE / name)) == unordered(EXPECTED[kind(name)])


def test_every_object_has_a_file() -> None:
    assert {kind(name) for name in FILES} == {*EXPECTED, "objs", "module", "quantized"}
    assert {name.removesuffix(".pt").split("-")[2] for name in FILES} == {"0", "1", "2"}
    assert {name.split("-")[1] for name in FILES} == {"zip", "legacy"}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_quantized_tensors_are_read(container: str) -> None:
    loaded = compat.load(HERE / f"quantized-{container}-2.pt")
    assert (loaded.q_scale(), loaded.q_zero_point()) == (0.5, 3)
    assert loaded.dequantize().tolist() == T.tolist()


@pytest.mark.parametrize("protocol", [0, 2])
def test_classes_are_named_whatever_way_they_are_made(protocol: int) -> None:
    """Protocol 0 makes an object of a new class by `copy_reg._reconstructor`, one of an old class by INST."""
    path = HERE / f"objs-legacy-{protocol}.pt"
    with pytest.raises(UnsafeGlobals, match=r"__main__\.Old at old") as caught:
        compat.load(path)
    assert {"__main__.Old", "__main__.New", "argparse.Namespace"} == set(caught.value.globals)
    loaded = compat.load(path, on_unknown="keep")
    assert [(str(loaded[key].name), loaded[key].state) for key in ("old", "new", "ns")] == [
        ("__main__.Old", {"x": 1}),
        ("__main__.New", {"y": "z"}),
        ("argparse.Namespace", {"a": 1}),
    ]


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("module")])
def test_the_weights_of_a_whole_module_are_found(name: str) -> None:
    with compat.open(HERE / name) as checkpoint:
        assert checkpoint.format == ("torch-zip" if "zip" in name else "torch-legacy")
        shapes = {path: record.shape for path, record in checkpoint.tensors.items()}
        kinds = {record.kind for path, record in checkpoint.tensors.items() if path.endswith("weight")}
    assert sorted(shapes.values()) == sorted([(3, 2), (3,), (3,), (3,), (3,), (3,), ()])
    assert kinds == {"parameter"}
    loaded = compat.load(HERE / name, on_unknown="keep")
    linear = loaded.state["_modules"]["fc"].state["_parameters"]
    assert torch.equal(linear["weight"], T.t())
    assert linear["bias"].tolist() == [7, 7, 7]


@pytest.mark.parametrize("name", FILES)
def test_conversion_keeps_it(name: str, tmp_path: Path) -> None:
    compat.convert(HERE / name, tmp_path / "a.pt")
    compat.convert(tmp_path / "a.pt", tmp_path / "b", to="torch-legacy")
    assert not compat.diff(HERE / name, tmp_path / "b")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", FILES)
def test_damage_gives_an_error_of_ours_or_a_value(name: str) -> None:
    file = (HERE / name).read_bytes()
    for at in range(0, len(file), max(1, len(file) // 150)):
        broken = bytearray(file)
        broken[at] ^= 1 << at % 8
        for damaged in (bytes(broken), file[:at]):
            with contextlib.suppress(CompatError):
                compat.load(damaged, on_unknown="keep")
