"""`compat strip`, `rename`, `extract` and `load`: other keys, or a part, without loading a tensor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import compat
from compat import rewriting
from compat.cli import main
from compat.errors import KeyCollision, Mismatch, Unsupported
from compat.loading import open_checkpoint
from tests.compat.making import torch_dumped
from tests.compat.test_modules import net, raw


def run(*args: Any) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def wrapped(tmp_path: Path) -> Path:
    """A training checkpoint of a wrapped model, with a tied tensor."""
    state: Any = compat.add_prefix(net(1).state_dict(), "module.")
    state["module.tied"] = state["module.2.weight"]
    compat.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}, tmp_path / "w.pt")
    return tmp_path / "w.pt"


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "npz"])
def test_strip(wrapped: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out.{suffix}"
    allowed = ["--allow-loss", "aliasing"] if suffix == "npz" else []
    result = run("strip", wrapped, out, *allowed)
    assert result.exit_code == 0, result.output
    assert "verified" in result.output
    back = compat.load(out)
    expected: Any = net(1).state_dict()
    assert list(back["state_dict"]) == [*expected, "tied"]
    assert raw({k: v for k, v in back["state_dict"].items() if k != "tied"}) == raw(expected)
    assert back["state_dict"]._metadata == expected._metadata
    assert back["epoch"] == 3
    if suffix == "pt":
        assert back["state_dict"]["tied"].data_ptr() == back["state_dict"]["2.weight"].data_ptr()


def test_what_is_not_there_is_not_stripped(tmp_path: Path) -> None:
    compat.save(net(1).state_dict(), tmp_path / "plain.pt")
    for prefix in ("auto", "backbone."):
        result = run("strip", tmp_path / "plain.pt", tmp_path / "out.pt", "--prefix", prefix)
        assert result.exit_code == 2
        assert "no key begins with" in result.output
        assert not (tmp_path / "out.pt").exists()


def test_several_states_are_named_and_may_all_be_stripped(tmp_path: Path) -> None:
    state = compat.add_prefix(net(1).state_dict(), "module.")
    compat.save({"model": state, "ema": dict(state)}, tmp_path / "two.pt")
    out = tmp_path / "out.pt"
    result = run("strip", tmp_path / "two.pt", out)
    assert (result.exit_code, "key='model'" in result.output) == (2, True)
    assert run("strip", tmp_path / "two.pt", out, "--key", "model", "--key", "ema").exit_code == 0
    back = compat.load(out)
    assert list(back["model"]) == list(back["ema"]) == list(net().state_dict())


def test_rename_takes_the_versions_along(wrapped: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    rules = ["--rule", r"^module\.=>", "--rule", r"^(\d)\.=>layer\1.", "--rule", "^layer1.weight$=>layer1.gamma"]
    assert run("rename", wrapped, out, *rules, "--json").exit_code == 0
    state = compat.load(out)["state_dict"]
    assert list(state)[:3] == ["layer0.weight", "layer0.bias", "layer1.gamma"]
    assert state._metadata["layer1"] == {"version": 2}


def test_a_module_renamed_key_by_key_keeps_its_version() -> None:
    state: Any = net(1).state_dict()
    made, idle = compat.keys.rename_by(state, [(rf"^1\.{name}$", f"bn.{name}") for name in ("weight", "bias")])
    assert idle == []
    # Some of its keys stay where they were: so does what is known of it.
    assert "bn" not in vars(made)["_metadata"]
    made, _ = compat.keys.rename_by(state, [(r"^1\.(\w+)$", r"bn.\1")])
    assert vars(made)["_metadata"]["bn"] == {"version": 2}


@pytest.mark.parametrize(
    ("rule", "code", "said"),
    [
        (r"^module\.\d\.=>x.", 2, "would all become 'x.weight'"),
        ("^nothing=>x", 2, "renames none of its keys"),
        ("no arrow", 2, "is no rule; expected PATTERN=>REPLACEMENT"),
        ("(=>x", 2, "is no rule: missing )"),
        (r"a=>\9", 2, "invalid group reference"),
    ],
)
def test_rules_that_go_wrong(wrapped: Path, tmp_path: Path, rule: str, code: int, said: str) -> None:
    result = run("rename", wrapped, tmp_path / "out.pt", "--rule", rule)
    assert result.exit_code == code
    assert said in result.output
    assert not (tmp_path / "out.pt").exists()


def test_extract(wrapped: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    assert run("extract", wrapped, out).exit_code == 0
    assert list(compat.load(out)) == list(compat.load(wrapped)["state_dict"])
    assert run("extract", wrapped, out).exit_code == 2  # it exists
    assert run("extract", wrapped, out, "--overwrite", "--key", "state_dict").exit_code == 0
    assert run("extract", wrapped, tmp_path / "o", "--to", "torch-legacy").exit_code == 0
    with open_checkpoint(tmp_path / "o") as legacy:
        assert legacy.format == "torch-legacy"
    assert run("extract", wrapped, tmp_path / "p.pt", "--key", "ema").exit_code == 2


def test_a_pickled_module_gives_its_weights_and_cannot_be_renamed(tmp_path: Path) -> None:
    (tmp_path / "whole.pt").write_bytes(torch_dumped(net(1)))
    result = run("extract", tmp_path / "whole.pt", tmp_path / "out.pt")
    assert result.exit_code == 0
    assert "recovered from a pickled torch.nn.modules.container.Sequential" in result.output
    assert raw(compat.load(tmp_path / "out.pt")) == raw(net(1).state_dict())
    with pytest.raises(Unsupported, match="compat extract"):
        compat.convert(tmp_path / "whole.pt", tmp_path / "no.pt", change=rewriting.rename([("0", "1")]))


def test_the_source_s_model_is_not_changed(wrapped: Path) -> None:
    with open_checkpoint(wrapped) as checkpoint:
        before = list(checkpoint.tree["state_dict"])
        made = rewriting.strip()(checkpoint)
        assert list(checkpoint.tree["state_dict"]) == before
        assert made.tree["optimizer"] is checkpoint.tree["optimizer"]
        with pytest.raises(KeyCollision):
            rewriting.rename([(".*", "")])(checkpoint)
        with pytest.raises(Mismatch):
            rewriting.extract("nothing")(checkpoint)


def test_neither_torch_nor_numpy_is_imported(wrapped: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom compat.cli import main\n"
        "for args in (['strip', sys.argv[1], sys.argv[2]], ['extract', sys.argv[2], sys.argv[3]]):\n"
        "    try: main(args)\n"
        "    except SystemExit as end: assert end.code == 0, end.code\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    args = [wrapped, tmp_path / "a.pt", tmp_path / "b.safetensors"]
    subprocess.run([sys.executable, "-c", code, *map(str, args)], check=True, cwd=Path(__file__).parents[2])
