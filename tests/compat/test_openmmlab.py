"""`load_checkpoint`, call for call as mmcv's and mmengine's callers use it."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import compat
from compat.errors import KeyCollision, Mismatch
from compat.openmmlab import RefusedState
from tests.compat.test_modules import net, raw


def test_the_signature_is_mmengine_s() -> None:
    parameters = inspect.signature(compat.load_checkpoint).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert list(defaults) == ["model", "filename", "map_location", "strict", "logger", "revise_keys"]
    assert [defaults[name] for name in ("map_location", "strict", "logger")] == [None, False, None]
    assert list(defaults["revise_keys"]) == [(r"^module\.", "")]


@pytest.fixture
def partial(tmp_path: Path) -> str:
    state: Any = compat.add_prefix(net(1).state_dict(), "module.")
    state["module.extra"] = torch.ones(1)
    state["module.2.weight"] = torch.ones(3, 2)
    del state["module.0.bias"], state["module.1.num_batches_tracked"]
    compat.save({"state_dict": state, "meta": {"CLASSES": ["a"]}}, tmp_path / "m.pth")
    return str(tmp_path / "m.pth")


def test_what_does_not_fit_is_printed_and_the_rest_loaded(partial: str, capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = net()
    checkpoint = compat.load_checkpoint(model, partial, map_location="cpu")
    said = capsys.readouterr().out
    assert said.startswith("The model and loaded state dict do not match exactly\n\n")
    assert "unexpected key in source state_dict: extra\n" in said
    assert "missing keys in source state_dict: 0.bias\n" in said
    assert "these keys have mismatched shape:\n  key       expected shape  loaded shape\n" in said
    assert "  2.weight  [2, 2]          [3, 2]\n" in said
    assert "not counted as missing: 1.num_batches_tracked" in said
    assert checkpoint["meta"] == {"CLASSES": ["a"]}
    assert "module.extra" in checkpoint["state_dict"]
    assert raw({"w": model[0].weight}) == raw({"w": net(1)[0].weight})


def test_strict_is_a_runtime_error_and_changes_nothing(partial: str) -> None:
    model = net()
    before = raw(model.state_dict())
    with pytest.raises(RuntimeError, match="do not match exactly") as caught:
        compat.load_checkpoint(model, partial, strict=True)
    assert isinstance(caught.value, (Mismatch, RefusedState))
    assert raw(model.state_dict()) == before


def test_loggers(partial: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    for logger in (logging.getLogger("train"), "train"):
        caplog.clear()
        compat.load_checkpoint(net(), partial, "cpu", False, logger)
        assert [(r.name, r.levelname) for r in caplog.records] == [("train", "WARNING")]
    caplog.clear()
    compat.load_checkpoint(net(), partial, logger="silent")
    assert not caplog.records
    assert not capsys.readouterr().out


def test_a_match_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compat.save(net(1).state_dict(), tmp_path / "m.pth")
    model = net()
    assert list(compat.load_checkpoint(model, str(tmp_path / "m.pth"))) == list(model.state_dict())
    assert raw(model.state_dict()) == raw(net(1).state_dict())
    assert not capsys.readouterr().out


def test_a_child_called_module_is_kept_and_collisions_are_refused(tmp_path: Path) -> None:
    holder: Any = torch.nn.ModuleDict({"module": net(1), "head": torch.nn.Linear(1, 1)})
    target: Any = torch.nn.ModuleDict({"module": net(2), "head": torch.nn.Linear(1, 1)})
    path = str(tmp_path / "m.pth")
    compat.save({"state_dict": holder.state_dict()}, path)
    compat.load_checkpoint(target, path, strict=True)
    assert raw(target.state_dict()) == raw(holder.state_dict())
    with pytest.raises(KeyCollision):
        compat.load_checkpoint(target, path, revise_keys=[(r".*", "same")])
    renamed: Any = torch.nn.ModuleDict({"backbone": net(2), "head": torch.nn.Linear(1, 1)})
    compat.load_checkpoint(renamed, path, strict=True, revise_keys=[(r"^module\.", "backbone.")])
    assert raw(renamed["backbone"].state_dict()) == raw(net(1).state_dict())


def test_other_content_is_refused(tmp_path: Path) -> None:
    compat.save([torch.ones(1)], tmp_path / "m.pth")
    with pytest.raises(RuntimeError, match="No state_dict found in checkpoint file"):
        compat.load_checkpoint(net(), str(tmp_path / "m.pth"))


RANKS = """
import sys, torch, compat
import torch.distributed as dist
rank, path, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
compat.load_checkpoint(torch.nn.Linear(2, 2), path)
dist.barrier()
dist.destroy_process_group()
"""


def test_only_the_first_process_prints(tmp_path: Path) -> None:
    compat.save({"weight": torch.ones(2, 2)}, tmp_path / "m.pth")
    command = [sys.executable, "-W", "ignore", "-c", RANKS]
    jobs = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "m.pth"), str(tmp_path / "g")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]
    said = [job.communicate(timeout=120)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert "missing keys in source state_dict: bias" in said[0]
    assert said[1] == ""
