"""The export targets: one module each, and this table.

Adding a target is one module and one line of `_MODULES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Final

from compat.errors import Unsupported
from compat.exports._target import ExportOptions, RunOptions, Target, TargetCapabilities

# Name → module, in alphabetical order; modules are imported when their target is asked for.
_MODULES: Final = {
    "aot-inductor": "compat.exports.aot_inductor",
    "executorch": "compat.exports.executorch",
    "onnx": "compat.exports.onnx",
    "onnx-torchscript": "compat.exports.onnx_torchscript",
    "openvino": "compat.exports.openvino",
    "torch-export": "compat.exports.torch_export",
    "torchscript-frozen": "compat.exports.torchscript_frozen",
    "torchscript-script": "compat.exports.torchscript_script",
    "torchscript-trace": "compat.exports.torchscript_trace",
}
if list(_MODULES) != sorted(_MODULES):
    raise AssertionError("the table of export targets is not in alphabetical order")


def names() -> tuple[str, ...]:
    """The names of all targets, in alphabetical order."""
    return tuple(_MODULES)


def get(name: str) -> Target:
    """The target of that name.

    Raises:
        Unsupported: there is none.
    """
    module = _MODULES.get(name)
    if module is None:
        expected = f"one of {', '.join(_MODULES)}"
        raise Unsupported(f"there is no export target {name!r}", feature="target", expected=expected)
    found: Target = import_module(module).TARGET
    return found


def all_targets() -> Iterator[Target]:
    """Every target, in alphabetical order."""
    return (get(name) for name in _MODULES)


__all__ = ["ExportOptions", "RunOptions", "Target", "TargetCapabilities", "all_targets", "get", "names"]
