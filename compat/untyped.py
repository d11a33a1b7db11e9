"""Storages with and without a type, which torch hands out under other names before 2.0."""

from __future__ import annotations

from typing import Any


def untyped_storage(tensor: Any) -> Any:
    """The untyped storage of a tensor.

    Raises:
        AttributeError, NotImplementedError, RuntimeError, ValueError: it has none: it is sparse, nested, or not yet
            initialised.
    """
    if hasattr(tensor, "untyped_storage"):
        return tensor.untyped_storage()
    # Before torch 2.0 every storage has a type, and holds the one without.
    return tensor.storage()._storage  # noqa: SLF001 - it had no other door then


def typed_storage(torch: Any, storage: Any, dtype: Any) -> Any:
    """A typed view of an untyped storage, with the same bytes."""
    make = torch.storage.TypedStorage
    try:
        # Not a use that its deprecation is meant for.
        return make(wrap_storage=storage, dtype=dtype, _internal=True)
    except TypeError:
        return make(wrap_storage=storage, dtype=dtype)
