"""The state_dict of whole pickled modules, against torch's own, with no class of the file imported."""

from __future__ import annotations

import io
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import compat
from compat.checkpoint import Opaque
from compat.errors import Mismatch, UnsafeGlobals, Unsupported
from compat.recovery import is_module, recover
from tests.compat.making import raw, storage_of, torch_dumped, zipped
from tests.compat.tars import archive, members

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.register_buffer("scale", torch.arange(3.0))
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.register_buffer("nothing", None)
        self.register_parameter("neither", None)
        self.blocks = nn.ModuleList([nn.Linear(4, 3), nn.Linear(3, 4, bias=False)])
        self.named = nn.ModuleDict({"a": nn.Embedding(5, 4, padding_idx=0), "b": nn.LayerNorm(4)})
        frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.several = nn.ParameterList([nn.Parameter(torch.randn(2)), frozen])
        self.keyed = nn.ParameterDict({"x": nn.Parameter(torch.randn(2))})
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.named["a"].weight
        self.again = self.blocks[0]
        self.plain = torch.ones(3)
        self.absent = None
        self.empty = nn.Identity()
        self.register_module("none", None)
"""


VANISHED = ModuleType("vanished_models")
exec(SOURCE, vars(VANISHED))
vars(VANISHED)["Net"].__module__ = VANISHED.__name__


def net() -> nn.Module:
    """A module of a class that can be imported only while it is pickled."""
    made: nn.Module = vars(VANISHED)["Net"]()
    return made


def pickled(state: Any, **options: Any) -> bytes:
    """What torch writes while the class can still be imported."""
    sys.modules[VANISHED.__name__] = VANISHED
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Couldn't retrieve source code")
            return torch_dumped(state, **options)
    finally:
        del sys.modules[VANISHED.__name__]


def told(state: Any) -> list[Any]:
    """What a state_dict says: names in order, and all of each tensor."""
    return [(key, t.dtype, tuple(t.shape), t.stride(), t.requires_grad, type(t), raw(t)) for key, t in state.items()]


def ties(state: Any) -> list[tuple[str, ...]]:
    groups: dict[int, list[str]] = {}
    for key, tensor in state.items():
        if tensor.numel():
            groups.setdefault(storage_of(tensor).data_ptr(), []).append(key)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def check(module: nn.Module, file: bytes, **options: Any) -> None:
    """What is recovered is what torch gives, without the class."""
    ours, theirs = compat.load_state_dict(file, prefix=None, **options), module.state_dict()
    assert told(ours) == told(theirs)
    assert ties(ours) == ties(theirs)
    versions = vars(theirs)["_metadata"]
    known = vars(ours).get("_metadata", {})
    assert [(name, versions[name]) for name in known] == list(known.items())
    torchs_own = {name for name, child in module.named_modules(remove_duplicate=False) if _is_torchs(child)}
    assert set(known) == torchs_own
    assert "vanished_models" not in sys.modules


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith(("torch.nn.modules.", "torch.nn.parallel."))


def strided() -> nn.Module:
    module = nn.Linear(3, 4)
    module.weight.data = module.weight.data.t().contiguous().t()
    return module


def shared() -> nn.Module:
    inner = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    return nn.Sequential(inner, nn.ReLU(), inner, nn.Sequential(inner[0]))


def graded() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module(torch.ones(1, 2)).sum().backward()
    next(iter(module.parameters())).requires_grad_(False)
    vars(module[0].weight)["note"] = "kept by nobody"
    return module


MODULES: dict[str, Callable[[], nn.Module]] = {
    "own": net,
    "parallel": lambda: nn.DataParallel(net()),
    "lstm": lambda: nn.Sequential(nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2)),
    "gru": lambda: nn.GRU(3, 4),
    "norms": lambda: nn.Sequential(
        nn.BatchNorm1d(3), nn.InstanceNorm1d(3, affine=True, track_running_stats=True), nn.GroupNorm(1, 3)
    ),
    "untracked": lambda: nn.BatchNorm2d(3, track_running_stats=False, affine=False),
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 8),
    "strided": strided,
    "shared": shared,
    "graded": graded,
    "empty": nn.ReLU,
    "half": lambda: nn.Linear(2, 2).to(torch.bfloat16),
    "complex": lambda: nn.Linear(2, 2, dtype=torch.complex64),
    "compiled": lambda: torch.compile(nn.Linear(2, 2)),  # type: ignore[dict-item,return-value]  # a module it is
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, when it is asked to compile
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("kind", MODULES)
def test_a_module_gives_the_state_that_torch_gives(kind: str, is_zip: bool) -> None:
    module = MODULES[kind]()
    check(module, pickled(module, zipped=is_zip))
    check(module, pickled({"epoch": 3, "model": module}, zipped=is_zip))
    check(module, pickled({"a": module, "b": nn.ReLU()}, zipped=is_zip), key="a")


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_read(protocol: int) -> None:
    module = net()
    check(module, pickled(module, protocol=protocol))


def test_a_module_without_data_is_recovered() -> None:
    state = compat.load_state_dict(torch_dumped(nn.Linear(2, 3, device="meta")), map_location="meta")
    assert [(key, tensor.device.type, tuple(tensor.shape)) for key, tensor in state.items()] == [
        ("weight", "meta", (3, 2)),
        ("bias", "meta", (3,)),
    ]


def test_a_module_of_torch_0_1_is_recovered() -> None:
    class Old:
        """Reduces to a module as it was before torch had hooks for states."""

        def __reduce__(self) -> Any:
            return Holder, (), {"_parameters": {}, "_buffers": {}, "_modules": OrderedDict(a=Inner()), "_backend": 1}

    class Inner:
        def __reduce__(self) -> Any:
            parameters = OrderedDict(weight=nn.Parameter(torch.arange(4.0)), bias=None)
            return (
                Holder,
                (),
                {"_parameters": parameters, "_buffers": {"mean": torch.ones(2)}, "_modules": OrderedDict()},
            )

    state = compat.load_state_dict(archive(members(Old())), prefix=None)
    assert [(key, raw(tensor)) for key, tensor in state.items()] == [
        ("a.weight", raw(torch.arange(4.0))),
        ("a.mean", raw(torch.ones(2))),
    ]


class Holder:
    """Stands for a class of old."""


@st.composite
def modules(draw: Any, depth: int = 2) -> nn.Module:
    """Nested containers of layers, some held twice."""
    layers: list[Callable[[], nn.Module]] = [
        lambda: nn.Linear(2, 3),
        lambda: nn.Conv1d(1, 2, 1, bias=False),
        lambda: nn.BatchNorm1d(2),
        lambda: nn.LSTM(1, 2),
        lambda: nn.Embedding(3, 2),
        lambda: nn.MultiheadAttention(2, 1),
        nn.Dropout,
    ]
    made: list[nn.Module] = []
    for _ in range(draw(st.integers(0, 3))):
        if made and draw(st.booleans()):
            made.append(draw(st.sampled_from(made)))
        elif depth and draw(st.booleans()):
            made.append(draw(modules(depth - 1)))
        else:
            made.append(draw(st.sampled_from(layers))())
    holder = draw(st.sampled_from([nn.Sequential, nn.ModuleList, nn.ModuleDict]))
    if holder is nn.ModuleDict:
        return nn.ModuleDict({f"n{index}": module for index, module in enumerate(made)})
    return nn.ModuleList(made) if holder is nn.ModuleList else nn.Sequential(*made)


@given(modules(), st.booleans())
def test_any_module_gives_the_state_that_torch_gives(module: nn.Module, is_zip: bool) -> None:
    check(module, pickled(module, zipped=is_zip))


def test_a_recovered_state_loads_into_the_module() -> None:
    module, other = net(), net()
    file = pickled(module)
    report = other.load_state_dict(compat.load_state_dict(file))
    assert not report.missing_keys
    assert not report.unexpected_keys
    assert told(other.state_dict()) == told(module.state_dict())


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_spectral_norm_keeps_its_version() -> None:
    module = nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 3)), nn.utils.spectral_norm(nn.Linear(3, 3)))
    check(module, pickled(module))


def test_an_old_batch_norm_says_so() -> None:
    module = nn.BatchNorm1d(2)
    del module._buffers["num_batches_tracked"]
    state = compat.load_state_dict(torch_dumped(module))
    assert vars(state)["_metadata"] == {"": {"version": 1}}


class Extra(nn.Module):
    """Adds to its state by code of its own."""

    def get_extra_state(self) -> Any:
        """Anything."""
        return {"a": 1}


def opened(module: Any) -> Any:
    with compat.open(torch_dumped(module)) as checkpoint:
        return checkpoint.tree


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_only_its_code_can_give_is_listed() -> None:
    tree = opened(nn.Sequential(Extra(), nn.Linear(1, 1), nn.LazyLinear(2)))
    found = recover(tree)
    assert list(found.state) == ["1.weight", "1.bias"]
    nothing = "is a torch.nn.parameter.UninitializedParameter, which holds no tensor that could be read"
    assert found.left == {
        "0": "is a tests.compat.test_recovery.Extra, which may add to its state by code of its own",
        "2.weight": nothing,
        "2.bias": nothing,
    }
    assert found.classes["1"] == "torch.nn.modules.linear.Linear"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's, about quantization
def test_packed_weights_are_listed() -> None:
    quantize: Any = torch.ao.quantization.quantize_dynamic
    try:
        module = quantize(nn.Sequential(nn.Linear(3, 3), nn.Conv1d(1, 1, 1)), {nn.Linear}, torch.qint8)
    except RuntimeError:
        pytest.skip("this torch has no engine for quantized modules")
    found = recover(opened(module))
    assert list(found.state) == ["1.weight", "1.bias"]
    assert set(found.left) == {"0", "0._packed_params"}
    assert all("packs its weights by code of its own" in why for why in found.left.values())


def test_hooks_are_not_run_and_listed() -> None:
    module = nn.Linear(1, 1)
    module._register_state_dict_hook(print)  # type: ignore[no-untyped-call]  # torch's
    found = recover(opened(module))
    assert found.left == {"the module": "has 1 state_dict hooks, which were not run"}


def test_parts_that_are_no_modules_are_listed() -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    module._modules["odd"] = io.BytesIO(b"")  # type: ignore[assignment]  # what a file may say
    found = recover(opened(module))
    assert found.left == {"odd": "is a _io.BytesIO, whose state only its own code can give"}


def test_several_modules_are_not_guessed_between() -> None:
    file = torch_dumped({"model": nn.Linear(1, 1), "ema": nn.Linear(1, 1)})
    with pytest.raises(Mismatch, match="holds several states: 'model', 'ema'"):
        compat.load_state_dict(file)
    assert list(compat.load_state_dict(file, key="ema")) == ["weight", "bias"]


def test_a_refused_module_leads_to_its_weights() -> None:
    with pytest.raises(
        UnsafeGlobals, match="load_state_dict gives the weights of the pickled module at model,"
    ) as caught:
        compat.load(torch_dumped({"model": nn.Linear(1, 1)}))
    assert caught.value.module == "model"


def looped(times: int) -> Opaque:
    """Modules that hold each other twice per level, or themselves."""
    below = Opaque("m.Leaf")
    below.state = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    for _ in range(times):
        above = Opaque("m.Node")
        above.state = {"_parameters": {}, "_buffers": {}, "_modules": {"a": below, "b": below}}
        below = above
    return below


def test_modules_without_end_are_refused() -> None:
    with pytest.raises(Unsupported, match="it holds more than"):
        recover(looped(40))
    endless = looped(1)
    endless.state["_modules"]["a"] = endless
    with pytest.raises(Unsupported, match="its modules nest deeper than 100 levels"):
        recover(endless)


@pytest.mark.parametrize(
    "body", [b"}", b"]", b"cm\nC\n)\x81", b"cm\nC\n)\x81}b", b"cm\nC\n)\x81(X\x0b\0\0\0_parameters}db", b"N"]
)
def test_what_is_no_module_is_none(body: bytes) -> None:
    with compat.open(zipped(body)) as checkpoint:
        assert not is_module(checkpoint.tree)
