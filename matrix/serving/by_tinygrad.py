"""tinygrad as a peer: its own reader of torch files and of safetensors, which shares no code with torch."""

import importlib
import os
import platform
from typing import Any

from matrix import peer
from matrix.serving.arrays import described
from matrix.serving.protocol import VERSION, Handlers, Json

# Its device that needs no compiler.
os.environ.setdefault("PYTHON", "1")

tinygrad: Any = importlib.import_module("tinygrad")
state: Any = importlib.import_module("tinygrad.nn.state")

_NAMES = {
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "__bf16": "bfloat16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "signed char": "int8",
    "char": "int8",
    "unsigned long": "uint64",
    "unsigned int": "uint32",
    "unsigned short": "uint16",
    "unsigned char": "uint8",
    "bool": "bool",
}


def handlers() -> Handlers:
    """Return the requests that this implementation answers."""
    return {"hello": hello, "read": read}


def hello(_: Json) -> Json:
    """Say who answers, and what it can."""
    metadata: Any = importlib.import_module("importlib.metadata")
    return {
        "protocol": VERSION,
        "spec": peer.VERSION,
        "implementation": "tinygrad",
        "versions": {"tinygrad": metadata.version("tinygrad"), "python": platform.python_version()},
        "features": [],
        "writes": [],
        "reads": ["safetensors", "torch-legacy", "torch-zip"],
    }


def read(request: Json) -> Json:
    """Read a file and describe its tensors."""
    load = state.safe_load if request["format"] == "safetensors" else state.torch_load
    return {"spec": described(load(request["path"]), _shown)}


def _shown(value: Any) -> Any:
    if not isinstance(value, tinygrad.Tensor):
        return None
    name = value.dtype.name
    if name not in _NAMES:
        raise TypeError(f"a tensor of {name} has no name here")
    if 0 in value.shape:
        return _NAMES[name], value.shape, b""
    # The bytes as they lie: `data()` has no format for some types.
    realized = value.to("PYTHON").contiguous().realize().lazydata.base.realized
    return _NAMES[name], value.shape, bytes(realized.as_buffer())
