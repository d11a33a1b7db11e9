"""`load_checkpoint` as mmcv and mmengine have it, on every format and executing nothing.

Source of its behaviour: mmengine's `mmengine/runner/checkpoint.py` (`load_checkpoint`, `load_state_dict`), and the
table of shapes of mmcv 0.2, which later releases gave up for torch's own message.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from compat.distributed import is_first
from compat.errors import Mismatch
from compat.loading import MapLocation, load
from compat.loadreport import LoadReport
from compat.modules import load_into

_REVISE_KEYS: Final = ((r"^module\.", ""),)


class RefusedState(Mismatch, RuntimeError):  # noqa: N818 - as in compat.errors
    """A state that does not fit, as the RuntimeError that callers of mmcv and mmengine expect."""


def load_checkpoint(
    model: Any,
    filename: str,
    map_location: MapLocation = None,
    strict: bool = False,
    logger: Any = None,
    revise_keys: Sequence[tuple[str, str]] = _REVISE_KEYS,
) -> Any:
    """Load a checkpoint into a model, and report as mmcv does.

    Differs from it where it goes wrong: keys that would collide are refused instead of merged, a real child of the
    model that is called `module` is kept, and with `strict` nothing is changed before it is known to fit. Tensors of
    another shape are reported and left out, as in mmcv.

    Args:
        model: a module; wrapped ones are loaded too.
        filename: a path, a URL, or a name of a registered scheme such as `torchvision://resnet18`.
        map_location: as for `torch.load`.
        strict: raise when keys or shapes differ; otherwise what fits is loaded.
        logger: told of differences by `warning`; a name stands for the logger of that name, "silent" for none, and
            None prints them. Only the first process of a job speaks.
        revise_keys: (pattern, replacement) pairs of regular expressions for keys.

    Returns:
        The checkpoint as it is in the file, as mmengine returns it: callers take `["meta"]` and the like from it.

    Raises:
        RefusedState: `strict`, and the checkpoint does not fit; it is a Mismatch and a RuntimeError.
        KeyCollision: two keys would become one.
        CompatError: the file cannot be read; see `open`.
    """
    checkpoint = load(filename, map_location, on_unknown="keep")
    if not isinstance(checkpoint, dict):
        raise RefusedState(
            f"No state_dict found in checkpoint file {filename}: it holds {type(checkpoint).__name__}",
            expected="a dict of tensors by name",
        )
    key = "state_dict" if "state_dict" in checkpoint else None
    # The usual rule takes `module.` also from a model that has a child of that name; load_into looks at the model.
    rules = () if tuple(map(tuple, revise_keys)) == _REVISE_KEYS else revise_keys
    try:
        report = load_into(model, checkpoint, strict=strict, key=key, rename=rules, skip_mismatched=not strict)
    except Mismatch as error:
        raise RefusedState(error.seen, source=filename, expected=error.expected, hint=error.hint) from error
    if is_first() and not report.complete:
        _tell(report, logger)
    return checkpoint


def _tell(report: LoadReport, logger: Any) -> None:
    lines = [*report.differences(), *report.remarks()]
    text = "The model and loaded state dict do not match exactly\n\n" + "\n".join(lines) + "\n"
    if logger is None:
        print(text)  # noqa: T201 - as mmcv does without a logger
    elif logger != "silent":
        (logging.getLogger(logger) if isinstance(logger, str) else logger).warning(text)
