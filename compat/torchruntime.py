"""What all export targets share of torch: finding it, tracing quietly, and the shapes that may change."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Final

from compat.errors import Unsupported

_MIN_BATCH: Final = 2
# How much of an exporter's text is told, and how many words a line needs to be a reason.
_REASON: Final = 240
_SENTENCE: Final = 3
_SUMMARY: Final = "## Exception summary"
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_CLASSES: Final = re.compile(r"<class '(?:\w+\.)*(\w+)'>")
_NO_REASON: Final = ("File ", "Traceback", "^", "#")


def missing(*packages: str) -> str | None:
    """The first of some packages that is not installed, in words; None where all are."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed: python -m pip install {package}"
    return None


@contextlib.contextmanager
def quiet(torch: Any) -> Iterator[None]:
    """Without gradients, without the fast path of attention (exporters cannot follow it), without warnings.

    What exporters warn of is about their own future, not about the model.
    """
    mha = getattr(torch.backends, "mha", None)
    was = mha.get_fastpath_enabled() if mha is not None else None
    try:
        if mha is not None:
            mha.set_fastpath_enabled(False)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if mha is not None:
            mha.set_fastpath_enabled(was)


def reason_of(text: str) -> str:
    """The first sentence that says something, of what an exporter printed."""
    # torch.onnx prints advice and a report first, and then what happened.
    text = _CLASSES.sub(r"\1", _COLOURS.sub("", text).rpartition(_SUMMARY)[2])
    lines = [line.strip() for line in text.splitlines()]
    telling = [line for line in lines if len(line.split()) >= _SENTENCE and not line.startswith(_NO_REASON)]
    return (telling or [line for line in lines if line] or ["no reason was given"])[0][:_REASON]


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Tell a failure to save what was exported from a failure to export.

    Raises:
        Unsupported: saving failed.
    """
    try:
        yield
    except Exception as error:
        raise Unsupported(
            f"what was exported cannot be saved: {type(error).__name__}: {reason_of(str(error))}",
            feature="save",
            hint="torch writes fewer dtypes and structures than it exports; the module's own state_dict can be saved.",
        ) from error


def copied(torch: Any, module: Any) -> Any:
    """A deep copy of a module, also where hooks left tensors with a history on it, which torch refuses to copy.

    `torch.nn.utils.weight_norm` computes its weight when it is applied, with gradients.
    """
    known: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                known[id(value)] = value.detach().clone()
    return copy.deepcopy(module, known)


def leaves(torch: Any, values: Any) -> list[Any]:
    """The tensors in nested arguments or outputs, in torch's own order."""
    found, _ = torch.utils._pytree.tree_flatten(values)  # noqa: SLF001 - torch has no public flattening before 2.6
    return [leaf for leaf in found if isinstance(leaf, torch.Tensor)]


def check_batch(torch: Any, args: Sequence[Any]) -> None:
    """Refuse examples by which exporters cannot tell a batch from a constant.

    Raises:
        Unsupported: an example has a batch of one: exporters take 1 for a constant, some of them silently.
    """
    sizes = {int(leaf.shape[0]) for leaf in leaves(torch, tuple(args)) if leaf.ndim}
    if any(size < _MIN_BATCH for size in sizes):
        raise Unsupported(
            f"the example has a batch of {min(sizes)}",
            feature="dynamic",
            expected="two or more: exporters take a size of 1 for a constant",
            hint="Give an example with a larger batch, or export without dynamic=….",
        )


def dynamic_shapes(torch: Any, args: tuple[Any, ...], dynamic: Any) -> Any:
    """What torch calls `dynamic_shapes`, for what was asked.

    Raises:
        Unsupported: the example's batch is one.
    """
    if dynamic is None or isinstance(dynamic, (dict, tuple)):
        return dynamic
    check_batch(torch, args)
    size = torch.export.Dim.AUTO if dynamic == "auto" else torch.export.Dim("batch", min=1)

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.ndim:
            return None
        return dict.fromkeys(range(leaf.ndim), size) if dynamic == "auto" else {0: size}

    return torch.utils._pytree.tree_map(of, args)  # noqa: SLF001 - as above
