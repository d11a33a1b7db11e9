"""Loading into modules, against what torch's own load_state_dict does and says."""

from __future__ import annotations

import copy
import logging
import pickle
import re
import warnings
from collections import OrderedDict
from dataclasses import replace
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
    for name, tensor in oracle.state_dict(keep_vars=True).items():
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


def test_what_is_no_module_and_what_is_empty() -> None:
    no_module: Any = 3
    with pytest.raises(TypeError, match=r"cannot load into int; expected a torch\.nn\.Module"):
        compat.load_into(no_module, net().state_dict())
    with pytest.raises(Mismatch, match="the checkpoint has no keys"):
        compat.load_into(net(), {})


def test_weight_norm_old_and_new() -> None:
    parametrized = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the old one's deprecation
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


MUTATIONS = ("missing", "extra", "renamed", "shape", "double", "integer", "scalar")


def mutated(state: Any, changes: dict[str, str]) -> Any:
    """A state with one change to each of some keys."""
    made = OrderedDict()
    for key, value in state.items():
        change = changes.get(key)
        tensor = isinstance(value, torch.Tensor)
        if change == "missing":
            continue
        if change == "shape" and tensor:
            value = torch.stack([value, value])  # noqa: PLW2901 - as it is to be kept
        elif change == "double" and tensor and value.is_floating_point():
            value = value.double()  # noqa: PLW2901
        elif change == "integer" and tensor and value.is_floating_point():
            value = torch.ones(value.shape, dtype=torch.int32)  # noqa: PLW2901
        elif change == "scalar" and tensor and value.shape == ():
            value = value.reshape(1)  # noqa: PLW2901
        made[f"{key}_old" if change == "renamed" else key] = value
        if change == "extra":
            made[f"{key}_too"] = torch.ones(1)
    vars(made).update(vars(state))
    return made


@settings(max_examples=80, deadline=None)
@given(spec=modules(), data=st.data(), front=st.sampled_from(["", "module.", "module._orig_mod.", "model."]))
def test_what_fits_is_loaded_and_the_rest_is_named(spec: Any, data: st.DataObject, front: str) -> None:
    """Against what torch does with the state that torch alone was filtered for."""
    source, target, oracle = build_module(replace(spec, seed=spec.seed + 1)), build_module(spec), build_module(spec)
    state = source.state_dict()
    tensors = [key for key, value in state.items() if isinstance(value, torch.Tensor)]
    if not tensors:
        return
    changes = data.draw(st.dictionaries(st.sampled_from(tensors), st.sampled_from(MUTATIONS), max_size=3))
    given_state = mutated(state, changes)
    own = oracle.state_dict()
    pairs = {key: (own[key], value) for key, value in given_state.items() if isinstance(own.get(key), torch.Tensor)}
    shapes = {key for key, (mine, value) in pairs.items() if mine.shape != value.shape and changes.get(key) != "scalar"}
    kinds = {
        key
        for key, (mine, value) in pairs.items()
        if mine.is_floating_point() != value.is_floating_point() and key not in shapes
    }
    fitting = OrderedDict((k, v) for k, v in given_state.items() if k not in shapes | kinds)
    vars(fitting).update(vars(given_state))
    expected = oracle.load_state_dict(fitting, strict=False)
    before = raw(target.state_dict())
    if shapes or kinds:
        with pytest.raises(Mismatch):
            compat.load_into(target, compat.add_prefix(given_state, front), strict=False)
        assert raw(target.state_dict()) == before
    report = compat.load_into(
        target, compat.add_prefix(given_state, front), strict=False, skip_mismatched=True, prefix=front
    )
    assert raw(target.state_dict()) == raw(oracle.state_dict())
    assert {key for key, *_ in report.mismatched_keys} == shapes
    assert {key for key, *_ in report.mismatched_dtypes} == kinds
    assert set(report.unexpected_keys) == set(expected.unexpected_keys)
    named = {*report.missing_keys, *report.left_out, *report.tied, *shapes, *kinds}
    assert named >= set(expected.missing_keys)
    assert set(report.missing_keys) <= set(expected.missing_keys)
    assert set(report.loaded_keys) | named == set(own)


def test_a_report_is_a_named_tuple_of_two_with_more() -> None:
    report: Any = compat.load_into(
        torch.nn.Linear(2, 2), {"weight": torch.ones(3, 2)}, strict=False, skip_mismatched=True
    )
    missing, unexpected = report
    assert issubclass(compat.LoadReport, tuple)
    assert (missing, unexpected) == (report.missing_keys, report.unexpected_keys) == (["bias"], [])
    assert report._fields[:2] == ("missing_keys", "unexpected_keys")
    assert tuple.__len__(report) == 2
    assert report[2] == report.mismatched_keys == [("weight", (2, 2), (3, 2))]
    assert report[0] == report[-2] == ["bias"]
    with pytest.raises(IndexError):
        report[3]
    with pytest.raises(AttributeError):
        _ = report.nothing_of_the_kind
    again = pickle.loads(pickle.dumps(report))
    assert again == report
    assert again.facts == report.facts
    assert copy.deepcopy(report).mismatched_keys == report.mismatched_keys
    assert "LoadReport(missing_keys=['bias']" in repr(report)
    assert not report.complete


