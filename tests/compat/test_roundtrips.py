"""What comes back from each format, and what torch and safetensors find in what compat wrote."""

from __future__ import annotations

import io
import warnings
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as safetensors_load

import compat
from compat.errors import KeyCollision, Mismatch, Unsupported
from matrix.drawing import CONTENTS, SeededChoices
from matrix.spec import CheckpointSpec, compare
from matrix.tensors import build, describe
from tests.compat.making import FORMATS, REAL, dumped, torch_dumped, with_marks


def differences(expected: CheckpointSpec, loaded: Any, name: str) -> list[str]:
    ignore = frozenset({"storage-bytes"}) if name == "safetensors" else frozenset[str]()
    return [str(difference) for difference in compare(expected, describe(loaded), ignore=ignore)]


def unnamed(spec: CheckpointSpec) -> bool:
    """Whether safetensors has no name for a dtype in it; `test_every_content_comes_back` sees it refused."""
    nameless = {"complex128", "complex32", "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"}
    return any(tensor.dtype in nameless for _, tensor in spec.tensors())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("content", CONTENTS)
def test_every_content_comes_back(content: str, name: str) -> None:
    for seed in range(3):
        spec = CONTENTS[content].draw(SeededChoices(seed)).normalized()
        if name == "safetensors" and unnamed(spec):
            with pytest.raises(Unsupported, match="which the format cannot name"):
                dumped(build(spec), name)
        else:
            assert differences(spec, compat.load(dumped(build(spec), name)), name) == []


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content", [pytest.param(name, marks=with_marks) if name in ("conj", "neg") else name for name in CONTENTS]
)
def test_what_torch_writes_is_read(content: str, zipped: bool, protocol: int) -> None:
    spec = CONTENTS[content].draw(SeededChoices(protocol)).normalized()
    loaded = compat.load(torch_dumped(build(spec), zipped=zipped, protocol=protocol))
    assert differences(spec, loaded, "torch") == []


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("content", CONTENTS)
def test_conversion_there_and_back(content: str, source: str, target: str, tmp_path: Path) -> None:
    spec = CONTENTS[content].draw(SeededChoices(7)).normalized()
    first, second, third = (tmp_path / name for name in "abc")
    if "safetensors" in (source, target) and unnamed(spec):
        return
    compat.save(build(spec), first, format=source)
    compat.convert(first, second, to=target)
    compat.convert(second, third, to=source)
    assert not compat.diff(first, third)
    assert differences(spec, compat.load(third), "safetensors") == []


def test_other_readers_find_the_right_values() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    z = torch.tensor([1 + 2j, 3 - 4j])
    state = {"t": base.t(), "row": base[1], "conj": z.conj(), "imag": z.conj().imag, "tied": base}
    found = safetensors_load(dumped(state, "safetensors"))
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor.resolve_conj().resolve_neg().contiguous()), name


def test_objects_that_json_cannot_say_come_back() -> None:
    state = {
        "tuple": (1, (2.5, None)),
        "set": {1, "a"},
        "frozen": frozenset({(1, 2)}),
        "bytes": b"\x00\xff",
        "array": bytearray(b"abc"),
        "complex": complex(-0.0, float("inf")),
        "counter": Counter("abca"),
        "big": 1 << 5000,
        1: {True: None, 2.5: "x", (1, "k"): []},
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cuda", 1),
        "ordered": OrderedDict(b=1, a=2),
    }
    for name in FORMATS:
        loaded = compat.load(dumped(state, name))
        assert repr(loaded) == repr(state), name


