from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch

from matrix.drawing import MODULE_FAMILIES, SeededChoices, draw_module
from matrix.modules import ModuleSpecError, build_module, example_inputs, forward
from matrix.modulespec import InputSpec, LayerSpec, ModuleSpec, layer
from matrix.spec import ITEMSIZES
from matrix.tensors import describe

SEEDS = range(30)


def drawn(family: str) -> list[ModuleSpec]:
    return [draw_module(SeededChoices(seed), family) for seed in SEEDS]


def spec_of(root: LayerSpec, *inputs: InputSpec, seed: int = 7) -> ModuleSpec:
    return ModuleSpec(family="test", layer=root, seed=seed, inputs=inputs)


@pytest.mark.parametrize("family", MODULE_FAMILIES)
def test_every_drawn_module_runs_and_is_determined_by_its_spec(family: str) -> None:
    for spec in drawn(family):
        module, twin = build_module(spec), build_module(spec)
        assert describe(module.state_dict()) == describe(twin.state_dict()), spec
        outputs = forward(module, example_inputs(spec))
        assert outputs, spec
        assert all(bool(torch.isfinite(output).all()) for output in outputs), spec
        again = forward(twin, example_inputs(spec))
        assert describe(outputs) == describe(again), spec


@pytest.mark.parametrize("family", MODULE_FAMILIES)
def test_module_specs_survive_json(family: str) -> None:
    for spec in drawn(family):
        assert ModuleSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_seed_changes_values_and_nothing_else() -> None:
    root = layer("Linear", in_features=2, out_features=2)
    one, other = (describe(build_module(spec_of(root, seed=seed)).state_dict()) for seed in (1, 2))
    assert one.tree == other.tree
    assert one.storages != other.storages


@pytest.mark.parametrize("family", ["linear", "mixed", "buffers", "lstm"])
def test_global_random_states_are_untouched(family: str) -> None:
    before, plain = torch.get_rng_state(), random.getstate()
    for spec in drawn(family)[:5]:
        forward(build_module(spec), example_inputs(spec))
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == plain


def test_outputs_hold_no_bytes_that_were_never_written() -> None:
    conv = layer("ConvTranspose3d", in_channels=1, out_channels=2, kernel_size=2)
    spec = spec_of(conv, InputSpec(shape=(1, 1, 8, 8, 8)))
    output = forward(build_module(spec), example_inputs(spec))[0]
    assert output.untyped_storage().nbytes() == output.numel() * output.element_size()


def test_forward_leaves_the_mode_and_asks_for_no_gradients() -> None:
    module = build_module(spec_of(layer("Linear", in_features=2, out_features=2))).train()
    outputs = forward(module, [torch.ones(1, 2)])
    assert module.training
    assert not outputs[0].requires_grad


def test_running_statistics_are_not_the_defaults_a_loader_might_forget() -> None:
    module = build_module(spec_of(layer("BatchNorm1d", num_features=4)))
    state = module.state_dict()
    assert state["running_var"].min() >= 0.5
    assert not torch.equal(state["running_mean"], torch.zeros(4))
    assert int(state["num_batches_tracked"]) != 0


def test_buffers_of_every_dtype_are_filled_and_those_not_persistent_stay_out() -> None:
    names = tuple(ITEMSIZES)
    root = layer("Buffered", dtypes=names, shape=(64,), persistent=len(names) - 1)
    module = build_module(spec_of(root))
    buffers, state = dict(module.named_buffers()), module.state_dict()
    for name in names:
        stored = describe(buffers[f"{name}_buffer"]).storages[0].data
        assert any(stored), name
        assert (f"{name}_buffer" in state) == (name != names[-1])
    assert set(describe(buffers["bool_buffer"]).storages[0].data) <= {0, 1}


def test_tied_parameters_are_one_and_frozen_ones_require_no_gradient() -> None:
    tied: Any = build_module(spec_of(layer("TiedHead", words=3, width=2, padding_idx=0, bias=False)))
    assert tied.head.weight is tied.embedding.weight
    twice: Any = build_module(spec_of(layer("Twice", width=2)))
    assert twice.first.weight is twice.second.weight
    frozen = build_module(spec_of(layer("Frozen", layer("Linear", in_features=1, out_features=1))))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_a_real_child_named_module_is_in_every_nested_draw() -> None:
    for spec in drawn("nested"):
        assert any(key.startswith("0.module.") for key in build_module(spec).state_dict()), spec


def test_families_show_what_they_are_named_for() -> None:
    for family, kinds in {
        "conv1d": {"Conv1d"},
        "conv2d": {"Conv2d"},
        "conv3d": {"Conv3d"},
        "convtransposed": {"ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"},
        "batchnorm": {"BatchNorm1d", "BatchNorm2d", "BatchNorm3d"},
        "groupnorm": {"GroupNorm"},
        "layernorm": {"LayerNorm"},
        "embedding": {"Embedding"},
        "linear": {"Linear"},
        "lstm": {"LSTM", "GRU", "RNN"},
        "tied": {"TiedHead", "Twice"},
        "frozen": {"Frozen"},
        "buffers": {"Buffered"},
    }.items():
        seen = set()
        for spec in drawn(family):
            found = {item.kind for item in spec.layer.walk()} & kinds
            assert found, spec
            seen |= found
        assert seen == kinds, family


def test_an_unknown_layer_or_family_is_refused() -> None:
    with pytest.raises(ModuleSpecError, match=r"no layer is called 'Quantum', expected one of torch\.nn or of"):
        build_module(spec_of(layer("Quantum")))
    with pytest.raises(ValueError, match="no family of modules is called 'quantum', expected one of"):
        draw_module(SeededChoices(0), "quantum")