def test_everything_that_does_not_fit_is_said_at_once() -> None:
    target = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in "abc"})
    state: Any = dict(target.state_dict())
    state |= {"a.weight": torch.ones(3), "a.bias": torch.ones(2, dtype=torch.int64), "b.weight": [1.0]}
    state |= {"b.bias": torch.ones(2).to_sparse(), "x": torch.ones(1)}
    del state["c.bias"]
    before = raw(target.state_dict())
    with pytest.raises(compat.StateMismatch) as caught:
        compat.load_into(target, state)
    for said in ("a.weight", "a.bias  float32", "b.weight is a list", "sparse_coo", ": x", "c.bias"):
        assert said in str(caught.value)
    assert "pass strict=False and skip_mismatched=True" in str(caught.value)
    assert caught.value.report.missing_keys == ["c.bias"]
    assert caught.value.to_json()["report"]["unfit"].keys() == {"b.weight", "b.bias"}
    assert raw(target.state_dict()) == before
    report = compat.load_into(target, state, strict=False, skip_mismatched=True)
    assert report.loaded_keys == ["c.weight"]


def test_casting_in_numpy_s_words() -> None:
    wide = torch.nn.Linear(2, 2).double().state_dict()
    with pytest.raises(Mismatch, match="these keys have mismatched dtype"):
        compat.load_into(torch.nn.Linear(2, 2), wide, casting="no")
    whole = {"weight": torch.ones(2, 2, dtype=torch.int64), "bias": torch.ones(2)}
    target = torch.nn.Linear(2, 2)
    assert compat.load_into(target, whole, casting="unsafe").cast == {"weight": ("int64", "float32")}
    assert target.weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    with pytest.raises(ValueError, match="same_kind"):
        compat.load_into(target, whole, casting="sometimes")
    report = compat.load_into(target, wide, assign=True)
    assert target.weight.dtype == torch.float64
    assert report.notes[-2:] == [
        f"{k} is now float64, as in the checkpoint, and was float32" for k in ("weight", "bias")
    ]
    with pytest.raises(Mismatch, match="cannot require gradients"):
        compat.load_into(target, whole, assign=True)


def tied(seed: int) -> Any:
    torch.manual_seed(seed)
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    module["b"].weight = module["a"].weight
    return module


@pytest.mark.parametrize("kept", ["a.weight", "b.weight"])
@pytest.mark.parametrize("how", ["copy", "assign", "meta"])
def test_a_tied_key_may_be_missing(kept: str, how: str) -> None:
    source, target = tied(1), tied(2)
    if how == "meta":
        with torch.device("meta"):
            target = tied(2)
    state = {k: v for k, v in source.state_dict().items() if not k.endswith("weight") or k == kept}
    report = compat.load_into(target, state, assign=how == "assign")
    assert report.complete
    assert list(report.tied.values()) == [kept]
    assert target["a"].weight is target["b"].weight
    assert raw(target.state_dict()) == raw(source.state_dict())


@pytest.mark.parametrize("assign", [False, True])
def test_tied_keys_with_different_values_are_said(assign: bool) -> None:
    target = tied(1)
    state = {**tied(2).state_dict(), "a.weight": torch.zeros(2, 2), "b.weight": torch.ones(2, 2)}
    report = compat.load_into(target, state, assign=assign)
    assert any("one tensor in the module and different ones in the checkpoint: b.weight" in n for n in report.notes)
    assert target["a"].weight is target["b"].weight
    assert target["a"].weight.sum() == 4


def test_partly_on_meta() -> None:
    source, target = net(1), net(2)
    target[1] = target[1].to("meta")
    held = target[0].weight
    state: Any = source.state_dict()
    facts = copy.deepcopy(state._metadata)
    assert compat.load_into(target, state).complete
    assert target[0].weight is held
    assert raw(target.state_dict()) == raw(source.state_dict())
    assert state._metadata == facts


def test_what_stays_on_meta_is_said() -> None:
    class Rotary(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)
            self.register_buffer("frequencies", torch.ones(2), persistent=False)

    with torch.device("meta"):
        target = Rotary()
    report = compat.load_into(target, Rotary().state_dict())
    assert report.notes == ["still on the meta device, without values: frequencies"]


