"""Modules with loading code of their own: what it does is known before anything changes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

import compat
from compat.errors import Mismatch
from compat.loadreport import StateMismatch
from compat.rehearsing import has_own_code, rehearse
from tests.compat.test_modules import raw


class Versioned(nn.Module):
    """Renames the keys of its version 1, as mmcv's deformable convolutions do."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.randn(2))

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if metadata.get("version", 1) < 2:
            for name in ("weight", "bias"):
                if f"{prefix}offset_{name}" in state:
                    state[f"{prefix}offset.{name}"] = state.pop(f"{prefix}offset_{name}")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def old(module: nn.Module, version: int | None = 1) -> Any:
    """The state that version 1 would have written."""
    state = OrderedDict((k.replace("offset.", "offset_"), v) for k, v in module.state_dict().items())
    if version is not None:
        vars(state)["_metadata"] = OrderedDict((path, {"version": version}) for path, _ in module.named_modules())
    return state


def test_old_versions_are_renamed_by_the_module_itself() -> None:
    source, target, oracle = (nn.Sequential(Versioned(), nn.Linear(2, 2)) for _ in range(3))
    oracle.load_state_dict(old(source))
    report = compat.load_into(target, old(source))
    assert report.complete
    assert report.loaded_keys == list(target.state_dict())
    assert raw(target.state_dict()) == raw(source.state_dict()) == raw(oracle.state_dict())


def test_without_a_version_it_is_said() -> None:
    report = compat.load_into(nn.Sequential(Versioned()), old(nn.Sequential(Versioned()), version=None))
    assert report.complete
    assert "no _metadata for 0: Versioned cannot know which version" in report.notes[0]


def test_a_newer_version_does_not_rename_and_is_refused() -> None:
    source, target = nn.Sequential(Versioned()), nn.Sequential(Versioned())
    before = raw(target.state_dict())
    with pytest.raises(StateMismatch) as caught:
        compat.load_into(target, old(source, version=2))
    assert caught.value.report.missing_keys == ["0.offset.weight", "0.offset.bias"]
    assert caught.value.report.unexpected_keys == ["0.offset_weight", "0.offset_bias"]
    assert raw(target.state_dict()) == before


def test_versions_reach_what_a_compiled_part_holds() -> None:
    source: Any = nn.ModuleDict({"x": Versioned()})
    target: Any = nn.ModuleDict({"x": Versioned()})
    target["x"] = torch.compile(target["x"], backend="eager")
    assert compat.load_into(target, old(source)).complete
    assert raw(target["x"]._orig_mod.state_dict()) == raw(source["x"].state_dict())


class Hooked(nn.Module):
    """Renames in a hook bound to itself, and counts how often it was really loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))
        self.loads = 0
        hooks: Any = self
        hooks._register_load_state_dict_pre_hook(self.rename)
        hooks.register_load_state_dict_post_hook(self.forgive)

    def rename(self, state: Any, prefix: str, *_rest: Any) -> None:
        self.loads += 1
        if f"{prefix}gamma" in state:
            state[f"{prefix}weight"] = state.pop(f"{prefix}gamma")

    @staticmethod
    def forgive(module: nn.Module, keys: Any) -> None:
        keys.unexpected_keys[:] = [key for key in keys.unexpected_keys if not key.endswith("junk")]


def test_hooks_are_tried_on_the_replica_and_run_once() -> None:
    target: Any = nn.Sequential(Hooked(), nn.Linear(2, 2))
    state: Any = nn.Linear(2, 2).state_dict()
    state = OrderedDict({"0.gamma": torch.ones(2), "0.junk": torch.ones(1), "1.weight": state["weight"]})
    with pytest.raises(Mismatch, match=r"missing keys in source state_dict: 1\.bias"):
        compat.load_into(target, state)
    assert target[0].loads == 0
    state["1.bias"] = torch.zeros(2)
    assert compat.load_into(target, state).complete
    assert target[0].loads == 1
    assert target[0].weight.tolist() == [1.0, 1.0]


class Fussy(nn.Module):
    """Looks at values while it is loaded, which a replica does not have, or has no replica at all."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))
        self.kind = kind
        hooks: Any = self
        hooks._register_load_state_dict_pre_hook(self.look)

    def look(self, state: Any, prefix: str, *_rest: Any) -> None:
        if self.kind == "values" and state.get(f"{prefix}weight", torch.ones(1)).sum().item() > 1e6:
            raise ValueError("too large")
        if self.kind == "meta" and self.weight.is_meta:
            raise TypeError("no replica")
        if self.kind == "another" and self.weight.is_meta:
            state.clear()


