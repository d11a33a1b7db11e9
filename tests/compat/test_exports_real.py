"""A model of the world, silero-vad, as its makers publish it: ONNX, TorchScript and safetensors of one architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

import compat
from compat.cli import main

REAL = Path(__file__).parents[3] / "shared" / "real"
ONNX, SCRIPT, WEIGHTS = (
    REAL / name for name in ("silero_vad_16k_op15.onnx", "silero_vad.jit", "silero_vad_16k.safetensors")
)

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytestmark = pytest.mark.skipif(not ONNX.exists(), reason="the real model is not here")

# Name in the safetensors file → in the ONNX model.
NAMES = {
    "stft_conv.weight": "model.stft.forward_basis_buffer",
    **{
        f"conv{number + 1}.{part}": f"model.encoder.{number}.reparam_conv.{part}"
        for number in range(4)
        for part in ("weight", "bias")
    },
    **{f"lstm_cell.{part}": f"model.decoder.rnn.{part}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    **{f"final_conv.{part}": f"model.decoder.decoder.2.{part}" for part in ("weight", "bias")},
}


class Silero(torch.nn.Module):
    """The 16 kHz model, with the names of the safetensors file."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = torch.nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = torch.nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = torch.nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = torch.nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = torch.nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = torch.nn.LSTMCell(128, 128)
        self.final_conv = torch.nn.Conv1d(128, 1, 1)

    def forward(self, x: torch.Tensor, state: torch.Tensor, rate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        del rate
        spectrum = self.stft_conv(functional.pad(x.unsqueeze(1), (0, 64), mode="reflect"))
        hidden = torch.sqrt(spectrum[:, :129] ** 2 + spectrum[:, 129:] ** 2)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            hidden = functional.relu(conv(hidden))
        first, second = self.lstm_cell(hidden.squeeze(-1), (state[0], state[1]))
        heard = torch.sigmoid(self.final_conv(functional.relu(first).unsqueeze(-1))).mean(dim=2)
        return heard, torch.stack((first, second))

    def example_inputs(self) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        sound = torch.randn(2, 576, generator=generator) / 10
        return sound, torch.randn(2, 2, 128, generator=generator) / 10, torch.tensor(16000)


def with_weights_of_onnx() -> Silero:
    """The model, with the weights of the ONNX file."""
    state = compat.load_state_dict(ONNX, prefix=None)
    module = Silero()
    module.load_state_dict({key: state[name] for key, name in NAMES.items()})
    return module.eval()


def verify(*arguments: Any) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(main, ["verify-export", str(ONNX), "--model", *map(str, arguments), "--json"])
    return done.exit_code, json.loads(done.output)


def test_onnxruntime_runs_it_as_torch_does_with_its_weights() -> None:
    code, found = verify(f"{__name__}:with_weights_of_onnx")
    assert code == 0, found
    assert found["worst"] < 1e-5
    assert found["weights"]["renamed"] == NAMES
    assert set(found["weights"]["fates"].values()) == {"renamed"}


def test_the_safetensors_file_beside_it_holds_other_weights() -> None:
    """The three files are of one architecture; of the weights of one, the others have the STFT's basis alone."""
    code, found = verify(f"{__name__}:Silero", "--weights", WEIGHTS)
    assert code == 1
    assert [problem.split(":")[0] for problem in found["outputs"]] == ["output 0", "output 1"]
    assert found["weights"]["renamed"] == {"stft_conv.weight": NAMES["stft_conv.weight"]}
    assert list(found["weights"]["fates"].values()).count("lost") == len(NAMES) - 1


def test_the_script_holds_the_weights_of_the_onnx_model() -> None:
    found = compat.audit(compat.load_state_dict(ONNX, prefix=None), compat.load_state_dict(SCRIPT, prefix=None))
    assert found.renamed == {name: f"_{name}" for name in NAMES.values()}


def test_the_same_module_exported_by_us_computes_the_same(tmp_path: Path) -> None:
    module = with_weights_of_onnx()
    made = compat.export(module, module.example_inputs(), tmp_path / "silero.onnx", target="onnx")
    found = compat.verify_export(made, module, module.example_inputs())
    assert found.ok, found.outputs
    theirs = compat.load_exported(ONNX).run(*module.example_inputs())
    ours = made.run(*module.example_inputs())
    for seen, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-5)