@pytest.mark.filterwarnings("ignore")
def test_sparse_quantized_and_nested_tensors_come_back() -> None:
    state = {
        "coo": torch.sparse_coo_tensor(torch.tensor([[0, 1], [2, 0]]), torch.tensor([1.0, 2.0]), (2, 3)).coalesce(),
        "csr": torch.tensor([[0, 1.0], [2, 0]]).to_sparse_csr(),
        "per_tensor": torch.quantize_per_tensor(torch.randn(4), 0.1, 3, torch.quint8),
        "per_channel": torch.quantize_per_channel(
            torch.randn(2, 3), torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint8
        ),
    }
    if hasattr(torch, "_nested_view_from_buffer"):  # others make nested tensors, and cannot save them
        state["nested"] = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(1, 3)])
    for content in (torch_dumped(state), dumped(state), dumped(state, "torch-legacy")):
        loaded = compat.load(content)
        assert {name: str(tensor) for name, tensor in loaded.items()} == {n: str(t) for n, t in state.items()}
    # Its reader that calls what files name: the other one takes nested tensors in some releases alone.
    coo: Any = state["coo"]
    if len(coo.__reduce_ex__(2)[1][1]) < 4:
        del state["coo"], state["csr"]
    again = torch.load(io.BytesIO(dumped(state)), weights_only=False)
    assert {name: str(tensor) for name, tensor in again.items()} == {n: str(t) for n, t in state.items()}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_torch_reads_the_legacy_files_of_classic_dtypes() -> None:
    state = OrderedDict(a=torch.arange(4), b=torch.randn(2, 3).t(), c=torch.nn.Parameter(torch.ones(2)))
    loaded = torch.load(io.BytesIO(dumped(state, "torch-legacy")), weights_only=True)
    assert compare(describe(state), describe(loaded)) == ()


# map_location


@pytest.fixture
def on_cuda() -> bytes:
    """A file whose tensor was saved on cuda:0, made by its device tag alone."""
    with compat.open(dumped({"a": torch.ones(3)})) as checkpoint:
        checkpoint.tensors["a"].storage.device = "cuda:0"
        from compat import formats
        from compat.formats import WriteOptions
        from compat.saving import write

        buffer = io.BytesIO()
        write(formats.get("torch-zip"), checkpoint, buffer, WriteOptions())
    return buffer.getvalue()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this is about machines without CUDA")
def test_a_device_that_is_not_here_is_said_with_the_next_step(on_cuda: bytes) -> None:
    with pytest.raises(Unsupported, match=r"belongs on the device 'cuda:0'.*map_location=\"cpu\""):
        compat.load(on_cuda)


@pytest.mark.parametrize(
    "place",
    ["cpu", torch.device("cpu"), {"cuda:0": "cpu"}, lambda storage, _: storage],
    ids=["name", "device", "dict", "callable"],
)
def test_every_form_of_map_location(on_cuda: bytes, place: Any) -> None:
    assert compat.load(on_cuda, map_location=place)["a"].tolist() == [1, 1, 1]


def test_map_location_meta_reads_no_data(on_cuda: bytes) -> None:
    loaded = compat.load(on_cuda, map_location="meta")["a"]
    assert (loaded.device.type, loaded.shape, loaded.dtype) == ("meta", (3,), torch.float32)


def test_a_function_that_returns_none_leaves_the_default() -> None:
    seen: list[str] = []

    def place(_storage: object, tag: str) -> None:
        seen.append(tag)

    assert compat.load(dumped({"a": torch.ones(2)}), map_location=place)["a"].device.type == "cpu"
    assert seen == ["cpu"]


@pytest.mark.parametrize("name", FORMATS)
def test_mapped_tensors_are_copied_on_write(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    compat.save({"a": torch.arange(100_000.0)}, path, format=name)
    before = path.read_bytes()
    loaded = compat.load(path, mmap=True)["a"]
    loaded.mul_(0)
    assert path.read_bytes() == before
    assert compat.load(path)["a"][-1] == 99_999


# state_dicts and keys


def test_load_state_dict_unwraps_strips_and_keeps_metadata() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    wrapped = torch.nn.DataParallel(module)
    loaded = compat.load_state_dict(torch_dumped({"state_dict": wrapped.state_dict(), "epoch": 3}))
    assert compare(describe(module.state_dict()), describe(loaded)) == ()
    kept = compat.load_state_dict(torch_dumped({"state_dict": wrapped.state_dict()}), prefix=None)
    assert all(key.startswith("module.") for key in kept)


def test_two_states_are_not_guessed_between() -> None:
    state = torch.nn.Linear(1, 1).state_dict()
    content = torch_dumped({"model": state, "ema": state})
    with pytest.raises(Mismatch, match=r"holds several states: 'model', 'ema'.*key='model'"):
        compat.load_state_dict(content)
    assert list(compat.load_state_dict(content, key="ema")) == ["weight", "bias"]
    with pytest.raises(Mismatch, match="has no key 'net'"):
        compat.load_state_dict(content, key="net")
    with pytest.raises(Mismatch, match=r"holds no state_dict"):
        compat.load_state_dict(torch_dumped([1, 2]))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
def test_a_prefix_comes_off_as_it_went_on(prefix: str) -> None:
    state = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1)).state_dict()
    wrapped = compat.add_prefix(state, prefix)
    assert all(key.startswith(prefix) for key in wrapped)
    stripped = compat.strip_prefix(wrapped)
    assert compare(describe(state), describe(stripped)) == ()


