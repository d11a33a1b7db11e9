"""Training checkpoints: what goes on as it was, what is refused, and whose files load."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compat
from compat.errors import KeyCollision, Mismatch, TargetExists, Unsupported


def net(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3), torch.nn.Dropout()
    )


def train(module: torch.nn.Module, optimizer: Any, steps: int = 2, scheduler: Any = None) -> None:
    module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.rand(4, 3)).square().sum().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def raw(value: Any) -> Any:
    """A state as its bytes."""
    if isinstance(value, torch.Tensor):
        return (
            str(value.dtype),
            tuple(value.shape),
            bytes(value.detach().contiguous().view(-1).view(torch.uint8).numpy()),
        )
    if isinstance(value, dict):
        return {key: raw(item) for key, item in value.items()}
    return [raw(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_it_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    module = net()
    optimizer = torch.optim.Adam(module.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3])
    train(module, optimizer, scheduler=scheduler)
    path = tmp_path / "run.pt"
    compat.save_training(path, models=module, optimizers=optimizer, schedulers=scheduler, epoch=2, best=torch.ones(2))
    train(module, optimizer, scheduler=scheduler)
    drawn = (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002 - the global generators

    other = net(seed=9)
    again = torch.optim.Adam(other.parameters(), lr=7.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(again, [5])
    resumed = compat.load_training(path, models=other, optimizers=again, schedulers=schedule)
    assert resumed["epoch"] == 2
    assert resumed.extras.keys() == {"epoch", "best"}
    assert resumed.notes == []
    assert isinstance(schedule.milestones, Counter)
    train(other, again, scheduler=schedule)
    assert raw(other.state_dict()) == raw(module.state_dict())
    assert raw(again.state_dict()) == raw(optimizer.state_dict())
    assert schedule.state_dict() == scheduler.state_dict()
    assert drawn == (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002 - as above


def test_nothing_changes_when_a_later_part_does_not_fit(tmp_path: Path) -> None:
    first, second = net(), torch.nn.Linear(5, 5)
    optimizer = torch.optim.SGD(first.parameters(), lr=0.1)
    chained = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [torch.optim.lr_scheduler.ConstantLR(optimizer), torch.optim.lr_scheduler.StepLR(optimizer, 3)],
        milestones=[2],
    )
    compat.save_training(
        tmp_path / "two.pt", models={"a": first, "b": second}, optimizers=optimizer, schedulers=chained, rng=False
    )
    train(first, optimizer, scheduler=chained)
    before = raw((first.state_dict(), optimizer.state_dict(), chained.state_dict()))
    with pytest.raises(Mismatch):
        compat.load_training(
            tmp_path / "two.pt",
            models={"a": first, "b": torch.nn.Linear(4, 4)},
            optimizers=optimizer,
            schedulers=chained,
        )
    assert raw((first.state_dict(), optimizer.state_dict(), chained.state_dict())) == before


def test_another_class_of_optimizer_is_said(tmp_path: Path) -> None:
    module = net()
    compat.save_training(tmp_path / "run.pt", models=module, optimizers=torch.optim.Adam(module.parameters()))
    resumed = compat.load_training(
        tmp_path / "run.pt", models=module, optimizers=torch.optim.AdamW(module.parameters())
    )
    assert resumed.notes == ["the state of optimizer is that of Adam, and AdamW goes on with it"]


def test_torch_reads_it_with_weights_only(tmp_path: Path) -> None:
    module = net()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])
    compat.save_training(tmp_path / "run.pt", models=module, optimizers=optimizer, schedulers=scheduler, epoch=1)
    loaded = torch.load(tmp_path / "run.pt", weights_only=True)
    other = net(seed=3)
    other.load_state_dict(loaded["model_state_dict"])
    torch.optim.SGD(other.parameters(), lr=0.2).load_state_dict(loaded["optimizer_state_dict"])
    assert raw(other.state_dict()) == raw(module.state_dict())
    assert loaded["epoch"] == 1


def test_state_follows_names_and_not_numbers(tmp_path: Path) -> None:
    module = net()
    optimizer = torch.optim.Adam(module.parameters())
    train(module, optimizer)
    compat.save_training(tmp_path / "run.pt", models=module, optimizers=optimizer)
    other = net(seed=1)
    again = torch.optim.Adam(list(other.parameters())[::-1])
    compat.load_training(tmp_path / "run.pt", models=other, optimizers=again)
    for mine, theirs in zip(module.parameters(), other.parameters(), strict=True):
        assert raw(dict(optimizer.state[mine])) == raw(dict(again.state[theirs]))


def test_groups_in_another_order_keep_their_options_and_their_schedule(tmp_path: Path) -> None:
    def made(module: torch.nn.Module, order: int) -> tuple[Any, Any]:
        first, *rest = module.parameters()
        groups = [{"params": [first], "lr": 0.5}, {"params": rest, "lr": 0.25}][::order]
        optimizer = torch.optim.SGD(groups, momentum=0.9)
        return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    module = net()
    optimizer, scheduler = made(module, 1)
    train(module, optimizer, scheduler=scheduler)
    compat.save_training(tmp_path / "run.pt", models=module, optimizers=optimizer, schedulers=scheduler)
    other = net(seed=1)
    again, schedule = made(other, -1)
    compat.load_training(tmp_path / "run.pt", models=other, optimizers=again, schedulers=schedule)
    train(other, again, steps=1, scheduler=schedule)
    assert [group["lr"] for group in again.param_groups] == [0.25 / 8, 0.5 / 8]
    assert schedule.base_lrs == [0.25, 0.5]


def test_wrappers_leave_no_trace(tmp_path: Path) -> None:
    module = net()
    wrapped = torch.nn.DataParallel(module)
    optimizer = torch.optim.Adam(wrapped.parameters())
    train(module, optimizer)
    compat.save_training(tmp_path / "run.pt", models=wrapped, optimizers=optimizer)
    assert list(compat.load(tmp_path / "run.pt")["model_state_dict"]) == list(module.state_dict())
    for other in (net(seed=1), torch.nn.DataParallel(net(seed=1))):
        again = torch.optim.Adam(other.parameters())
        compat.load_training(tmp_path / "run.pt", models=other, optimizers=again)
        bare = other.module if isinstance(other, torch.nn.DataParallel) else other
        assert raw(bare.state_dict()) == raw(module.state_dict())
        assert raw(again.state_dict()) == raw(optimizer.state_dict())


def test_several_models_in_one_file(tmp_path: Path) -> None:
    models = {"modelA": net(1), "modelB": torch.nn.Linear(2, 2)}
    optimizers = {f"optimizer{name[-1]}": torch.optim.Adam(m.parameters()) for name, m in models.items()}
    train(models["modelA"], optimizers["optimizerA"])
    compat.save_training(tmp_path / "gan.pt", models=models, optimizers=optimizers, loss=0.5)
    loaded = compat.load(tmp_path / "gan.pt")
    assert {"modelA_state_dict", "modelB_state_dict", "optimizerA_state_dict", "optimizerB_state_dict"} <= set(loaded)
    fresh = {"modelB": torch.nn.Linear(2, 2), "modelA": net(2)}
    again = {"optimizerA": torch.optim.Adam(fresh["modelA"].parameters())}
    resumed = compat.load_training(tmp_path / "gan.pt", models=fresh, optimizers=again)
    assert raw(fresh["modelB"].state_dict()) == raw(models["modelB"].state_dict())
    assert raw(again["optimizerA"].state_dict()) == raw(optimizers["optimizerA"].state_dict())
    assert resumed.extras == {"loss": 0.5}


def test_float32_moments_of_a_bfloat16_parameter_are_not_rounded(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    holder = torch.nn.ParameterDict({"w": parameter})
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    optimizer.state[parameter]["momentum_buffer"] = torch.tensor([1.0000001, 1 / 3, 0.1])
    compat.save_training(tmp_path / "run.pt", models=holder, optimizers=optimizer)
    again = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    compat.load_training(tmp_path / "run.pt", models=holder, optimizers=again)
    assert raw(again.state[parameter]["momentum_buffer"]) == raw(torch.tensor([1.0000001, 1 / 3, 0.1]))


@pytest.mark.parametrize(
    "keys",
    [
        ("model_state_dict", "optimizer_state_dict", "scheduler_state_dict"),
        ("state_dict", "optimizer", "scheduler"),
        ("model", "optimizer", "lr_scheduler"),
        ("net", "opt", "scheduler"),
    ],
    ids="-".join,
)
def test_files_of_tutorial_recipes_load(keys: tuple[str, str, str], tmp_path: Path) -> None:
    module = net()
    optimizer = torch.optim.Adam(module.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    train(module, optimizer, scheduler=scheduler)
    parts = (module.state_dict(), optimizer.state_dict(), scheduler.state_dict())
    torch.save({**dict(zip(keys, parts, strict=True)), "epoch": 4, "loss": 0.25}, tmp_path / "c.tar")
    other = net(seed=5)
    again = torch.optim.Adam(other.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(again, 1)
    resumed = compat.load_training(tmp_path / "c.tar", models=other, optimizers=again, schedulers=schedule)
    assert resumed.extras == {"epoch": 4, "loss": 0.25}
    assert "matched by order and shape" in resumed.notes[0]
    assert raw(again.state_dict()) == raw(optimizer.state_dict())
    assert raw(other.state_dict()) == raw(module.state_dict())


def test_lightnings_lists_load(tmp_path: Path) -> None:
    module = net()
    optimizer = torch.optim.Adam(module.parameters())
    train(module, optimizer)
    state = {f"model.{key}": value for key, value in module.state_dict().items()}
    lightning = {"state_dict": state, "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [], "epoch": 1}
    torch.save(lightning, tmp_path / "l.ckpt")
    again = torch.optim.Adam(net(2).parameters())
    resumed = compat.load_training(tmp_path / "l.ckpt", optimizers=again)
    assert raw(again.state_dict()) == raw(optimizer.state_dict())
    assert resumed["epoch"] == 1


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    module = net()
    optimizer = torch.optim.Adam(module.parameters())
    train(module, optimizer)
    compat.save_training(tmp_path / "run.pt", models=module, optimizers=optimizer)
    torch.save(
        {"model": module.state_dict(), "optimizer": optimizer.state_dict()},
        tmp_path / "plain.pt",
    )
    other = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    before = raw(other.state_dict())
    again = torch.optim.Adam(other.parameters())
    with pytest.raises(Mismatch, match=r"other parameters .*only in the file"):
        compat.load_training(tmp_path / "run.pt", models=other, optimizers=again)
    turned = torch.optim.Adam(list(module.parameters())[::-1])
    with pytest.raises(Mismatch, match=r"has shape .* expected .* the parameter's"):
        compat.load_training(tmp_path / "plain.pt", optimizers=turned)
    with pytest.raises(Mismatch, match="groups of"):
        compat.load_training(tmp_path / "plain.pt", optimizers=again)
    with pytest.raises(Mismatch, match="holds no scheduler 'scheduler'"):
        compat.load_training(tmp_path / "run.pt", models=net(), schedulers=object())
    assert raw(other.state_dict()) == before
    assert again.state == {}


def test_groups_that_were_apart_are_not_mixed(tmp_path: Path) -> None:
    module = net()
    first, *rest = module.parameters()
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": rest, "lr": 0.1}])
    compat.save_training(tmp_path / "run.pt", models=module, optimizers=optimizer)
    with pytest.raises(Mismatch, match="differ in lr"):
        compat.load_training(
            tmp_path / "run.pt", models=module, optimizers=torch.optim.SGD(module.parameters(), lr=0.1)
        )


def test_lbfgs_is_refused_in_another_order(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    optimizer: Any = torch.optim.LBFGS(module.parameters())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: Any = module(torch.ones(1, 2)).square().sum()
        loss.backward()
        return torch.as_tensor(loss)

    optimizer.step(closure)
    compat.save_training(tmp_path / "run.pt", models=module, optimizers=optimizer)
    compat.load_training(tmp_path / "run.pt", models=module, optimizers=torch.optim.LBFGS(module.parameters()))
    turned = torch.optim.LBFGS([module.bias, module.weight])
    with pytest.raises(Mismatch, match="in another order"):
        compat.load_training(tmp_path / "run.pt", models=module, optimizers=turned)


def test_only_the_last_are_kept(tmp_path: Path) -> None:
    module = torch.nn.Linear(1, 1)
    (tmp_path / "step-x.pt").write_bytes(b"mine")
    (tmp_path / "step-3.pt.txt").write_bytes(b"mine")
    for step in (1, 2, 10, 9, 11):
        compat.save_training(tmp_path / "step-{step}.pt", models=module, step=step, keep_last=2)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["step-10.pt", "step-11.pt", "step-3.pt.txt", "step-x.pt"]
    for name, extras in (("last.pt", {}), ("{step}.pt", {}), ("{step}.pt", {"step": 0.5})):
        with pytest.raises(Unsupported, match="keep_last"):
            compat.save_training(tmp_path / name, models=module, keep_last=2, **extras)  # type: ignore[arg-type]  # an extra


def test_a_failing_save_leaves_the_previous_file(tmp_path: Path) -> None:
    module = torch.nn.Linear(1, 1)
    path = tmp_path / "last.pt"
    compat.save_training(path, models=module, epoch=1)
    with pytest.raises(Unsupported):
        compat.save_training(path, models=module, epoch=2, broken=object())
    assert compat.load(path)["epoch"] == 1
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TargetExists):
        compat.save_training(path, models=module, epoch=2, overwrite=False)
    with pytest.raises(KeyCollision):
        compat.save_training(path, models=module, model_state_dict=1)


def test_a_snapshot_does_not_follow_the_training() -> None:
    module = net()
    best = compat.snapshot(module.state_dict())
    reference = module.state_dict()
    before = raw(best)
    train(module, torch.optim.SGD(module.parameters(), lr=0.1))
    assert raw(best) == before
    assert raw(reference) != before
    assert best._metadata == reference._metadata  # type: ignore[attr-defined]  # torch puts it there
    tied = {"a": (w := torch.ones(2)), "b": w[:1]}
    copied = compat.snapshot(tied)
    assert copied["a"].data_ptr() == copied["b"].data_ptr() != w.data_ptr()


def test_any_format_holds_a_training_run(tmp_path: Path) -> None:
    module = net()
    optimizer = torch.optim.Adam(module.parameters())
    train(module, optimizer)
    for name in ("run.safetensors", "run.pt", "run.safetensors.index.json"):
        compat.save_training(tmp_path / name, models=module, optimizers=optimizer, epoch=3)
        other = net(seed=4)
        again = torch.optim.Adam(other.parameters())
        assert compat.load_training(tmp_path / name, models=other, optimizers=again)["epoch"] == 3
        assert raw(again.state_dict()) == raw(optimizer.state_dict())
