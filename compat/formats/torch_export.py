"""`torch-export`: exported programs, `.pt2` files of `torch.export.save`, read only.

- read: `state_dict`, the parameters and persistent buffers under their names; `constants`, everything else that the
  program computes with: buffers that are not persistent, tensors that are neither. Files of every schema, torch 2.1
  to 2.15, with strides, offsets and shared storages.
- kept as inert objects: custom (script) objects among the constants.
- not read: the graph. Nothing of it is run, and nothing is unpickled by torch.
- said: the schema, which torch wrote it as far as the file tells (from 2.6 on), and what an AOTInductor package holds
  instead of weights.
- checked: JSON, sizes and bounds of all tensors, sums of the records that are read.

Source of the layout: `torch/_export/serde/serialize.py` and `torch/export/__init__.py` (2.1 to 2.6: a zip with
`serialized_*` records), `torch/export/pt2_archive/_package.py` (2.7 on: a torch archive with `models/`, `data/weights/`
and `data/constants/`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from compat.checkpoint import Checkpoint, Opaque, StorageRecord, TensorRecord
from compat.data import Data, read
from compat.errors import CompatError, Corrupt
from compat.exportschema import Signature, field_of, json_of, signature_of, tensor_of, written_by
from compat.formats._format import Capabilities, Format
from compat.sources import BytesSource, Source
from compat.torcharchive import archive_of, small_text
from compat.torchfile import checked
from compat.torchpickle import read_torch_file
from compat.zipdir import Archive

_PROGRAM: Final = "serialized_exported_program.json"
_FORMAT_RECORD: Final = "archive_format"
_MODELS: Final = "models/"
_WEIGHTS: Final = "data/weights/"
_CONSTANTS: Final = "data/constants/"
_INDUCTOR: Final = "data/aotinductor/"
_MAX_PICKLED: Final = 1 << 34


def _detect(source: Source) -> bool:
    archive = archive_of(source)
    return archive is not None and (_PROGRAM in archive.entries or _root_of(archive) is not None)


def _root_of(archive: Archive) -> str | None:
    """The folder of an archive that says it is a pt2 archive; None where none does."""
    for name in archive.entries:
        if name.rpartition("/")[2] == _FORMAT_RECORD and small_text(archive, name) == "pt2":
            return name[: -len(_FORMAT_RECORD)]
    return None


def _open(source: Source) -> Checkpoint:
    archive = Archive(source) if (known := archive_of(source)) is None else known
    try:
        parts = _Old(archive) if _PROGRAM in archive.entries else _New(archive, _root_of(archive) or "")
    except CompatError as error:
        error.source = error.source or source.name
        raise
    tree: dict[str, Any] = {"state_dict": parts.state_dict}
    if parts.constants:
        tree["constants"] = parts.constants
    return checked(
        Checkpoint(
            format=FORMAT.name,
            tree=tree,
            source=source.name,
            globals=parts.globals,
            metadata=parts.facts,
            notes=parts.notes,
            close=source.close,
        )
    )


class _Old:
    """A file of torch 2.1 to 2.6: JSON, and files of torch.save inside the archive."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.globals: list[str] = []
        self.notes: list[str] = []
        program = json_of(archive, _PROGRAM)
        signature = signature_of(program)
        self.facts = written_by(program)
        self.facts.setdefault("schema", small_text(archive, "version") or "unknown")
        held = self._part("serialized_state_dict")
        self.constants = self._part("serialized_constants")
        # Releases that had no place for constants kept them among the weights.
        apart = [name for name in held if signature.buffers.get(name) is False or name in signature.constants]
        self.constants |= {name: held.pop(name) for name in apart}
        self.state_dict = _parameters(held, signature)

    def _part(self, name: str) -> dict[str, Any]:
        """The dict in one of the records; `.json` in 2.1, whose content is a file of torch.save all the same."""
        for record in (f"{name}.pt", f"{name}.json"):
            if record in self.archive.entries:
                data = self.archive.data(record)
                if data.nbytes == 0:
                    return {}
                tree, named = read_torch_file(_source_of(self.archive, record, data))
                self.globals += named
                if not isinstance(tree, dict):
                    raise Corrupt(f"the record {record} holds {type(tree).__name__}", expected="a dict")
                return dict(tree)
        return {}