def test_compiled_parts_inside_a_model_are_found() -> None:
    state = OrderedDict({"block._orig_mod.weight": 1, "head.weight": 2})
    assert list(compat.strip_prefix(state)) == ["block.weight", "head.weight"]


def test_colliding_keys_are_refused() -> None:
    with pytest.raises(KeyCollision, match=r"'module\.a', 'a' would all become 'a'"):
        compat.strip_prefix({"module.a": 1, "a": 0}, "module.")


# diff, both ways


def changed(**values: Any) -> dict[str, Any]:
    return {"a": torch.tensor([0.0, 1.0]), "n": 1, **values}


@pytest.mark.parametrize(
    ("other", "facet"),
    [
        (changed(a=torch.tensor([-0.0, 1.0])), "bytes"),
        (changed(a=torch.tensor([0.0, float("nan")])), "bytes"),
        (changed(a=torch.tensor([0, 1065353216], dtype=torch.int32)), "dtype"),
        (changed(a=torch.tensor([[0.0, 1.0]])), "shape"),
        (changed(a=torch.tensor([0.0, 9.0, 1.0])[::2]), "stride"),
        (changed(a=torch.tensor([9.0, 0.0, 1.0])[1:]), "storage_offset"),
        (changed(a=torch.nn.Parameter(torch.tensor([0.0, 1.0]))), "kind"),
        (changed(n=True), "missing"),
        (changed(n=1.0), "missing"),
        (changed(n=2), "value"),
        (changed(x=1), "missing"),
        ({"n": 1, "a": torch.tensor([0.0, 1.0])}, "key order"),
        (OrderedDict(changed()), "type"),
    ],
)
def test_diff_sees_a_difference(other: dict[str, Any], facet: str) -> None:
    assert facet in compat.diff(dumped(changed()), dumped(other)).facets()


def test_diff_takes_a_nan_for_itself() -> None:
    nan = changed(a=torch.tensor([float("nan"), -0.0]), n=float("nan"))
    for name in FORMATS:
        assert not compat.diff(dumped(nan), dumped(nan, name))


def test_diff_sees_who_shares_storage() -> None:
    a = torch.ones(2)
    found = compat.diff(dumped({"a": a, "b": a}), dumped({"a": a, "b": a.clone()}))
    assert found.facets() == {"aliasing"}


def test_diff_sees_a_lost_metadata() -> None:
    state = torch.nn.BatchNorm1d(1).state_dict()
    found = compat.diff(dumped(state), dumped(OrderedDict(state)))
    assert [change.path for change in found.extras] == ["._metadata"]


# Real files


@pytest.mark.parametrize(
    "name",
    ["candle_test.pt", "cifar10_resnet20.th", "facenet_mtcnn_pnet.pt", "lpips_v0.1_vgg.pth", "ultraface_slim_320.pth"],
)
def test_real_files_read_as_torch_reads_them(name: str) -> None:
    if not REAL.is_dir():
        pytest.skip("no ../shared/real here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.load(REAL / name, map_location="cpu", weights_only=True)
    assert compare(describe(expected), describe(compat.load(REAL / name, map_location="cpu"))) == ()


@pytest.mark.filterwarnings("ignore")
def test_a_real_torchscript_archive_gives_its_state_dict() -> None:
    if not REAL.is_dir():
        pytest.skip("no ../shared/real here")
    path = REAL / "silero_vad.jit"
    expected = OrderedDict(torch.jit.load(path, map_location="cpu").state_dict())  # type: ignore[no-untyped-call]  # torch.jit has no types
    loaded = compat.load(path)["state_dict"]
    plain = OrderedDict((key, tensor.detach()) for key, tensor in loaded.items())
    assert compare(describe(expected), describe(plain), ignore=frozenset({"metadata"})) == ()
