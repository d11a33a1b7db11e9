"""The typed doors between specs and torch, over the one implementation in `peer`."""

from __future__ import annotations

from typing import Any

from matrix import peer
from matrix.spec import CheckpointSpec


def build(spec: CheckpointSpec) -> Any:
    """Return the torch state that a spec describes, in storages of its own."""
    storages = [{"data": storage.data, "device": storage.device} for storage in spec.storages]
    return peer.build({"version": peer.VERSION, "storages": storages, "tree": spec.tree.to_json()})


def describe(state: Any) -> CheckpointSpec:
    """Return the spec that describes a torch state, with a copy of its bytes."""
    return CheckpointSpec.from_json(peer.describe(state, raw=True))