class _New:
    """A file of torch 2.7 and later: one record per storage, described by JSON."""

    def __init__(self, archive: Archive, root: str) -> None:
        self.archive = archive
        self.root = root
        self.globals: list[str] = []
        self.notes: list[str] = []
        self.state_dict: OrderedDict[str, Any] = OrderedDict()
        self.constants: dict[str, Any] = {}
        self.facts: dict[str, str] = {"archive": small_text(archive, f"{root}archive_version") or "unknown"}
        models = [n[len(root + _MODELS) : -5] for n in archive.entries if n.startswith(root + _MODELS)]
        several = len(models) > 1
        for model in models:
            program = json_of(archive, f"{root}{_MODELS}{model}.json")
            self.facts |= written_by(program)
            signature = signature_of(program)
            weights = self._payload(_WEIGHTS, model, "weights")
            constants = self._payload(_CONSTANTS, model, "constants")
            front = f"{model}." if several else ""
            self.state_dict |= {f"{front}{name}": value for name, value in _parameters(weights, signature).items()}
            self.constants |= {f"{front}{name}": value for name, value in constants.items()}
        self._note_inductor()

    def _note_inductor(self) -> None:
        held = [n for n in self.archive.entries if n.startswith(self.root + _INDUCTOR)]
        if held:
            kinds = sorted({name.rpartition(".")[2] for name in held if "." in name})
            self.notes.append(
                f"an AOTInductor package of {len(held):,} records ({', '.join(kinds)}): compiled code, in which "
                "weights may lie where no reader finds them"
            )

    def _payload(self, folder: str, model: str, what: str) -> dict[str, Any]:
        """The tensors that a config names, or those of the one file that 2.7 and 2.8 wrote instead."""
        place = self.root + folder
        whole = f"{place}{model}.pt"
        if whole in self.archive.entries:
            data = self.archive.data(whole)
            tree, named = read_torch_file(_source_of(self.archive, whole, data))
            self.globals += named
            if not isinstance(tree, dict):
                raise Corrupt(f"the record {whole} holds {type(tree).__name__}", expected="a dict")
            return dict(tree)
        record = f"{place}{model}_{what}_config.json"
        if record not in self.archive.entries:
            return {}
        config = field_of(json_of(self.archive, record), "config", dict, record)
        storages: dict[str, StorageRecord] = {}
        return {name: self._value(name, facts, place, storages) for name, facts in config.items()}

    def _value(self, name: str, facts: Any, place: str, storages: dict[str, StorageRecord]) -> Any:
        path = field_of(facts, "path_name", str, name)
        data = self.archive.data(f"{place}{path}")
        if facts.get("use_pickle") is True:
            return self._pickled(name, path, data)
        meta = field_of(facts, "tensor_meta", dict, name)
        return tensor_of(meta, data, name, storages, path, parameter=facts.get("is_param") is True)

    def _pickled(self, name: str, path: str, data: Data) -> Any:
        """A tensor that was pickled as a whole, or an object of a class of its own."""
        try:
            tree, named = read_torch_file(_source_of(self.archive, path, data))
        except CompatError:
            # A ScriptObject's own pickle is no file of torch.save: what it is called is all that can be said.
            return Opaque("torch.ScriptObject", (), {"record": path, "name": name, "nbytes": data.nbytes})
        self.globals += named
        return tree


def _source_of(archive: Archive, record: str, data: Data) -> Source:
    """A record that is a whole file of its own."""
    if data.nbytes > min(_MAX_PICKLED, archive.source.size * 1032):
        raise Corrupt(f"the record {record} has {data.nbytes:,} bytes", source=archive.source.name)
    return BytesSource(read(data), f"{archive.source.name}/{record}")


def _parameters(held: Mapping[str, Any], signature: Signature) -> OrderedDict[str, Any]:
    """The state_dict, with Parameters where the signature says so; the file itself does not in every release."""
    known = set(signature.parameters)
    return OrderedDict(
        (
            name,
            replace(value, kind="parameter")
            if name in known and isinstance(value, TensorRecord) and value.kind == "tensor"
            else value,
        )
        for name, value in held.items()
    )


FORMAT = Format(
    name="torch-export",
    summary="torch.export.save",
    suffixes=(".pt2",),
    unpickles=True,
    detect=_detect,
    open=_open,
    left_behind="the graph",
    capabilities=Capabilities(mmap=True),
)
