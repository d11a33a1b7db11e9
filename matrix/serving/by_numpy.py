"""numpy as a peer: safetensors by its own library for numpy, and archives of arrays by numpy itself, without torch."""

import importlib
import platform
from typing import Any

from matrix import peer
from matrix.serving.arrays import described
from matrix.serving.protocol import VERSION, Handlers, Json

numpy: Any = importlib.import_module("numpy")
safetensors: Any = importlib.import_module("safetensors.numpy")


def handlers() -> Handlers:
    """Return the requests that this implementation answers."""
    return {"hello": hello, "read": read}


def hello(_: Json) -> Json:
    """Say who answers, and what it can."""
    versions = {"numpy": numpy.__version__, "safetensors": importlib.import_module("safetensors").__version__}
    return {
        "protocol": VERSION,
        "spec": peer.VERSION,
        "implementation": "numpy",
        "versions": dict(versions, python=platform.python_version()),
        "features": [],
        "writes": [],
        "reads": ["npz", "safetensors"],
    }


def read(request: Json) -> Json:
    """Read a file and describe its arrays."""
    if request["format"] == "npz":
        with numpy.load(request["path"], allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    else:
        arrays = safetensors.load_file(request["path"])
    return {"spec": described(arrays, _shown)}


def _shown(value: Any) -> Any:
    if not isinstance(value, numpy.ndarray):
        return None
    if value.dtype.kind not in "biufc":
        raise TypeError(f"an array of {value.dtype} is none of numbers")
    return value.dtype.name, value.shape, value.astype(value.dtype.newbyteorder("<")).tobytes("C")
