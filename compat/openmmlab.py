"""`load_checkpoint` as mmcv and mmengine have it, on every format and executing nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from compat.distributed import is_first
from compat.errors import Mismatch
from compat.keys import rename
from compat.loading import MapLocation, load
from compat.modules import LoadReport, load_into

_REVISE_KEYS = ((r"^module\.", ""),)


def load_checkpoint(
    model: Any,
    filename: str,
    map_location: MapLocation = None,
    strict: bool = False,
    logger: Any = None,
    revise_keys: Sequence[tuple[str, str]] = _REVISE_KEYS,
) -> Any:
    """Load a checkpoint into a model, and report as mmcv does.

    Args:
        model: a module; of a wrapped one, `.module` is loaded.
        filename: a path, a URL, or a name of a registered scheme such as `torchvision://resnet18`.
        map_location: as for `torch.load`.
        strict: raise when keys or shapes differ; otherwise what fits is loaded.
        logger: told of differences by `warning`; None prints them. Only the first process of a job speaks.
        revise_keys: (pattern, replacement) pairs of regular expressions for keys; keys that would collide are refused.

    Returns:
        The checkpoint, as mmengine returns it, with its state_dict revised.

    Raises:
        Mismatch: `strict`, and the checkpoint does not fit; nothing was changed.
        KeyCollision: two keys would become one.
        CompatError: the file cannot be read; see `open`.
    """
    checkpoint = load(filename, map_location, on_unknown="keep")
    if not isinstance(checkpoint, dict):
        raise Mismatch(f"holds {type(checkpoint).__name__}", source=filename, expected="a dict of tensors by name")
    held = "state_dict" in checkpoint
    state = checkpoint["state_dict"] if held else checkpoint
    for pattern, replacement in revise_keys:
        state = rename(state, lambda key, p=pattern, r=replacement: re.sub(p, r, key))  # type: ignore[misc]  # bound now
    if held:
        checkpoint["state_dict"] = state
    report = load_into(model, state, strict=strict, skip_mismatched=not strict)
    if is_first() and not report.complete:
        _tell(report, logger)
    return checkpoint if held else state


def _tell(report: LoadReport, logger: Any) -> None:
    text = "The model and loaded state dict do not match exactly\n\n" + "\n".join(str(report).splitlines()[1:]) + "\n"
    if logger is None or isinstance(logger, str):
        print(text)  # noqa: T201 - as mmcv does without a logger
    else:
        logger.warning(text)
