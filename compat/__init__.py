"""Read, write, convert and compare PyTorch checkpoints of every format, executing nothing.

Importing this package imports neither torch nor numpy; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compat.auditing import audit as audit
    from compat.checkpoint import Checkpoint as Checkpoint
    from compat.checkpoint import Opaque as Opaque
    from compat.checkpoint import StorageRecord as StorageRecord
    from compat.checkpoint import TensorRecord as TensorRecord
    from compat.converting import Conversion as Conversion
    from compat.converting import convert as convert
    from compat.diffing import Difference as Difference
    from compat.diffing import diff as diff
    from compat.errors import CompatError as CompatError
    from compat.errors import Corrupt as Corrupt
    from compat.errors import KeyCollision as KeyCollision
    from compat.errors import Mismatch as Mismatch
    from compat.errors import MissingClass as MissingClass
    from compat.errors import MissingDependency as MissingDependency
    from compat.errors import TargetExists as TargetExists
    from compat.errors import UnknownFormat as UnknownFormat
    from compat.errors import Unreadable as Unreadable
    from compat.errors import UnsafeGlobals as UnsafeGlobals
    from compat.errors import Unsupported as Unsupported
    from compat.exporting import Exported as Exported
    from compat.exporting import export as export
    from compat.exporting import load_exported as load_exported
    from compat.keys import add_prefix as add_prefix
    from compat.keys import strip_prefix as strip_prefix
    from compat.loading import load as load
    from compat.loading import open_checkpoint
    from compat.loadreport import LoadReport as LoadReport
    from compat.loadreport import StateMismatch as StateMismatch
    from compat.matching import Correspondence as Correspondence
    from compat.matching import correspond as correspond
    from compat.modules import load_into as load_into
    from compat.openmmlab import load_checkpoint as load_checkpoint
    from compat.recovery import Recovered as Recovered
    from compat.recovery import recover as recover
    from compat.remote import download as download
    from compat.saving import save as save
    from compat.scanning import Finding as Finding
    from compat.scanning import Findings as Findings
    from compat.scanning import scan as scan
    from compat.schemes import register_scheme as register_scheme
    from compat.states import load_state_dict as load_state_dict
    from compat.training import Resumed as Resumed
    from compat.training import load_training as load_training
    from compat.training import save_training as save_training
    from compat.training import snapshot as snapshot
    from compat.verifying import verify_export as verify_export

    open = open_checkpoint  # noqa: A001 - the verb users know

__version__ = "0.1.0"

# Public name → where it is defined, and its name there.
_PUBLIC = {
    "load_checkpoint": ("compat.openmmlab", "load_checkpoint"),
    "LoadReport": ("compat.loadreport", "LoadReport"),
    "StateMismatch": ("compat.loadreport", "StateMismatch"),
    "load_into": ("compat.modules", "load_into"),
    "audit": ("compat.auditing", "audit"),
    "verify_export": ("compat.verifying", "verify_export"),
    "Exported": ("compat.exporting", "Exported"),
    "load_exported": ("compat.exporting", "load_exported"),
    "export": ("compat.exporting", "export"),
    "download": ("compat.remote", "download"),
    "register_scheme": ("compat.schemes", "register_scheme"),
    "Resumed": ("compat.training", "Resumed"),
    "snapshot": ("compat.training", "snapshot"),
    "save_training": ("compat.training", "save_training"),
    "load_training": ("compat.training", "load_training"),
    "Checkpoint": ("compat.checkpoint", "Checkpoint"),
    "CompatError": ("compat.errors", "CompatError"),
    "Conversion": ("compat.converting", "Conversion"),
    "Diagnosis": ("compat.doctoring", "Diagnosis"),
    "Correspondence": ("compat.matching", "Correspondence"),
    "Corrupt": ("compat.errors", "Corrupt"),
    "Finding": ("compat.scanning", "Finding"),
    "Findings": ("compat.scanning", "Findings"),
    "Difference": ("compat.diffing", "Difference"),
    "KeyCollision": ("compat.errors", "KeyCollision"),
    "Mismatch": ("compat.errors", "Mismatch"),
    "MissingClass": ("compat.errors", "MissingClass"),
    "MissingDependency": ("compat.errors", "MissingDependency"),
    "Opaque": ("compat.checkpoint", "Opaque"),
    "StorageRecord": ("compat.checkpoint", "StorageRecord"),
    "TargetExists": ("compat.errors", "TargetExists"),
    "TensorRecord": ("compat.checkpoint", "TensorRecord"),
    "UnknownFormat": ("compat.errors", "UnknownFormat"),
    "Unreadable": ("compat.errors", "Unreadable"),
    "UnsafeGlobals": ("compat.errors", "UnsafeGlobals"),
    "Unsupported": ("compat.errors", "Unsupported"),
    "add_prefix": ("compat.keys", "add_prefix"),
    "convert": ("compat.converting", "convert"),
    "correspond": ("compat.matching", "correspond"),
    "diff": ("compat.diffing", "diff"),
    "doctor": ("compat.doctoring", "doctor"),
    "load": ("compat.loading", "load"),
    "load_state_dict": ("compat.states", "load_state_dict"),
    "open": ("compat.loading", "open_checkpoint"),
    "Recovered": ("compat.recovery", "Recovered"),
    "recover": ("compat.recovery", "recover"),
    "save": ("compat.saving", "save"),
    "scan": ("compat.scanning", "scan"),
    "strip_prefix": ("compat.keys", "strip_prefix"),
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605 - the table above is the list


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'compat' has no attribute {name!r}") from None
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
