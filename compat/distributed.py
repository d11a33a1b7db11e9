"""What several processes of one job do together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from compat.errors import Unreadable


def first_on_each_machine(work: Callable[[], None], what: str) -> None:
    """Let one process per machine do some work while the others wait; if one fails, all raise.

    Without a job of torch.distributed, the work is simply done.

    Raises:
        CompatError: the work failed here, or in the process that did it.
    """
    dist = _job()
    if dist is None:
        work()
        return
    import torch

    error: BaseException | None = None
    if int(os.environ.get("LOCAL_RANK", dist.get_rank())) == 0:
        try:
            work()
        except BaseException as raised:  # noqa: BLE001 - raised again below, when the others know
            error = raised
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    failed = torch.tensor([int(error is not None)], device=device)
    try:
        # Everyone takes part, so that no one waits for a process that gave up.
        dist.all_reduce(failed)
    except RuntimeError as broken:
        raise Unreadable("the process that was to fetch it is gone", source=what) from (error or broken)
    if error is not None:
        raise error
    if failed.item():
        raise Unreadable(
            "could not be fetched by the process that was to do it", source=what, hint="Its own error says why."
        )


def _job() -> Any:
    """torch.distributed, when this process is part of a running job."""
    torch = sys.modules.get("torch")
    dist = getattr(torch, "distributed", None)
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def is_first() -> bool:
    """Whether this process is the one of its job that speaks to the user."""
    dist = _job()
    return dist is None or bool(dist.get_rank() == 0)