@pytest.mark.parametrize("kind", ["values", "meta", "another"])
def test_what_cannot_be_tried_is_undone(kind: str) -> None:
    target = nn.Sequential(nn.Linear(2, 2), Fussy(kind))
    good = copy.deepcopy(target.state_dict())
    assert rehearse(target, good) is None
    before, held = raw(target.state_dict()), list(target.parameters())
    good["0.weight"] += 1
    for change in ({"0.extra": torch.ones(1)}, {"1.weight": None}):
        bad = OrderedDict({k: v for k, v in {**good, **change}.items() if v is not None})
        with pytest.raises(StateMismatch, match="do not match exactly"):
            compat.load_into(target, bad)
        assert raw(target.state_dict()) == before
    if kind == "values":
        with pytest.raises(ValueError, match="too large"):
            compat.load_into(target, {**good, "1.weight": torch.full((2,), 1e9)})
        assert raw(target.state_dict()) == before
    assert compat.load_into(target, good).complete
    assert raw(target.state_dict()) == raw(good)
    assert all(a is b for a, b in zip(held, target.parameters(), strict=True))


class Extra(nn.Module):
    def __init__(self, *, refuses: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))
        self.refuses = refuses
        self.told: list[Any] = []

    def get_extra_state(self) -> Any:
        return {"n": 3}

    def set_extra_state(self, state: Any) -> None:
        if self.refuses:
            raise ValueError("not this one")
        self.told.append(state)


def test_extra_state_is_set_once_and_a_failure_is_undone() -> None:
    source = nn.Sequential(nn.Linear(2, 2), Extra())
    target: Any = nn.Sequential(nn.Linear(2, 2), Extra())
    with pytest.raises(StateMismatch, match="extra"):
        compat.load_into(target, {**source.state_dict(), "extra": torch.ones(1)})
    assert target[1].told == []
    compat.load_into(target, source.state_dict())
    assert target[1].told == [{"n": 3}]
    fails = nn.Sequential(nn.Linear(2, 2), Extra(refuses=True))
    before = raw(fails.state_dict())
    with pytest.raises(ValueError, match="not this one"):
        compat.load_into(fails, source.state_dict())
    assert raw(fails.state_dict()) == before


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_modules_are_filled_or_left_alone() -> None:
    source = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    target = nn.Sequential(nn.LazyLinear(2), nn.LazyBatchNorm1d())
    partial = {k: v for k, v in source.state_dict().items() if k != "0.bias"}
    with pytest.raises(StateMismatch, match=r"missing keys in source state_dict: 0\.bias"):
        compat.load_into(target, partial)
    assert isinstance(target[0].weight, nn.UninitializedParameter)
    report = compat.load_into(target, {"1.weight": torch.ones(2)}, strict=False)
    assert report.loaded_keys == ["1.weight"]
    assert compat.load_into(target, source.state_dict()).complete
    assert raw(target.state_dict()) == raw(source.state_dict())


def test_old_instance_norm_is_refused_as_torch_refuses_it() -> None:
    module = nn.InstanceNorm1d(2, affine=True)
    state = module.state_dict()
    state["running_mean"] = torch.zeros(2)
    vars(state)["_metadata"][""] = {"version": 1}
    with pytest.raises(RuntimeError, match="running_mean"):
        copy.deepcopy(module).load_state_dict(state, strict=True)
    with pytest.raises(StateMismatch, match="running_mean"):
        compat.load_into(module, state)


@pytest.mark.filterwarnings("ignore:Please specify CheckpointImpl")
def test_torch_s_own_wrappers() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    source = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    target: Any = nn.Sequential(checkpoint_wrapper(nn.Linear(2, 2)), nn.BatchNorm1d(2))
    assert compat.load_into(target, source.state_dict()).complete
    assert raw(target[0]._checkpoint_wrapped_module.state_dict()) == raw(source[0].state_dict())


@pytest.mark.filterwarnings("ignore")  # what FSDP says of its own deprecations and of a job of one process
def test_sharded_modules_are_loaded_by_their_own_hooks(tmp_path: Any) -> None:
    try:
        from torch.distributed.fsdp import FullyShardedDataParallel
    except ValueError as error:  # torch 1.13 under Python 3.11
        pytest.skip(str(error))

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/g", rank=0, world_size=1)
    try:
        cpu = torch.device("cpu")
        inner = FullyShardedDataParallel(nn.Linear(2, 2), device_id=cpu)
        target = FullyShardedDataParallel(nn.Sequential(nn.Linear(2, 2), inner), device_id=cpu)
        source = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        try:
            target.state_dict()
        except TypeError as error:  # torch 2.1 wants a stream, which only an accelerator has
            pytest.skip(str(error))
        assert compat.load_into(target, compat.add_prefix(source.state_dict(), "module.")).complete
        assert raw(target.state_dict()) == raw(source.state_dict())
    finally:
        torch.distributed.destroy_process_group()


def test_plain_modules_need_no_rehearsal() -> None:
    assert not has_own_code(nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2)))
    assert has_own_code(nn.BatchNorm1d(2))
