"""torch as a peer: writes what a spec describes, and describes what it reads."""

import inspect
import platform
import sys
from collections import OrderedDict
from typing import Any, Dict, List

from matrix import peer
from matrix.corpus.writer.archives import constants, members
from matrix.corpus.writer.plain import plain
from matrix.corpus.writer.release import torch
from matrix.corpus.writer.saving import load_zoo, save
from matrix.serving.protocol import VERSION, Handlers, Json


def handlers() -> Handlers:
    """Return the requests that this implementation answers."""
    return {"hello": hello, "write": write, "read": read, "forward": forward, "export": export}


def hello(_: Json) -> Json:
    """Say who answers, and what it can."""
    return {
        "protocol": VERSION,
        "spec": peer.VERSION,
        "implementation": "torch",
        "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
        "features": _features(),
        "dtypes": peer.available_dtypes(),
        "writes": ["torch-legacy", "torch-zip"],
        "reads": ["torch-legacy", "torch-zip", "torchscript", *(["torch-export"] if _exports() else [])],
        "exports": ["onnx", "torchscript", *(["torch-export"] if _exports() else [])],
    }


def _exports() -> bool:
    try:
        from torch import export
    except ImportError:
        return False
    return hasattr(export, "load")


def _features() -> List[str]:
    """Return which options of loading there are, as far as their presence can be seen."""
    source = inspect.getsource(torch.serialization)
    loaded = [name for name in ("mmap", "weights_only") if name + ":" in inspect.getsource(torch.load)]
    named = ["add_safe_globals", "safe_globals", "skip_data", "get_unsafe_globals_in_checkpoint"]
    found = loaded + [name for name in named if "def " + name in source or "class " + name in source]
    default = inspect.signature(torch.load).parameters.get("weights_only")
    # Releases that take it give False, or None where True is meant.
    return found + (["weights_only_default"] if default is not None and default.default is None else [])


def write(request: Json) -> Json:
    """Build what a spec describes and write it to a path, in a container, with a pickle protocol."""
    state = peer.build(request["spec"])
    options: Dict[str, Any] = {"pickle_protocol": request["protocol"]} if "protocol" in request else {}
    save(state, request["path"], request["format"], **options)
    return {}


def read(request: Json) -> Json:
    """Read a file, and describe what it holds as `holds` says: a whole tree, a module's state, a script."""
    return {"spec": peer.describe(plain(_read(request)))}


def _read(request: Json) -> Any:
    holds = request.get("holds", "tree")
    if holds in ("script", "constants"):
        return _script(request["path"], holds)
    if holds == "export":
        from torch import export

        program = export.load(request["path"])
        held = getattr(program, "constants", None)
        held = getattr(program, "tensor_constants", {}) if held is None else held
        return {"state_dict": OrderedDict(program.state_dict), "constants": dict(held)}
    state = _load(request)
    if holds == "module":
        state = state if request.get("key") is None else state[request["key"]]
        return state.state_dict()
    return state


def _load(request: Json) -> Any:
    options = {name: request[name] for name in ("weights_only", "mmap", "map_location") if name in request}
    if request.get("zoo"):
        _zoo()
    return torch.load(request["path"], **options)


def _zoo() -> Any:
    """Return the module of the golden files' classes, which is loaded once, as classes are known by identity."""
    if "zoo" not in sys.modules:
        zoo = load_zoo()
        zoo.Tagged = type("Tagged", (torch.Tensor,), {"__module__": "zoo"})
    return sys.modules["zoo"]


def _script(path: str, holds: str) -> Any:
    module = torch.jit.load(path)
    if holds == "constants":
        return {"constants": constants(module)}
    given = _zoo().ATTRIBUTES
    attributes = {name: getattr(module, name) for name in given if hasattr(module, name)}
    return {"state_dict": members(module), "attributes": attributes}


def forward(request: Json) -> Json:
    """Read a module, run it on inputs, and describe its outputs as a list."""
    with torch.no_grad():
        outputs = _module(request)(*peer.build(request["inputs"]))
    listed = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    return {"spec": peer.describe(listed)}


def _module(request: Json) -> Any:
    """Return the module in a file, ready to be run."""
    holds = request.get("holds", "module")
    if holds == "export":
        from torch import export as exporting

        return exporting.load(request["path"]).module()
    module = torch.jit.load(request["path"]) if holds == "script" else _load(request)
    module = module if request.get("key") is None else module[request["key"]]
    module.eval()
    return module


def export(request: Json) -> Json:
    """Read a module and export it, traced by inputs, to a path: as `onnx`, `torch-export` or `torchscript`."""
    module, inputs = _module(request), tuple(peer.build(request["inputs"]))
    target = request["target"]
    if target == "torchscript":
        torch.jit.trace(module, inputs).save(request["to"])
    elif target == "torch-export":
        from torch import export as exporting

        exporting.save(exporting.export(module, inputs), request["to"])
    elif target == "onnx":
        torch.onnx.export(module, inputs, request["to"])
    else:
        raise ValueError("no target " + repr(target))
    return {}
