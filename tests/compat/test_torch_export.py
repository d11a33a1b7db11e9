"""`.pt2` files of this torch, and damaged ones; those of other releases are golden files."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import compat
from compat.errors import CompatError, Corrupt, Unsupported
from tests.compat.making import known_dtypes


class Weights(torch.nn.Module):
    """Every kind of weight that a program can hold."""

    def __init__(self) -> None:
        super().__init__()
        base = torch.arange(12.0).reshape(3, 4)
        self.weight = torch.nn.Parameter(base.clone())
        self.tied = self.weight
        self.turned = torch.nn.Parameter(base.clone().t())
        self.frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("part", base[1:3, 1:3])
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("scratch", torch.ones(3), persistent=False)
        for dtype in known_dtypes("float16", "bfloat16", "float8_e4m3fn", "complex64", "bool", "uint16"):
            self.register_buffer(f"of_{str(dtype)[6:]}", torch.tensor([1, 0]).to(dtype))
        self.constant = torch.tensor([0.25])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (
            x
            + self.weight.sum()
            + self.tied.sum()
            + self.turned.sum()
            + torch.as_tensor(self.scratch).sum()
            + self.constant
        )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    exporting = pytest.importorskip("torch.export")
    if not hasattr(exporting.ExportedProgram, "constants"):
        pytest.skip("this torch writes programs of another schema, which the corpus has")
    path = tmp_path_factory.mktemp("program") / "m.pt2"
    with warnings.catch_warnings():
        # It warns of a buffer that shows a part of its storage, and writes it right.
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Weights().eval(), (torch.ones(2),)), path)
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("weights_config.json") for name in archive.namelist()):
            pytest.skip("this torch writes programs of another schema, which the corpus has")
    return path


def raw(tensor: torch.Tensor) -> tuple[Any, ...]:
    plain = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return (tensor.dtype, tuple(tensor.shape), tensor.stride(), bytes(plain.numpy()))


def test_it_is_what_torch_loads(program: Path) -> None:
    expected = torch.export.load(program)
    loaded = compat.load(program)
    assert sorted(loaded["state_dict"]) == sorted(expected.state_dict)
    for name, tensor in expected.state_dict.items():
        assert raw(loaded["state_dict"][name]) == raw(tensor), name
        assert loaded["state_dict"][name].requires_grad == tensor.requires_grad
        assert isinstance(loaded["state_dict"][name], torch.nn.Parameter) == isinstance(tensor, torch.nn.Parameter)
    held = {name: tensor for name, tensor in expected.constants.items() if isinstance(tensor, torch.Tensor)}
    assert {name: raw(tensor) for name, tensor in loaded["constants"].items()} == {n: raw(t) for n, t in held.items()}
    weight, tied = loaded["state_dict"]["weight"], loaded["state_dict"]["tied"]
    assert weight.data_ptr() == tied.data_ptr()


def test_its_weights_load_into_a_module(program: Path) -> None:
    module = Weights()
    with torch.no_grad():
        module.weight.zero_()
    assert compat.load_into(module, program).key == "state_dict"
    assert raw(module.weight) == raw(Weights().weight)


def test_it_says_who_wrote_it(program: Path) -> None:
    with compat.open(program) as checkpoint:
        assert checkpoint.format == "torch-export"
        assert checkpoint.metadata["torch"] == torch.__version__
        assert checkpoint.metadata["schema"].startswith("8.")


def test_it_converts(program: Path, tmp_path: Path) -> None:
    compat.convert(program, tmp_path / "w.safetensors")
    assert not compat.diff(program, tmp_path / "w.safetensors")


def changed(program: Path, edit: Callable[[str, bytes], bytes | None]) -> bytes:
    """The same archive with some records changed or left out."""
    target = io.BytesIO()
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = edit(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target.getvalue()


def in_config(field: str, value: Any) -> Callable[[str, bytes], bytes]:
    def edit(name: str, content: bytes) -> bytes:
        if not name.endswith("weights_config.json"):
            return content
        config = json.loads(content)
        entry = config["config"]["weight"]
        (entry if field in entry else entry["tensor_meta"])[field] = value
        return json.dumps(config).encode()

    return edit


DAMAGES: list[tuple[Callable[[str, bytes], bytes | None], type[CompatError]]] = [
    (in_config("path_name", "weight_99"), Corrupt),
    (in_config("path_name", "../../secret"), Corrupt),
    (in_config("path_name", 3), Corrupt),
    (in_config("sizes", [{"as_int": 1 << 40}]), Corrupt),
    (in_config("sizes", [{"as_expr": "s0"}]), Corrupt),
    (in_config("strides", [{"as_int": 9}, {"as_int": 9}]), Corrupt),
    (in_config("storage_offset", {"as_int": 1000}), Corrupt),
    (in_config("storage_offset", -1), Corrupt),
    (in_config("dtype", 99), Unsupported),
    (in_config("layout", 1), Unsupported),
    (in_config("tensor_meta", None), Corrupt),
    (lambda name, content: b"{" if name.endswith(("model.json", "m.json")) else content, Corrupt),
    (lambda name, content: content[:-4] if name.endswith("weight_0") else content, Corrupt),
    (lambda name, content: None if name.endswith("weight_0") else content, Corrupt),
]


@pytest.mark.parametrize(("edit", "error"), DAMAGES, ids=map(str, range(len(DAMAGES))))
def test_a_damaged_program_is_refused(
    edit: Callable[[str, bytes], bytes | None], error: type[CompatError], program: Path
) -> None:
    with pytest.raises(error):
        compat.open(changed(program, edit))


def test_any_cut_is_refused(program: Path) -> None:
    content = program.read_bytes()
    for size in range(0, len(content), 97):
        with pytest.raises(CompatError):
            compat.open(content[:size])


def test_a_package_of_compiled_code_says_what_it_is(program: Path) -> None:
    def edit(name: str, content: bytes) -> bytes | None:
        if "/models/" in name:
            return None
        return content

    content = io.BytesIO(changed(program, edit))
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr("m/data/aotinductor/model/a.so", b"code")
    with compat.open(content.getvalue()) as checkpoint:
        assert "an AOTInductor package" in checkpoint.notes[0]
