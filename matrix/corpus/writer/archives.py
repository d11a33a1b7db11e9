"""Golden files of torch's own archives beside torch.save: TorchScript, torch.export, ONNX, and options of the zip."""

import io
import os
from collections import OrderedDict
from typing import Any, Callable, Dict

from matrix.corpus.writer.release import torch


def add(folder: Any) -> None:
    """Write everything of this room."""
    add_scripts(folder)
    add_exports(folder)
    add_onnx(folder)
    add_zip_options(folder)


def members(module: Any) -> Any:
    """Return a module's parameters and buffers in the order of its state_dict, each as what it is."""
    parameters = {value.data_ptr() for value in module.parameters()}
    made: OrderedDict[str, Any] = OrderedDict()
    for name, value in module.state_dict(keep_vars=True).items():
        bare = value.detach()
        made[name] = torch.nn.Parameter(bare, value.requires_grad) if value.data_ptr() in parameters else bare
    return made


def constants(module: Any) -> Any:
    """Return the tensors that a frozen module's code refers to."""
    nodes = [node for node in module.graph.nodes() if node.kind() == "prim::Constant" and node.hasAttribute("value")]
    return [node.t("value") for node in nodes if node.kindOf("value") == "t"]


def add_scripts(folder: Any) -> None:
    """Write traced, compiled, frozen and mobile modules. Their truth is what this torch reads back."""
    zoo, example = folder.zoo, torch.ones(1, 2, 2, 2)
    makers: Dict[str, Callable[[], Any]] = OrderedDict()
    makers["traced"] = lambda: torch.jit.trace(zoo.fill(zoo.Small()).eval(), example)
    makers["script-class"] = zoo.script_class()
    makers["scripted"] = lambda: torch.jit.script(zoo.fill(zoo.Small()))
    makers["frozen"] = lambda: torch.jit.freeze(torch.jit.script(zoo.fill(zoo.Small()).eval()))
    makers["traced-net"] = lambda: torch.jit.trace(zoo.fill(zoo.Net()).eval(), example)
    for name, make in makers.items():
        file = name + ".torchscript.pt"
        holds = "constants" if name == "frozen" else "script"
        try:
            module = make()
        except Exception as error:  # whatever a release raises where it cannot
            folder.refuse(file, error)
            continue
        folder.add(file, name, holds, lambda path: _write_script(folder, name, module, path))
        if name == "script-class" and file in folder.files:
            folder.add("script-extra.torchscript.pt", name, holds, lambda path: _write_extra(module, path))
        if name == "scripted" and file in folder.files:
            lite = "scripted-lite.torchscript.ptl"
            folder.add(lite, name, holds, lambda path: _write_lite(module, path))


def _write_script(folder: Any, name: str, module: Any, path: str) -> str:
    module.save(path)
    back = torch.jit.load(path)
    given = folder.zoo.ATTRIBUTES if name == "script-class" and hasattr(torch.jit, "Attribute") else {}
    scripted = {"state_dict": members(back), "attributes": dict(given)}
    folder.spec(name, constants(back) if name == "frozen" else scripted)
    if set(back.state_dict()) != set(module.state_dict()):
        raise ValueError("this torch reads other names than it wrote")
    return "torchscript"


def _write_lite(module: Any, path: str) -> str:
    module._save_for_lite_interpreter(path)
    return "torchscript"


def _write_extra(module: Any, path: str) -> str:
    extra = {"note.txt": "a file of the user"}
    try:
        module.save(path, _extra_files=extra)
    except TypeError:  # a map of torch's own, once
        files = torch._C.ExtraFilesMap()
        files["note.txt"] = extra["note.txt"]
        module.save(path, _extra_files=files)
    return "torchscript"


def add_exports(folder: Any) -> None:
    """Write exported programs."""
    zoo = folder.zoo
    cases = OrderedDict([("export-weights", (zoo.Weights, torch.ones(2, 3)))])
    cases["export-small"] = (lambda: zoo.fill(zoo.Small()).eval(), torch.ones(1, 2, 2, 2))
    for name, (make, example) in cases.items():
        file = name + ".pt2"
        try:
            program = torch.export.export(make(), (example,))
            held = getattr(program, "constants", None)
            held = getattr(program, "tensor_constants", {}) if held is None else held
            folder.spec(name, {"state_dict": OrderedDict(program.state_dict), "constants": dict(held)})
        except Exception as error:  # whatever a release raises where it cannot
            folder.refuse(file, error)
            continue
        folder.add(file, name, "export", lambda path: _write_program(program, path))


def _write_program(program: Any, path: str) -> str:
    torch.export.save(program, path)
    return "torch-export"


def add_onnx(folder: Any) -> None:
    """Write a model for other runtimes, where torch alone can."""
    model = folder.zoo.fill(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))).eval()
    folder.spec("onnx", [value.detach() for value in model.state_dict().values()])

    def write(path: str) -> str:
        example = torch.ones(1, 3)
        try:
            torch.onnx.export(model, (example,), path, dynamo=False)
        except TypeError:  # releases that have but one exporter
            torch.onnx.export(model, (example,), path)
        return "onnx"

    def write_traced_anew(path: str) -> str:
        torch.onnx.export(model, (torch.ones(1, 3),), path, dynamo=True, external_data=False)
        return "onnx"

    folder.add("linear.onnx", "onnx", "initializers", write)
    folder.add("linear-dynamo.onnx", "onnx", "initializers", write_traced_anew)


def add_zip_options(folder: Any) -> None:
    """Write what options of torch.save change in the archive."""
    state = folder.zoo.fill(torch.nn.Linear(2, 2)).state_dict()
    folder.spec("linear", state)

    def unnamed(path: str) -> str:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with open(path, "wb") as file:
            file.write(buffer.getvalue())
        return "torch-zip" if buffer.getvalue()[:2] == b"PK" else "torch-legacy"

    folder.add("linear-unnamed.pt", "linear", "tree", unnamed)
    folder.add("linear odd name.pt", "linear", "tree", lambda path: _saved(state, path))
    folder.add("linear-no-byteorder.zip.pt", "linear", "tree", lambda path: _without_byteorder(state, path))
    folder.add("linear-no-sums.zip.pt", "linear", "tree", lambda path: _without_sums(state, path))
    folder.add("linear-aligned.zip.pt", "linear", "tree", lambda path: _aligned(state, path))
    hollow: Any = OrderedDict((name, torch.zeros_like(value)) for name, value in state.items())
    hollow._metadata = state._metadata
    folder.spec("hollow", hollow)
    folder.add("linear-skipped-data.zip.pt", "hollow", "tree", lambda path: _skipped(state, path))


def _saved(state: Any, path: str) -> str:
    torch.save(state, path)
    with open(path, "rb") as file:
        return "torch-zip" if file.read(2) == b"PK" else "torch-legacy"


def _without_byteorder(state: Any, path: str) -> str:
    torch.save(state, path, _disable_byteorder_record=True)
    return "torch-zip"


def _without_sums(state: Any, path: str) -> str:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(True)
    return "torch-zip"


def _aligned(state: Any, path: str) -> str:
    from torch.utils.serialization import config

    before = config.save.storage_alignment
    config.save.storage_alignment = 512
    try:
        torch.save(state, path)
    finally:
        config.save.storage_alignment = before
    return "torch-zip"


def _skipped(state: Any, path: str) -> str:
    with torch.serialization.skip_data():
        torch.save(state, path)
    if not os.path.getsize(path):
        raise ValueError("nothing was written")
    return "torch-zip"
