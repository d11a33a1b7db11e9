"""Loading into modules, against what torch's own load_state_dict does and says."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import compat
from compat.errors import KeyCollision, Mismatch
from compat.keymatching import match
from matrix.modules import build_module
from matrix.strategies import modules


def raw(state: Any) -> dict[str, Any]:
    """A state as its bytes."""
    return {
        key: (str(t.dtype), tuple(t.shape), bytes(t.detach().contiguous().reshape(-1).view(torch.uint8).numpy()))
        if isinstance(t, torch.Tensor) and t.numel()
        else str(t)
        for key, t in state.items()
    }


def net(seed: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2))


@settings(max_examples=60, deadline=None)
@given(
    spec=modules(),
    front=st.sampled_from(["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "my_net.body."]),
    target_front=st.sampled_from(["", "module", "wrapped.inner"]),
)
def test_any_module_through_any_wrapper(spec: Any, front: str, target_front: str) -> None:
    source, target = build_module(spec), build_module(spec)
    expected = raw(source.state_dict())
    if not expected:
        return
    with torch.no_grad():
        for tensor in target.state_dict().values():
            if isinstance(tensor, torch.Tensor):
                tensor.zero_()
    holder: torch.nn.Module = target
    for name in reversed(target_front.split(".") if target_front else []):
        outer = torch.nn.Module()
        outer.add_module(name, holder)
        holder = outer
    report = compat.load_into(holder, compat.add_prefix(source.state_dict(), front))
    assert raw(target.state_dict()) == expected
    missing, unexpected = report
    assert (missing, unexpected, report.mismatched_keys) == ([], [], [])


def test_a_state_is_found_and_said(tmp_path: Path) -> None:
    state = net(1).state_dict()
    for wrapper in ("state_dict", "model_state_dict", "model", "net", "ema"):
        compat.save({"epoch": 1, wrapper: state}, tmp_path / f"{wrapper}.pt")
        module = net()
        assert compat.load_into(module, tmp_path / f"{wrapper}.pt").key == wrapper
        assert raw(module.state_dict()) == raw(state)
    compat.save({"model": state, "ema": state}, tmp_path / "two.pt")
    with pytest.raises(Mismatch, match=r"several states: 'model', 'ema'.*key='model'"):
        compat.load_into(net(), tmp_path / "two.pt")
    assert compat.load_into(net(), tmp_path / "two.pt", key="ema").key == "ema"


def test_a_real_child_called_module_is_kept() -> None:
    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = torch.nn.Linear(2, 2)

    source, target = Holder(), Holder()
    report = compat.load_into(target, source.state_dict())
    assert report.prefix == ""
    assert raw(target.state_dict()) == raw(source.state_dict())
    wrapped = compat.add_prefix(source.state_dict(), "module.")
    assert compat.load_into(target, wrapped).prefix == "module."


def test_a_compiled_part_inside_and_fsdp_steps() -> None:
    state = OrderedDict((f"block._orig_mod.{k}", v) for k, v in torch.nn.Linear(2, 2).state_dict().items())
    state |= {f"head._fsdp_wrapped_module.{k}": v for k, v in torch.nn.Linear(2, 1).state_dict().items()}
    target = torch.nn.ModuleDict({"block": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
    assert compat.load_into(target, state).complete


def test_two_prefixes_that_fit_equally_are_not_chosen_between() -> None:
    state = {f"{part}.{k}": v for part in ("left", "right") for k, v in torch.nn.Linear(2, 2).state_dict().items()}
    with pytest.raises(Mismatch, match=r"without 'left\.' and without 'right\.'.*prefix='left\.'"):
        compat.load_into(torch.nn.Linear(2, 2), state, strict=False)
    report = compat.load_into(torch.nn.Linear(2, 2), state, strict=False, prefix="left.")
    assert report.unexpected_keys == ["right.weight", "right.bias"]


@settings(max_examples=60, deadline=None)
@given(
    spec=modules(),
    data=st.data(),
)
def test_missing_and_unexpected_are_what_torch_says(spec: Any, data: st.DataObject) -> None:
    source, target, oracle = (build_module(spec) for _ in range(3))
    state = source.state_dict()
    dropped = data.draw(st.sets(st.sampled_from(sorted(state)))) if state else set()
    changed = OrderedDict((k, v) for k, v in state.items() if k not in dropped)
    changed._metadata = state._metadata  # type: ignore[attr-defined]  # torch puts it there
    changed["extra.one"] = torch.ones(1)
    expected = oracle.load_state_dict(changed, strict=False)
    before = raw(target.state_dict())
    report = compat.load_into(target, changed, strict=False, prefix=None)
    # What is loaded by one name of a tie is not missing by the other.
    names: dict[int, set[str]] = {}
    for name, tensor in oracle.named_parameters(remove_duplicate=False):
        names.setdefault(id(tensor), set()).add(name)
    twins = {name: group for group in names.values() for name in group}
    expected_missing = [key for key in expected.missing_keys if not twins.get(key, {key}) & set(changed)]
    counters = [key for key in dropped if key.endswith("num_batches_tracked")]
    assert sorted(report.missing_keys + counters) == sorted(expected_missing)
    assert sorted(report.left_out) == sorted(counters)
    assert report.unexpected_keys == list(expected.unexpected_keys)
    assert raw(target.state_dict()) == raw(oracle.state_dict())
    strict = build_module(spec)
    with pytest.raises(Mismatch, match=r"unexpected key in source state_dict: extra\.one"):
        compat.load_into(strict, changed, prefix=None)
    assert raw(strict.state_dict()) == before


def test_other_shapes() -> None:
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 4)
    before = raw(target.state_dict())
    for strict in (True, False):
        with pytest.raises(Mismatch) as caught:
            compat.load_into(target, source.state_dict(), strict=strict)
        assert "weight  [4, 3]          [2, 3]" in str(caught.value)
        assert "skip_mismatched=True" in str(caught.value)
        assert raw(target.state_dict()) == before
    report = compat.load_into(target, source.state_dict(), skip_mismatched=True)
    assert report.mismatched_keys == [("weight", (4, 3), (2, 3)), ("bias", (4,), (2,))]
    assert raw(target.state_dict()) == before


def test_lost_metadata_is_said() -> None:
    module = net()
    bare = {k: v for k, v in net(1).state_dict().items() if not k.endswith("num_batches_tracked")}
    report = compat.load_into(module, bare)
    assert report.left_out == ["1.num_batches_tracked"]
    assert "BatchNorm2d cannot know" in report.notes[0]
    assert compat.load_into(module, net(1).state_dict()).notes == []


def test_weight_norm_old_and_new() -> None:
    parametrized = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 3))
    with pytest.warns(FutureWarning):
        hooked = torch.nn.utils.weight_norm(torch.nn.Linear(2, 3))
    for source, target in ((hooked, parametrized), (parametrized, hooked)):
        report = compat.load_into(target, source.state_dict())
        assert report.complete, str(report)
        assert sorted(v for _, _, v in raw(source.state_dict()).values()) == sorted(
            v for _, _, v in raw(target.state_dict()).values()
        )


def test_ties_stay_ties_and_parameters_stay_objects(tmp_path: Path) -> None:
    def tied(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
        module["b"].weight = module["a"].weight
        return module

    source = tied(1)
    compat.save(source.state_dict(), tmp_path / "t.safetensors")
    for assign in (False, True):
        target: Any = tied(2)
        held = target["a"].weight
        compat.load_into(target, tmp_path / "t.safetensors", assign=assign)
        assert target["a"].weight is target["b"].weight
        assert (target["a"].weight is held) != assign
        assert raw(target.state_dict()) == raw(source.state_dict())


def test_meta_modules_are_filled() -> None:
    with torch.device("meta"):
        module = net()
    assert compat.load_into(module, net(3).state_dict()).complete
    assert raw(module.state_dict()) == raw(net(3).state_dict())


def test_flags_and_memory_format_stay() -> None:
    module: Any = net()
    module.to(memory_format=torch.channels_last)
    module[0].weight.requires_grad_(requires_grad=False)
    stride = module[0].weight.stride()
    compat.load_into(module, net(1).state_dict())
    assert module[0].weight.stride() == stride
    assert not module[0].weight.requires_grad


def test_dtypes() -> None:
    source, target = torch.nn.Linear(2, 2).double(), torch.nn.Linear(2, 2)
    assert compat.load_into(target, source.state_dict()).cast["weight"] == ("float64", "float32")
    with pytest.raises(Mismatch, match="mismatched dtype"):
        compat.load_into(target, {"weight": torch.ones(2, 2, dtype=torch.int64), "bias": torch.ones(2)})


def test_parts_and_rules() -> None:
    source, target = net(1), net(2)
    before = raw(target.state_dict())
    report = compat.load_into(target, source.state_dict(), include=["0.*"])
    after = raw(target.state_dict())
    assert report.loaded_keys == ["0.weight", "0.bias"]
    assert {k for k in after if after[k] != before[k]} == {"0.weight", "0.bias"}
    compat.load_into(target, source.state_dict(), exclude=["0.*"])
    assert raw(target.state_dict()) == raw(source.state_dict())
    renamed = {f"layer{k}": v for k, v in source.state_dict().items()}
    assert compat.load_into(net(), renamed, rename=[(r"^layer(\d)", r"\1")]).complete
    with pytest.raises(KeyCollision):
        compat.load_into(net(), renamed, rename=[(r".*", "a")])


def test_extra_state_is_loaded() -> None:
    class Extra(torch.nn.Module):
        told: Any = None

        def get_extra_state(self) -> dict[str, int]:
            return {"n": 3}

        def set_extra_state(self, state: Any) -> None:
            self.told = state

    target = Extra()
    assert compat.load_into(target, Extra().state_dict()).complete
    assert target.told == {"n": 3}


def test_mmcv_loader(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    state = compat.add_prefix(net(1).state_dict(), "module.")
    state["module.extra"] = torch.ones(1)
    del state["module.0.bias"]
    compat.save({"state_dict": state, "meta": {"epoch": 3}}, tmp_path / "m.pth")
    checkpoint = compat.load_checkpoint(model, str(tmp_path / "m.pth"), "cpu")
    said = capsys.readouterr().out
    assert "unexpected key in source state_dict: extra" in said
    assert "missing keys in source state_dict: 0.bias" in said
    assert checkpoint["meta"] == {"epoch": 3}
    assert "module.extra" in checkpoint["state_dict"]  # as it is in the file
    assert raw({"w": model[0].weight}) == raw({"w": net(1)[0].weight})
    logger = logging.getLogger("loader")
    with caplog.at_level(logging.WARNING, logger="loader"):
        compat.load_checkpoint(model, str(tmp_path / "m.pth"), None, False, logger)
    assert "do not match exactly" in caplog.text
    assert capsys.readouterr().out == ""
    with pytest.raises(Mismatch, match="do not match exactly"):
        compat.load_checkpoint(model, str(tmp_path / "m.pth"), strict=True)
    with pytest.raises(KeyCollision):
        compat.load_checkpoint(model, str(tmp_path / "m.pth"), revise_keys=[(r".*", "same")])
    compat.load_checkpoint(torch.nn.DataParallel(model), str(tmp_path / "m.pth"), revise_keys=[(r"^module\.", "")])


def test_matching_takes_wrappers_before_names_of_its_own() -> None:
    assert match(["module.a", "module.b"], ["a", "b"], "auto").prefix == "module."
    assert match(["a", "b"], ["module.a", "module.b"], "auto").prefix == "+module."
    assert match(["a", "x"], ["a", "b"], "auto").prefix == ""
    assert match(["q.a"], ["b"], "auto").prefix == ""
    assert match(["p.a"], ["a"], "p.").rename("p.a") == "a"
