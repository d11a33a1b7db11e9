"""Where a loaded storage goes: torch's rules for `map_location`, on every format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compat.errors import Unsupported


def restorer(torch: Any, map_location: Any) -> Callable[[Any, str], Any]:
    """What moves a storage to where it belongs: torch's own rules for `map_location`, on every format.

    Source of the rules: `torch/serialization.py`, `_get_restore_location`.
    """
    if map_location is None:
        return lambda storage, tag: _place(torch, storage, tag, hint=True)
    if isinstance(map_location, dict):
        table = {str(key): str(value) for key, value in map_location.items()}
        return lambda storage, tag: _place(torch, storage, table.get(tag, tag), hint=True)
    if isinstance(map_location, (str, torch.device)):
        return lambda storage, _tag: _place(torch, storage, str(map_location))
    if callable(map_location):

        def call(storage: Any, tag: str) -> Any:
            placed = map_location(storage, tag)
            return _place(torch, storage, tag, hint=True) if placed is None else placed

        return call
    raise TypeError(
        f"map_location is {type(map_location).__name__}; expected None, a device, its name, a dict or a function"
    )


def _place(torch: Any, storage: Any, device: str, *, hint: bool = False) -> Any:
    """Move a storage to a device by name.

    Raises:
        Unsupported: there is no such device here.
    """
    if device == "cpu":
        return storage
    if device == "meta":
        return torch.UntypedStorage(storage.nbytes(), device="meta")
    try:
        return torch.serialization.default_restore_location(storage, device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:160]
        raise Unsupported(
            f"a tensor belongs on the device {device!r}, which is not to be had here ({reason})",
            feature="device",
            hint='Pass map_location="cpu" to load it into main memory.' if hint else None,
        ) from error
