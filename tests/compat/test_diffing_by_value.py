"""Tensors are found by their bytes alone, each by one other, and guesses are only made when asked for."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import compat
from compat import fingerprints
from compat.cli import main
from compat.errors import Corrupt, Unsupported
from compat.fingerprints import digest, is_zero, total
from compat.matching import Pair
from compat.narrowing import narrowed
from compat.similarity import assign
from tests.compat.making import FORMATS, REAL, dumped, raw, tensor, torch_dumped, with_marks, zipped


def found(left: Any, right: Any, ambiguous: str = "keep") -> compat.Correspondence:
    return compat.correspond(torch_dumped(left), torch_dumped(right), ambiguous=ambiguous)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_tensors_are_found_whatever_they_are_called() -> None:
    left = {"a.weight": noise(3, 4), "a.bias": noise(4, seed=1), "gone": noise(5)}
    right = {"state": {"y": left["a.bias"].clone(), "x": left["a.weight"].clone(), "more": noise(6)}}
    matched = found(left, right)
    assert matched.names() == {"a.weight": "state.x", "a.bias": "state.y"}
    assert [(pair.how, pair.by) for pair in matched.pairs] == [("same", "value")] * 2
    assert (matched.only_left, matched.only_right, matched.alike) == (["gone"], ["state.more"], [])
    assert not matched.complete
    del left["gone"]
    assert found(left, right).complete
    assert not found(right, left).complete


@pytest.mark.parametrize(
    ("left", "right", "how", "detail"),
    [
        (noise(3, 4), noise(3, 4).t().contiguous(), "permuted", "dimensions [1, 0] of [3, 4]"),
        (noise(3, 4), noise(3, 4).t(), "permuted", "dimensions [1, 0] of [3, 4]"),
        (noise(3, 3), noise(3, 3).t().contiguous(), "permuted", "dimensions [1, 0] of [3, 3]"),
        (noise(2, 3, 4), noise(2, 3, 4).permute(2, 0, 1).contiguous(), "permuted", "dimensions [2, 0, 1] of [2, 3, 4]"),
        (noise(5, 1, 7), noise(5, 1, 7).permute(2, 1, 0).contiguous(), "permuted", "dimensions [2, 0] of [5, 1, 7]"),
        (noise(2, 3, 2, 3, 2), noise(2, 3, 2, 3, 2).permute(4, 3, 2, 1, 0).clone(), "permuted", "dimensions [4, 3, 2,"),
        (noise(3, 4), noise(3, 4).reshape(12), "reshaped", "[3, 4] as [12]"),
        (noise(7), noise(7).reshape(1, 7, 1), "reshaped", "[7] as [1, 7, 1]"),
        (torch.tensor(0.5), torch.tensor([0.5]), "reshaped", "[] as [1]"),
        (noise(3, 4), noise(3, 4).half(), "cast", "float32 as float16"),
        (noise(3, 4).bfloat16(), noise(3, 4), "cast", "bfloat16 as float32"),
        (noise(3, 4, dtype=torch.float64), noise(3, 4), "cast", "float64 as float32"),
        (noise(3, 4).half(), noise(3, 4).half().float(), "cast", "float16 as float32"),
        (noise(3, 4), noise(4, 3).t().copy_(noise(3, 4)), "same", ""),
        (noise(6)[::2], noise(6)[::2].clone(), "same", ""),
        (noise(3).to(torch.complex64), noise(3).to(torch.complex64), "same", ""),
        (torch.empty(0, 3), torch.empty(0, 3), "same", ""),
        (noise(300_000), noise(300_000).bfloat16(), "cast", "float32 as bfloat16"),
    ],
)
def test_values_are_found_in_another_layout(left: torch.Tensor, right: torch.Tensor, how: str, detail: str) -> None:
    matched = found({"l": left}, {"r": right})
    assert [(pair.left, pair.right, pair.how) for pair in matched.pairs] == [("l", "r", how)]
    assert matched.pairs[0].detail.startswith(detail)
    assert matched.complete


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (noise(3, 4), noise(3, 4, seed=1)),
        (torch.zeros(2), -torch.zeros(2)),
        (noise(4), noise(4).view(torch.int32)),
        pytest.param(noise(4).to(torch.complex64), noise(4).to(torch.complex64).conj(), marks=with_marks),
        (noise(3, 4), noise(3, 4).flip(0)),
        (noise(3, 4), noise(3, 4).t().contiguous().half()),
        (noise(3, 4), (noise(3, 4) * 1.01).half()),
        (torch.arange(6.0).reshape(2, 3), torch.tensor([[0.0, 2, 1], [3, 4, 5]])),
        (torch.arange(4.0).reshape(2, 2), torch.tensor([[3.0, 2], [1, 0]])),
        (torch.empty(0, 3), torch.empty(3, 0)),
        (torch.ones(2), torch.empty(2, device="meta")),
        (torch.empty(2, device="meta"), torch.empty(2, device="meta")),
        (torch.cat([noise(2000), torch.ones(1)]), torch.cat([noise(2000), torch.zeros(1)]).half()),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_other_values_are_not_found(left: torch.Tensor, right: torch.Tensor) -> None:
    matched = found({"l": left}, {"r": right})
    assert (matched.pairs, matched.groups) == ([], [])
    assert (matched.only_left, matched.only_right) == (["l"], ["r"])
    assert matched.alike == (["l"] if (left.shape, left.dtype) == (right.shape, right.dtype) else [])


def test_equal_tensors_are_a_group_until_a_guess_is_asked_for() -> None:
    left = {"a.weight": noise(2), "a.bias": torch.zeros(4), "b.weight": noise(2, seed=1), "b.bias": torch.zeros(4)}
    right = {"y.bias": torch.zeros(4), "x.bias": torch.zeros(4), "x.weight": noise(2), "y.weight": noise(2, seed=1)}
    kept = found(left, right)
    assert kept.complete
    assert [(group.left, group.right, group.what, group.short) for group in kept.groups] == [
        (["a.bias", "b.bias"], ["y.bias", "x.bias"], "float32 of shape [4], all zero", 0)
    ]
    named = found(left, right, "name")
    assert named.groups == []
    assert named.names() == {"a.weight": "x.weight", "a.bias": "x.bias", "b.weight": "y.weight", "b.bias": "y.bias"}
    assert [pair.by for pair in named.pairs] == ["value", "name", "value", "name"]
    assert found(left, right, "order").names()["a.bias"] == "y.bias"


def test_too_few_of_equal_tensors_are_not_enough() -> None:
    left, right = {"a": torch.ones(3), "b": torch.ones(3)}, {"x": torch.ones(3)}
    kept = found(left, right)
    assert (kept.groups[0].short, kept.groups[0].what, kept.complete) == (1, "float32 of shape [3]", False)
    assert found(right, left).complete
    named = found(left, right, "order")
    assert (named.names(), named.only_left, named.complete) == ({"a": "x"}, ["b"], False)


def test_one_tensor_of_several_names_is_one() -> None:
    shared = noise(3, 4)
    left = {"embed.weight": shared, "head.weight": shared}
    matched = found(left, {"head.weight": shared.clone()})
    assert matched.complete
    assert [(pair.left, pair.right, pair.by) for pair in matched.pairs] == [
        ("embed.weight", "head.weight", "sharing"),
        ("head.weight", "head.weight", "sharing"),
    ]
    tied = found(left, {"x.head.weight": shared, "x.embed.weight": shared})
    assert tied.names() == {"embed.weight": "x.embed.weight", "head.weight": "x.head.weight"}
    assert found({"head.weight": shared.clone()}, left).only_right == []


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_matched_with_every_other(form: str) -> None:
    state = {"w": noise(3, 4), "v": noise(3, 4, seed=1)[:, 1:3], "b": noise(5, seed=2, dtype=torch.bfloat16)}
    for other in FORMATS:
        matched = compat.correspond(dumped(state, form), dumped({f"m.{k}": v for k, v in state.items()}, other))
        assert matched.names() == {"w": "m.w", "v": "m.v", "b": "m.b"}
    with compat.open(dumped(state, form)) as a, compat.open(dumped(state)) as b:
        assert compat.correspond(a, b).complete
        assert compat.correspond(b, a).complete  # neither was closed


def test_big_endian_storages_are_matched() -> None:
    data = struct.pack(">4f", 1, 2, 3, 4)
    big = zipped(b"}X\1\0\0\0a" + tensor() + b"s", {"byteorder": b"big", "data/0": data})
    assert compat.correspond(big, torch_dumped({"x": torch.tensor([1.0, 2, 3, 4])})).names() == {"a": "x"}
    flat = zipped(b"}X\1\0\0\0a" + tensor((2, 2), (1, 2)) + b"s", {"byteorder": b"big", "data/0": data})
    assert compat.correspond(flat, torch_dumped({"x": torch.tensor([[1.0, 3], [2, 4]])})).names() == {"a": "x"}


def test_a_wrong_sum_is_found_on_the_way(tmp_path: Path) -> None:
    content = torch_dumped({"a": noise(64)})
    at = content.find(raw(noise(64)))
    spoiled = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    with pytest.raises(Corrupt, match="CRC-32"):
        compat.correspond(spoiled, torch_dumped({"x": noise(64)}))
    content = torch_dumped({"a": noise(8, 8).t()})
    at = content.find(raw(noise(8, 8)))
    path = tmp_path / "a.pt"
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(Corrupt, match="CRC-32"):
        compat.correspond(path, torch_dumped({"x": noise(8, 8)}))


def test_views_that_show_far_more_than_there_is_take_no_time() -> None:
    wide, tall = torch.ones(2, 1).expand(2, 10**9), torch.ones(2, 1).expand(2, 10**9)
    assert found({"a": wide}, {"b": tall}).complete
    a = zipped(b"}X\1\0\0\0a" + tensor((1 << 30, 1 << 2), (0, 1)) + b"s", {"data/0": bytes(range(16))})
    b = zipped(b"}X\1\0\0\0a" + tensor((1 << 2, 1 << 30), (1, 0)) + b"s", {"data/0": bytes(range(16))})
    assert compat.correspond(a, a).complete
    assert not compat.correspond(a, b).pairs
    overlapping = tensor((1 << 20, 1 << 20), (1, 1), numel=1 << 21)
    big = zipped(b"}X\1\0\0\0a" + overlapping + b"s", {"data/0": bytes(1 << 23)})
    with pytest.raises(Unsupported, match="out of a storage of"):
        compat.correspond(big, big)


def test_memory_does_not_grow_with_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_BLOCK", 1 << 16)
    base = torch.arange(1_000_000, dtype=torch.int32).view(torch.float32).reshape(1000, 1000)
    torch.save({"w": base}, tmp_path / "a.pt")
    torch.save({"w": base.t().contiguous()}, tmp_path / "b.pt")
    torch.save({"w": base.t()}, tmp_path / "c.pt")
    compat.save({"w": base.t().contiguous()}, tmp_path / "d.safetensors")
    compat.correspond(tmp_path / "a.pt", tmp_path / "a.pt")  # what is imported on the way is no matter
    tracemalloc.start()
    how = [
        compat.correspond(tmp_path / "a.pt", tmp_path / other).pairs[0].how
        for other in ("a.pt", "b.pt", "c.pt", "d.safetensors")
    ]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert how == ["same", "permuted", "permuted", "permuted"]
    assert peak < base.numel() * base.element_size() / 2


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [(torch.float64, torch.float32), (torch.float32, torch.float16), (torch.float32, torch.bfloat16)],
)
def test_values_are_rounded_as_torch_rounds(wide: torch.dtype, narrow: torch.dtype) -> None:
    bits = torch.randint(-(2**31), 2**31 - 1, (20_000,), generator=torch.Generator().manual_seed(3)).to(torch.int32)
    values = torch.cat(
        [bits.view(torch.float32), torch.tensor([0.0, -0.0, 1e30, -1e30, 65519.0, 65520.0, 1e-8, float("inf")])]
    ).to(wide)
    values = torch.cat([values[~values.isnan()], noise(1000, dtype=torch.float64).mul(1e40).to(wide)])
    values = values[~values.isnan()]
    names = [str(dtype).removeprefix("torch.") for dtype in (wide, narrow)]
    content = raw(values)
    pieces = [content[at : at + 777] for at in range(0, len(content), 777)]
    assert b"".join(narrowed(pieces, *names)) == raw(values.to(narrow))
    nan = torch.tensor([float("nan")], dtype=wide)
    made = torch.frombuffer(bytearray(b"".join(narrowed([raw(nan)], *names))), dtype=narrow)
    assert made.isnan().all()


def test_sums_are_of_the_elements_alone() -> None:
    with compat.open(torch_dumped({"a": noise(6, 4), "b": noise(6, 4).t(), "z": torch.zeros(3)})) as checkpoint:
        a, b, z = checkpoint.tensors.values()
        assert total(a) == total(b) == sum(struct.unpack("<24I", raw(noise(6, 4))))
        assert digest(a) != digest(b)
        assert (is_zero(a), is_zero(z)) == (False, True)


def test_names_are_paired_by_what_is_beside_them() -> None:
    known = [("enc.0.weight", "layers.1.w"), ("enc.1.weight", "layers.0.w")]
    assert dict(assign(["enc.0.bias", "enc.1.bias"], ["layers.0.b", "layers.1.b"], known)) == {
        "enc.0.bias": "layers.1.b",
        "enc.1.bias": "layers.0.b",
    }
    assert dict(assign(["a.bias", "b.bias"], ["model.b.bias", "model.a.bias"], [])) == {
        "a.bias": "model.a.bias",
        "b.bias": "model.b.bias",
    }
    assert assign(["a", "b"], ["a"], []) == [("a", "a")]
    many = [f"n{n}" for n in range(200)]
    assert assign(many, many[::-1], []) == list(zip(many, many[::-1], strict=True))


def test_a_way_that_there_is_not_is_refused() -> None:
    with pytest.raises(Unsupported, match="expected one of keep, name, order"):
        found({}, {}, "luck")


def test_pairs_can_be_printed() -> None:
    assert str(Pair(left="a", right="b", how="same")).startswith("Pair(left='a'")


def call(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["diff", "--by-value", *map(str, arguments)])
    assert isinstance(done.exception, (SystemExit, type(None))), done.exception
    return done.exit_code, done.output


def test_the_command_says_which_is_which(tmp_path: Path) -> None:
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    compat.save({"w": noise(3, 4), "same": noise(9), "z1": torch.zeros(2), "z2": torch.zeros(2)}, a)
    right = {"v": noise(3, 4).t().contiguous(), "same": noise(9), "y1": torch.zeros(2), "y2": torch.zeros(2)}
    compat.save(right | {"more": noise(7, seed=5)}, b)
    code, shown = call(a, b)
    assert code == 0
    assert "2 tensors found by value, 1 of them under another name:" in shown
    assert "  w    = v  (permuted: dimensions [1, 0] of [3, 4])\n" in shown
    assert "  float32 of shape [2], all zero: z1, z2 = y1, y2\n" in shown
    assert f"only on the right, in {b}: 1 tensor\n  more\n" in shown
    code, shown = call(b, a)
    assert code == 1
    assert f"only on the left, in {b}: 1 tensor\n" in shown
    assert "(chosen by order)" in call(a, b, "--ambiguous", "order")[1]
    code, shown = call(b, a, "--json")
    document = json.loads(shown)
    assert (document["kind"], document["complete"], document["only_left"]) == ("correspondence", False, ["more"])
    assert document["pairs"][0] | {"detail": ""} == {
        "left": "v",
        "right": "w",
        "how": "permuted",
        "detail": "",
        "by": "value",
    }


def test_options_that_make_no_sense_together_are_refused(tmp_path: Path) -> None:
    a = tmp_path / "a.pt"
    compat.save({}, a)
    assert call(a, a, "--ignore", "device")[0] == 2
    assert CliRunner().invoke(main, ["diff", str(a), str(a), "--ambiguous", "name"]).exit_code == 2


def test_a_long_list_is_cut_and_shown_whole_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    compat.save({f"t.{n}": noise(3, seed=n) for n in range(60)}, path)
    assert "… and 10 more (--all shows them)" in call(path, path)[1]
    assert "t.59 = t.59" in call(path, path, "--all")[1]


@pytest.fixture
def real() -> Path:
    if not REAL.is_dir():
        pytest.skip("no ../shared/real here")
    return REAL


def test_silero_as_onnx_is_the_16k_half_of_its_torchscript(real: Path) -> None:
    matched = compat.correspond(real / "silero_vad_16k_op15.onnx", real / "silero_vad.jit")
    assert matched.names() == {
        name: f"state_dict._{name}" for name in compat.open(real / "silero_vad_16k_op15.onnx").tensors
    }
    assert len(matched.pairs) == 15
    assert matched.complete
    assert {name.split(".")[1] for name in matched.only_right if name.startswith("state_dict")} == {"_model_8k"}


def test_silero_as_safetensors_holds_other_weights_in_the_same_shapes(real: Path) -> None:
    """Only the fixed Fourier basis is the same: the two files are of two trainings."""
    for other in ("silero_vad_16k_op15.onnx", "silero_vad.jit"):
        matched = compat.correspond(real / "silero_vad_16k.safetensors", real / other)
        assert [pair.left for pair in matched.pairs] == ["stft_conv.weight"]
        assert matched.alike == matched.only_left
        assert len(matched.only_left) == 14


def test_ultraface_is_the_same_model_twice(real: Path) -> None:
    left, right = real / "ultraface_slim_320.pth", real / "ultraface_slim_320.onnx"
    matched = compat.correspond(left, right, ambiguous="name")
    assert matched.complete
    assert (len(matched.pairs), matched.only_right, matched.groups) == (184, [], [])
    assert all(a == b for a, b in matched.names().items())
    assert [group.what for group in compat.correspond(left, right).groups] == ["int64 of shape []"]
    assert compat.diff(left, right, ignore=["device"]).tensors == []
    assert compat.diff(left, right).facets() > {"device"}
