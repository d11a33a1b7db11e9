"""Export targets that need a compiler or a library of their own: skipped, with the reason, where it is not here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import compat
from compat import exports
from compat.errors import MissingDependency, UnknownFormat, Unsupported

HEAVY = [target for target in exports.all_targets() if target.heavy]
# Compiling takes up to a minute; the others a few seconds.
COMPILES = (
    {} if os.environ.get("COMPAT_COMPILE") else {"aot-inductor": "compiles for long: asked for by COMPAT_COMPILE"}
)
HERE = [
    pytest.param(target.name, marks=[pytest.mark.skipif(bool(reason), reason=reason or "")])
    for target in HEAVY
    for reason in [target.available() or COMPILES.get(target.name)]
]


class Small(torch.nn.Module):
    """A linear layer and one that a tie shares."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(4, 4)
        self.second = torch.nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.second(self.first(x).relu())
        return made


def batch(size: int) -> tuple[torch.Tensor]:
    return (torch.randn(size, 4, generator=torch.Generator().manual_seed(size)),)


@pytest.mark.filterwarnings("ignore")  # compilers warn of what they are made with
@pytest.mark.parametrize("name", HERE)
def test_a_heavy_target_computes_refuses_and_keeps_the_state_beside_it(name: str, tmp_path: Path) -> None:
    target = exports.get(name)
    before = os.environ.get("AOTI_RUNTIME_CHECK_INPUTS")
    path = tmp_path / f"m{target.suffix}"
    made = compat.export(Small().eval(), batch(3), path, target=name, dynamic="batch", state="sidecar")
    for size in (3, 1, 5):
        found = compat.verify_export(made, Small().eval(), batch(size))
        assert found.ok, found.outputs
        assert found.weights is not None
        assert found.weights.exact
    with pytest.raises(Unsupported, match=f"{name} refuses this call"):
        made.run(torch.randn(3, 5))
    assert compat.load_exported(path).target == name, "it is known by its content"
    with pytest.raises(UnknownFormat, match=name):
        compat.load_exported(path, target="onnx")
    assert os.environ.get("AOTI_RUNTIME_CHECK_INPUTS") == before


def test_a_suffix_of_two_targets_means_the_light_one(tmp_path: Path) -> None:
    assert compat.export(Small().eval(), batch(3), tmp_path / "m.pt2").target == "torch-export"


def test_a_file_is_no_artefact_of_another_target(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_text("<html>no model</html>", encoding="utf-8")
    with pytest.raises(compat.CompatError):
        compat.load_exported(tmp_path / "m.xml")
    (tmp_path / "m.pt2").write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(compat.CompatError):
        compat.load_exported(tmp_path / "m.pt2")
    compat.export(Small().eval(), batch(3), tmp_path / "n.pt2")
    with pytest.raises(UnknownFormat, match=r"is torch-export, and openvino is \.xml"):
        compat.load_exported(tmp_path / "n.pt2", target="openvino")


def test_what_is_computed_otherwise_without_a_word_is_refused_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("compat.torchruntime.importlib.util.find_spec", lambda _: 1)
    with pytest.raises(Unsupported, match=r"first.weight is float64, which openvino does not compute in"):
        compat.export(Small().double().eval(), batch(3), tmp_path / "m.xml", target="openvino")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("compat.torchruntime.importlib.util.find_spec", lambda name: 1 if name == "torch" else None)
    for name in ("openvino", "executorch"):
        with pytest.raises(MissingDependency, match=name):
            compat.export(Small().eval(), batch(3), tmp_path / "m", target=name)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(MissingDependency, match=r"g\+\+"):
        compat.export(Small().eval(), batch(3), tmp_path / "m.pt2", target="aot-inductor")
