"""What all export targets share of torch: finding it, tracing quietly, and the shapes that may change."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from compat.errors import Unsupported

_MIN_BATCH = 2


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
