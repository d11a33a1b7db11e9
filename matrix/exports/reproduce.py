"""A failing export as a script that needs torch and the target alone: the module, its values, its calls."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

import torch

from matrix.cells import Cell
from matrix.exports.worker import CALLS
from matrix.modules import LAYERS, build_module, in_precision, sized_inputs
from matrix.modulespec import LayerSpec, ModuleSpec

_TEMPLATE: Final = '''"""{title}

Expected: {expected}
Seen: {seen}
"""

from __future__ import annotations

import io

import torch
from torch.nn import functional

torch.backends.mha.set_fastpath_enabled(False)


{classes}
def tensor(dtype, shape, values):
    return torch.tensor(values, dtype=dtype).reshape(shape)


def fresh():
    module = {module}
    values = {{
{values}
    }}
    with torch.no_grad():
        for name, held in [*module.named_parameters(), *module.named_buffers()]:
            held.data = held.data.to(values[name].dtype)
            held.copy_(values[name])
    return module.eval()


calls = [
{calls}
]
args = calls[0]
file = io.BytesIO()


def export(module):
{export}


with torch.no_grad():
    run, eager = export(fresh()), fresh()
    for number, call in enumerate(calls):
        try:
            wanted = eager(*call)
        except Exception as error:
            wanted = f"refused: {{type(error).__name__}}"
        try:
            seen = run(*call)
        except Exception as error:
            seen = f"refused: {{type(error).__name__}}: {{str(error)[:200]}}"
        print("call", number, "of", [tuple(value.shape) for value in call])
        print("  eager:   ", wanted)
        print("  artefact:", seen)
'''

_SHAPES: Final = {
    "static": "None",
    "batch": 'tuple({0: torch.export.Dim("batch", min=1)} for _ in args)',
    "auto": "tuple(dict.fromkeys(range(value.ndim), torch.export.Dim.AUTO) for value in args)",
}
_SESSION: Final = """import onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
names = [entry.name for entry in session.get_inputs()]
return lambda *call: session.run(None, {names[i]: call[int(names[i][6:])].numpy() for i in range(len(names))})"""
_INPUTS: Final = 'names = [f"input_{number}" for number in range(len(args))]'
_JIT: Final = "torch.jit.save(made, file)\nfile.seek(0)\nreturn torch.jit.load(file)"
_PROGRAM: Final = "program = torch.export.export(module, args, dynamic_shapes=SHAPES, strict=STRICT)"

# Target → the body of a function that exports a module and returns what runs it.
_EXPORTS: Final[Mapping[str, str]] = {
    "torchscript-trace": f"made = torch.jit.trace(module, args, strict=False, check_trace=False)\n{_JIT}",
    "torchscript-script": f"made = torch.jit.script(module)\n{_JIT}",
    "torchscript-frozen": f"made = torch.jit.freeze(torch.jit.script(module))\n{_JIT}",
    "torch-export": f"{_PROGRAM}\ntorch.export.save(program, file)\nfile.seek(0)\n"
    "return torch.export.load(file).module()",
    "onnx": f"{_INPUTS}\nnamed = {{'input_names': names, 'optimize': OPTIMIZE, 'opset_version': OPSET}}\n"
    f'torch.onnx.export(module, args, "model.onnx", dynamo=True, dynamic_shapes=SHAPES, **named)\n{_SESSION}',
    "onnx-torchscript": f"{_INPUTS}\naxes = {{name: {{0: 'batch'}} for name in names}} if SIZES == 'batch' else {{}}\n"
    "named = {'input_names': names, 'dynamic_axes': axes, 'opset_version': OPSET, 'do_constant_folding': False}\n"
    f'torch.onnx.export(module, args, "model.onnx", dynamo=False, **named)\n{_SESSION}',
    "openvino": f'import openvino\n{_PROGRAM}\nhints = {{"INFERENCE_PRECISION_HINT": "f32"}}\n'
    'compiled = openvino.Core().compile_model(openvino.convert_model(program), "CPU", hints)\n'
    "return lambda *call: list(compiled([value.numpy() for value in call]).values())",
    "aot-inductor": f'{_PROGRAM}\ntorch._inductor.aoti_compile_and_package(program, package_path="model.pt2")\n'
    'return torch._inductor.aoti_load_package("model.pt2")',
}
_OTHER: Final = 'import compat\nreturn compat.export(module, args, "model", target=TARGET, overwrite=True).run'


def script(spec: ModuleSpec, cell: Cell, options: Mapping[str, Any], *, expected: str, seen: str) -> str:
    """The text of a Python script that exports a module as a cell does, and runs it.

    Args:
        spec: the module.
        cell: what was done with it.
        options: what the exporter was asked besides.
        expected: what should have happened, for the docstring.
        seen: what did.
    """
    precision = cell["precision"]
    module = in_precision(build_module(spec), precision)
    named = [*module.named_parameters(), *module.named_buffers()]
    kinds = {layer.kind for layer in spec.layer.walk()} & set(LAYERS)
    calls = [sized_inputs(spec, batch=batch, number=number) for number, (_, batch) in enumerate(CALLS)]
    inputs = [[t.to(getattr(torch, precision)) if t.is_floating_point() else t for t in call] for call in calls]
    inputs[1] = [-tensor if tensor.is_floating_point() else tensor for tensor in inputs[0]]
    inputs.append([torch.cat((inputs[0][0], inputs[0][0][..., :1]), dim=-1), *inputs[0][1:]])
    return _TEMPLATE.format(
        title=cell.id,
        expected=_prose(expected),
        seen=_prose(seen),
        classes="".join(f"{inspect.getsource(LAYERS[kind])}\n\n" for kind in sorted(kinds)),
        module=_made(spec.layer),
        values="\n".join(f"        {name!r}: {_tensor(tensor)}," for name, tensor in named),
        calls="\n".join(f"    ({', '.join(map(_tensor, call))},)," for call in inputs),
        export="\n".join(f"    {line}" for line in _export(cell, options).splitlines()),
    )


def _export(cell: Cell, options: Mapping[str, Any]) -> str:
    default = 20 if cell["target"] == "onnx" else 17
    text = _EXPORTS.get(cell["target"], _OTHER)
    for word, value in (
        ("SHAPES", _SHAPES[cell["sizes"]]),
        ("SIZES", repr(cell["sizes"])),
        ("STRICT", repr(options.get("strict", False))),
        ("OPTIMIZE", repr(options.get("optimize", False))),
        ("OPSET", repr(options.get("opset", default))),
        ("TARGET", repr(cell["target"])),
    ):
        text = text.replace(word, value)
    return text


def _made(layer: LayerSpec) -> str:
    """The expression that makes a layer."""
    name = layer.kind if layer.kind in LAYERS else f"torch.nn.{layer.kind}"
    children = [f"{key}={_made(child)}" if layer.kind == "Named" else _made(child) for key, child in layer.children]
    return f"{name}({', '.join([*children, *(f'{key}={value!r}' for key, value in layer.options)])})"


def _tensor(tensor: torch.Tensor) -> str:
    plain = tensor.detach().resolve_conj().resolve_neg()
    return f"tensor({tensor.dtype}, {list(tensor.shape)}, {plain.reshape(-1).tolist()})"


def _prose(text: str) -> str:
    """Text that cannot end the docstring it stands in."""
    return text.replace("\\", "/").replace('"""', "'''")
