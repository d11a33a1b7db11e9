"""Export targets: written, reloaded, run and audited, with the real exporters and runtimes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import compat
from compat import exports
from compat.cli import main
from compat.errors import CompatError, MissingDependency, TargetExists, UnknownFormat, Unsupported
from compat.exporting import sidecar

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

# The others take minutes, and have tests of their own.
TARGETS = [target.name for target in exports.all_targets() if not target.heavy]
SHAPED = [name for name in TARGETS if not name.startswith("torchscript")]


class Small(torch.nn.Module):
    """Convolution, batch norm, a tie, and a buffer that is not persistent."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(1, 2, 3)
        self.norm = torch.nn.BatchNorm2d(2)
        self.first = torch.nn.Linear(2, 2)
        self.second = torch.nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.tensor([0.5, 2.0]), persistent=False)
        for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean):
            # Exporters keep one of two tensors of equal values.
            torch.nn.init.uniform_(tensor)  # type: ignore[arg-type]  # tracked, so there is a mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.conv(x)).mean((2, 3))
        made: torch.Tensor = self.second(self.first(hidden)) * self.scale
        return made

    def example_inputs(self) -> tuple[torch.Tensor]:
        return (torch.randn(3, 1, 5, 5, generator=torch.Generator().manual_seed(1)),)


