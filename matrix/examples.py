"""One example of a content: a spec, and for modules what is needed to run them."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from matrix.drawing import CONTENTS, MODULE_FAMILIES, SeededChoices, draw_module
from matrix.modules import build_module, example_inputs
from matrix.modules import forward as run_module
from matrix.paths import children
from matrix.spec import CheckpointSpec, DictNode, Node, OpaqueNode
from matrix.tensors import describe

MODULE_PREFIX = "module-"


class ExampleError(Exception):
    """A model factory or a checkpoint file that gives no example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What one round of a content tries.

    Attributes:
        content: the content's name; seed: what it was drawn with.
        spec: the state, as the truth it is judged by.
        fresh: makes another instance of the module, to load the state into; None for bare states.
        inputs: what the module is called with.
        forward: runs a module on these inputs and gives its outputs.
    """

    content: str
    seed: int
    spec: CheckpointSpec
    fresh: Callable[[], torch.nn.Module] | None = None
    inputs: tuple[torch.Tensor, ...] = ()
    forward: Callable[[torch.nn.Module], list[torch.Tensor]] | None = None

    def held(self) -> CheckpointSpec:
        """All tensors of the module, also those that are not in its state."""
        if self.fresh is None:
            return self.spec
        module = self.fresh()
        return describe([*module.parameters(), *module.buffers()])


# For checks that make their own files.
NOTHING = Example(content="", seed=0, spec=CheckpointSpec(storages=(), tree=DictNode(items=())))


def contents() -> tuple[str, ...]:
    """The names of everything that can be drawn."""
    return (*CONTENTS, *(MODULE_PREFIX + family for family in MODULE_FAMILIES))


def draw(content: str, seed: int) -> Example:
    """The example of a content that a seed stands for."""
    choices = SeededChoices(seed)
    if content not in CONTENTS:
        return module_example(draw_module(choices, content.removeprefix(MODULE_PREFIX)), content, seed)
    return Example(content=content, seed=seed, spec=CONTENTS[content].draw(choices).normalized())


def module_example(module_spec: Any, content: str, seed: int) -> Example:
    """An example of a drawn module."""
    inputs = example_inputs(module_spec)
    return Example(
        content=content,
        seed=seed,
        spec=describe(build_module(module_spec).state_dict()),
        fresh=lambda: build_module(module_spec),
        inputs=inputs,
        forward=lambda module: run_module(module, inputs),
    )


def from_factory(text: str, seed: int) -> Example:
    """An example of the user's own module.

    Args:
        text: `package.module:factory`, a callable without arguments that returns a module. Where the
            module has `example_inputs()`, it is also run.
        seed: what torch's generator is seeded with before the factory is called.

    Raises:
        ExampleError: there is no such factory, it raises, or it returns no module.
    """
    package, colon, name = text.partition(":")
    if not colon or not package or not name:
        raise ExampleError(f"--model is {text!r}; expected package.module:factory")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        factory = importlib.import_module(package)
        for part in name.split("."):
            factory = getattr(factory, part)
    except Exception as error:  # the user's module may raise anything
        raise ExampleError(f"{text} cannot be imported: {type(error).__name__}: {error}") from error

    def fresh() -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                made = factory()  # type: ignore[operator]  # checked by what it returns
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # the user's factory may raise anything, SystemExit too
                raise ExampleError(f"{text} raised {type(error).__name__}: {error}") from error
        if not isinstance(made, torch.nn.Module):
            raise ExampleError(f"{text} returned a {type(made).__name__}; expected a torch.nn.Module")
        return made

    module = fresh()
    spec = judgeable(describe(module.state_dict()), text)
    inputs = getattr(module, "example_inputs", None)
    example = tuple(inputs()) if callable(inputs) else ()
    return Example(
        content="model",
        seed=seed,
        spec=spec,
        fresh=fresh,
        inputs=example,
        forward=(lambda m: run_module(m, example)) if example else None,
    )


def from_file(path: Path) -> Example:
    """An example of a real checkpoint; torch or safetensors says what it holds, not compat.

    Raises:
        ExampleError: neither can read it.
    """
    if not path.is_file():
        raise ExampleError(f"{path} is a directory; expected a file" if path.is_dir() else f"{path} does not exist")
    try:
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"
        if is_safetensors:
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the independent reader says, there is no truth to judge by
        raise ExampleError(_why_not(path)) from error
    return Example(content="state", seed=0, spec=judgeable(describe(state).normalized(), str(path)))


def _why_not(path: Path) -> str:
    """What a file is that neither torch nor safetensors reads, in compat's words."""
    import compat

    try:
        with compat.open(path) as checkpoint:
            found = checkpoint.format
    except compat.CompatError as error:
        return str(error)
    return (
        f"{path} is {found}, and neither torch (weights_only=True) nor safetensors reads it, so there is nothing "
        "independent to judge by. `compat inspect` shows what it holds"
    )


def judgeable(spec: CheckpointSpec, source: str) -> CheckpointSpec:
    """A spec that can be built again and compared by its bytes.

    Raises:
        ExampleError: it holds something that a spec cannot say, or tensors without data.
    """
    if any(storage.device == "meta" for storage in spec.storages):
        raise ExampleError(f"{source} holds tensors on the meta device: there are no bytes to judge by")
    stack: list[tuple[str, Node]] = [("", spec.tree)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, OpaqueNode):
            shown = " ".join(node.name.split())
            raise ExampleError(f"{source} holds at {path or 'the top'} what the matrix cannot rebuild: {shown:.120}")
        stack.extend(children(path, node))
    return spec
