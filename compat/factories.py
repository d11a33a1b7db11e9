"""The user's own module, by the name of what makes it."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from compat.errors import Unreadable


def make_module(text: str) -> Any:
    """What a factory makes; importing and calling it runs the user's own code, and nothing of any checkpoint.

    Args:
        text: `package.module:factory`, a callable without arguments that returns a torch.nn.Module.

    Raises:
        Unreadable: there is no such factory, it raises, or it returns no module.
    """
    package, colon, name = text.partition(":")
    if not colon or not package or not name:
        raise Unreadable(f"{text!r} names no factory", expected="package.module:factory")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        factory: Any = importlib.import_module(package)
        for part in name.split("."):
            factory = getattr(factory, part)
        module = factory()
    except Exception as error:  # the user's own code may raise anything
        raise Unreadable(f"{text} gives no module: {type(error).__name__}: {error!s:.200}") from error
    if not hasattr(module, "state_dict") or not hasattr(module, "named_modules"):
        raise Unreadable(f"{text} gives a {type(module).__name__}", expected="a torch.nn.Module")
    return module


def example_of(module: Any, text: str) -> tuple[Any, ...]:
    """The example arguments that a module brings with it.

    Raises:
        Unreadable: it has no `example_inputs()`.
    """
    inputs = getattr(module, "example_inputs", None)
    if not callable(inputs):
        raise Unreadable(
            f"the module of {text} has no example_inputs()",
            expected="a method that gives a tuple of positional arguments, with a batch of two or more",
        )
    return tuple(inputs())