class Branching(torch.nn.Module):
    """Takes a way by the values of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if bool(x.sum() > 0) else -x

    def example_inputs(self) -> tuple[torch.Tensor]:
        return (torch.ones(2),)


def batch(size: int) -> tuple[torch.Tensor]:
    return (torch.randn(size, 1, 5, 5, generator=torch.Generator().manual_seed(size)),)


@pytest.fixture(scope="module", params=TARGETS)
def artefact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> compat.Exported:
    target = exports.get(request.param)
    path = tmp_path_factory.mktemp("artefact") / f"m{target.suffix}"
    dynamic: Any = "batch" if request.param in SHAPED else None
    return compat.export(Small().eval(), batch(3), path, target=request.param, dynamic=dynamic)


@pytest.mark.parametrize("size", [3, 1, 5])
def test_it_computes_what_the_module_does(artefact: compat.Exported, size: int) -> None:
    found = compat.verify_export(artefact, Small().eval(), batch(size))
    assert found.ok, found.outputs
    assert found.worst < 1e-6
    if exports.get(artefact.target).capabilities.same_runtime:
        assert found.equal


def test_its_weights_are_what_the_target_claims(artefact: compat.Exported) -> None:
    found = compat.verify_export(artefact, Small().eval(), batch(3)).weights
    claim = exports.get(artefact.target).capabilities.state
    if claim == "none":
        assert found is None or set(found.counts) <= {"lost", "renamed"}
        return
    assert found is not None
    assert "changed" not in found.counts
    if claim == "exact":
        assert found.exact, found.fates
    else:
        # A tie keeps one of its names, and what nothing uses is gone.
        assert found.counts == {"exact": 9, "renamed": 1, "lost": 1}
        assert found.fates["norm.num_batches_tracked"] == "lost"


def test_another_shape_is_refused_and_not_garbage(artefact: compat.Exported) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - each runtime refuses in its own way; none may answer
        artefact.run(torch.randn(3, 2, 5, 5))


@pytest.mark.parametrize("target", SHAPED)
def test_a_static_batch_is_held(target: str, tmp_path: Path) -> None:
    made = compat.export(Small().eval(), batch(3), tmp_path / f"m{exports.get(target).suffix}", target=target)
    assert compat.verify_export(made, Small().eval(), batch(3)).ok
    with pytest.raises(Exception):  # noqa: B017, PT011 - as above
        made.run(*batch(5))


@pytest.mark.parametrize("runtime", ["onnxruntime", "reference"])
@pytest.mark.parametrize("optimization", ["all", "none"])
def test_onnx_is_witnessed_twice(runtime: str, optimization: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    compat.export(Small().eval(), batch(3), path, opset=18, optimize=True, external_data=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    made = compat.load_exported(path, runtime=runtime, graph_optimization=optimization)
    found = compat.verify_export(made, Small().eval(), batch(3))
    assert found.ok, found.outputs
    # The exporter folds the batch norm into the convolution, and keeps the convolution's name.
    assert found.weights is not None
    assert found.weights.fates["conv.weight"] == "changed"


def test_the_source_is_never_changed(tmp_path: Path) -> None:
    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n: torch.Tensor
            self.register_buffer("n", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n.add_(1)
            return x + self.n

    for target in TARGETS:
        module = Counting().eval()
        made = compat.export(module, (torch.zeros(2),), tmp_path / target, target=target)
        assert module.n.item() == 0.0, target
        first, second = (torch.as_tensor(_one(made.run(torch.zeros(2)))) for _ in range(2))
        stateful = exports.get(target).capabilities.stateful
        assert (float(second[0]) > float(first[0])) == stateful, target


def _one(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs


def test_training_mode_is_refused(tmp_path: Path) -> None:
    module = Small().eval()
    module.norm.train()
    for target in TARGETS:
        with pytest.raises(Unsupported, match=r"norm is in training mode.*eval\(\)"):
            compat.export(module, batch(3), tmp_path / "m", target=target)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    for target, reason in (("torch-export", "torch.cond"), ("onnx", "torch.cond")):
        with pytest.raises(Unsupported, match=reason):
            compat.export(Branching().eval(), batch(3), tmp_path / "m", target=target)
    with pytest.raises(Unsupported, match="batch of 1"):
        compat.export(Small().eval(), batch(1), tmp_path / "m.onnx", dynamic="batch")
    with pytest.raises(Unsupported, match="opset 17"):
        compat.export(Small().eval(), batch(3), tmp_path / "m.onnx", opset=17)
    assert list(tmp_path.iterdir()) == []


def test_negated_and_conjugated_buffers_keep_their_values(tmp_path: Path) -> None:
    class Lazy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n: torch.Tensor
            self.c: torch.Tensor
            self.register_buffer("n", torch._neg_view(torch.tensor([1.0, 2.0])))
            self.register_buffer("c", torch.tensor([1 + 2j]).conj())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.n.sum() + torch.view_as_real(self.c.resolve_conj())[0, 1]

    for target in TARGETS:
        if target != "onnx-torchscript":  # it has no complex tensors
            made = compat.export(Lazy().eval(), (torch.zeros(2),), tmp_path / target, target=target)
            assert torch.as_tensor(_one(made.run(torch.zeros(2)))).tolist() == [-5.0, -5.0], target


def test_an_existing_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(b"mine")
    with pytest.raises(TargetExists):
        compat.export(Small().eval(), batch(3), path, target="torchscript-trace")
    assert path.read_bytes() == b"mine"


def test_a_sidecar_holds_the_exact_state(tmp_path: Path) -> None:
    made = compat.export(Small().eval(), batch(3), tmp_path / "m.pt", target="torchscript-frozen", state="sidecar")
    assert sidecar(made.path).exists()
    assert compat.audit(Small().state_dict(), made.state_dict()).exact


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    compat.save({"a": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(UnknownFormat, match="is torch-zip, which holds no computation"):
        compat.load_exported(tmp_path / "weights.pt")
    compat.export(Small().eval(), batch(3), tmp_path / "m.pt", target="torchscript-trace")
    with pytest.raises(UnknownFormat, match="is torchscript, and onnx is onnx"):
        compat.load_exported(tmp_path / "m.pt", target="onnx")
    content = (tmp_path / "m.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CompatError):
        compat.load_exported(tmp_path / "cut.pt")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compat.export(Small().eval(), batch(3), tmp_path / "m.onnx", target="onnx-torchscript")
    monkeypatch.setattr(
        "compat.torchruntime.importlib.util.find_spec", lambda name: None if name == "onnxscript" else 1
    )
    with pytest.raises(MissingDependency, match="onnxscript"):
        compat.export(Small().eval(), batch(3), tmp_path / "n.onnx")
    with pytest.raises(Unsupported, match="NoSuchProvider"):
        compat.load_exported(tmp_path / "m.onnx", providers=["NoSuchProvider"])


def test_an_audit_compares_bytes_and_not_names() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    source = {"a": weight, "b": weight, "c": torch.tensor([0.0]), "d": weight[:1] + 9, "e": 3}
    found = {"a": weight.clone(), "x": weight.t().contiguous(), "c": torch.tensor([-0.0]), "y": torch.ones(5)}
    audited = compat.audit(source, found)
    assert audited.fates == {"a": "exact", "b": "renamed", "c": "changed", "d": "lost", "e": "lost"}
    assert audited.extra == ["x", "y"]
    assert compat.audit({"w": weight}, {"x": weight.t()}).fates == {"w": "transposed"}
    assert compat.audit(source, {"a": weight.clone(), "b": weight.clone()}).split == [("a", "b")]


def test_the_commands(tmp_path: Path) -> None:
    factory = f"{__name__}:Small"
    path = str(tmp_path / "m.onnx")
    done = CliRunner().invoke(main, ["export", factory, "-o", path, "--dynamic", "batch"])
    assert done.exit_code == 0, done.output
    assert "outputs: " in done.output
    assert "9 exact, 1 renamed, 1 lost" in done.output
    done = CliRunner().invoke(main, ["verify-export", path, "--model", factory, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["weights"]["fates"]["conv.weight"] == "exact"
    folded = str(tmp_path / "folded.onnx")
    assert CliRunner().invoke(main, ["export", factory, "-o", folded, "--optimize", "--json"]).exit_code == 0
    done = CliRunner().invoke(main, ["verify-export", folded, "--model", factory])
    assert done.exit_code == 1, "a weight with other bytes under its name is a finding"
    assert "changed: conv.weight" in done.output
    done = CliRunner().invoke(main, ["export", "nothing", "-o", path])
    assert done.exit_code == 2


def test_all_that_an_exporter_said_is_there_for_who_asks(tmp_path: Path) -> None:
    arguments = ["export", f"{__name__}:Branching", "-o", str(tmp_path / "m.pt2"), "--no-verify"]
    brief, full = (CliRunner().invoke(main, [*arguments, *more]).output for more in ([], ["--verbose"]))
    assert "Could not guard on data-dependent expression" in brief
    assert "Use torch.cond for the branch" in brief
    assert "For extended logs when we create symbols" not in brief
    assert "For extended logs when we create symbols" in full