def test_an_optimizer_goes_on_with_what_was_loaded() -> None:
    target: Any = net(1)
    optimizer = torch.optim.SGD(target.parameters(), lr=1.0)
    compat.load_into(target, net(2).state_dict())
    target(torch.ones(2, 1, 2, 2)).sum().backward()
    before = raw({"w": target[2].weight})
    optimizer.step()
    assert raw({"w": target[2].weight}) != before


def test_patterns_may_be_regular_expressions_and_must_fit_something() -> None:
    target = net(2)
    report = compat.load_into(target, net(1).state_dict(), include=[re.compile(r"^[02]\.")], exclude=["*.bias"])
    assert report.loaded_keys == ["0.weight", "2.weight"]
    with pytest.raises(Mismatch, match=r"no key of the module or of the checkpoint fits 'encoder\.\*'"):
        compat.load_into(net(), net(1).state_dict(), include=["encoder.*"])
    assert compat.load_into(net(), net(1).state_dict(), exclude=["x*"]).notes == ["nothing is excluded by 'x*'"]
    assert "'^y' renames none" in compat.load_into(net(), net(1).state_dict(), rename=[("^y", "z")]).notes[0]
    with pytest.raises(TypeError, match="as a list"):
        compat.load_into(net(), net(1).state_dict(), include="0.*")
    extra = {**net(1).state_dict(), "head.weight": torch.ones(1)}
    assert compat.load_into(net(), extra, exclude=["head.*"]).complete


def test_nothing_loaded_is_said() -> None:
    report = compat.load_into(torch.nn.Linear(2, 2), {"other": torch.ones(1)}, strict=False)
    assert "nothing was loaded: the checkpoint's keys are like 'other', and the module's like 'weight', 'bias'" in str(
        report
    )


def test_wrapped_targets(tmp_path: Path) -> None:
    from torch.optim.swa_utils import AveragedModel

    class Lightning(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = net(2)

    source = net(1)
    compat.save({"state_dict": source.state_dict()}, tmp_path / "s.pt")
    wrapped: list[torch.nn.Module] = [
        torch.nn.DataParallel(net(2)),
        torch.compile(net(2), backend="eager"),  # type: ignore[list-item]  # it gives a module of a module
        Lightning(),
        torch.nn.DataParallel(Lightning()),
        AveragedModel(net(2)),
    ]
    for target in wrapped:
        assert compat.load_into(target, tmp_path / "s.pt").complete
        plain = {k.rpartition("module.")[2].rpartition("model.")[2]: v for k, v in target.state_dict().items()}
        plain = {k.removeprefix("_orig_mod."): v for k, v in plain.items() if k != "n_averaged"}
        assert raw(plain) == raw(source.state_dict())
        assert compat.load_into(net(3), target.state_dict()).complete


def test_ddp(tmp_path: Path) -> None:
    from torch.nn.parallel import DistributedDataParallel

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/g", rank=0, world_size=1)
    try:
        target = DistributedDataParallel(net(2))
        assert compat.load_into(target, net(1).state_dict()).prefix == "+module."
        assert raw(target.module.state_dict()) == raw(net(1).state_dict())
        assert compat.load_into(net(3), target.state_dict()).prefix == "module."
    finally:
        torch.distributed.destroy_process_group()


def test_a_script_module_is_filled_and_left_alone_when_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some releases deprecate it, in classes of their own
        target = torch.jit.script(net(2))
    before = raw(target.state_dict())
    partial = {k: v for k, v in net(1).state_dict().items() if k != "0.bias"}
    with pytest.raises(Mismatch):
        compat.load_into(target, partial)
    assert raw(target.state_dict()) == before
    assert compat.load_into(target, net(1).state_dict()).complete
    assert raw(target.state_dict()) == raw(net(1).state_dict())


def test_versions_that_stand_under_stale_names_are_missed() -> None:
    state = net(1).state_dict()
    del state["1.num_batches_tracked"]
    state._metadata = OrderedDict((f"module.{k}", v) for k, v in state._metadata.items())  # type: ignore[attr-defined]
    report = compat.load_into(net(), state)
    assert "its _metadata says nothing of 1: BatchNorm2d cannot know" in report.notes[0]


def test_a_file_is_not_read_before_it_is_known_to_fit(tmp_path: Path) -> None:
    compat.save({**net(1).state_dict(), "extra": torch.ones(1000)}, tmp_path / "f.pt")
    content = bytearray((tmp_path / "f.pt").read_bytes())
    at = content.index(bytes(torch.ones(1000).numpy().data))
    content[at] ^= 1
    with pytest.raises(Mismatch, match="unexpected key in source state_dict: extra"):
        compat.load_into(net(), bytes(content))
    # Nor are keys that nobody asked for.
    assert compat.load_into(net(), bytes(content), strict=False).unexpected_keys == ["extra"]
