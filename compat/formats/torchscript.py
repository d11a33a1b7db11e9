"""`torchscript`: archives of `torch.jit.save`, read only.

- read: parameters and buffers under their `state_dict` names, other attributes, and the tensors that the code
  refers to as constants. A frozen module has all its weights among the constants, without names; that is said.
- told apart: parameters, buffers and plain attributes, by what the archived code declares. Only these
  declarations are looked at; no code is compiled or run.
- read too: the archives of torch 1.0 to 1.2, described in JSON, which torch 2.x refuses.
- tree: `state_dict`, `attributes` and `constants`, each where there are any.
- not kept by the format itself: `_metadata`, whether a buffer was persistent, tuples against lists of numbers.

Source of the layout: `torch/csrc/jit/docs/serialization.md` and `torch/csrc/jit/serialization/` (`export.cpp`,
`unpickler.cpp`).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from compat.checkpoint import Checkpoint, Composite, GlobalName, Opaque, TensorRecord
from compat.data import read
from compat.errors import Corrupt, counted
from compat.formats._format import Capabilities, Format
from compat.pickles import read_pickle
from compat.pickles.reader import Meaning
from compat.rebuild import MEANINGS, settle
from compat.sources import Source
from compat.torcharchive import (
    CODE,
    CONSTANTS,
    PICKLE,
    archive_of,
    byteorder_of,
    facts_of,
    is_script,
    place_storage,
    root_of,
    stream_of,
)
from compat.torchfile import Storages, checked
from compat.torchscript_json import DESCRIPTION, read_json_archive
from compat.zipdir import Archive

_MAX_CODE: Final = 64 * 1024 * 1024
_MAX_NESTING: Final = 100
_CLASS: Final = re.compile(r"^class (\S+)\(.*\):$")
_DECLARATION: Final = re.compile(r"^  (__parameters__|__buffers__) = \[(.*)\]$")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')


def _plain_list(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise Corrupt(f"a TorchScript list is {type(values).__name__}")
    return values


# The functions by which TorchScript's pickler marks types: each gives back what it was given.
_JIT_MEANINGS: Final[Mapping[str, Any]] = {
    **{
        f"torch.jit._pickle.{name}": Meaning(f"torch.jit._pickle.{name}", _plain_list)
        for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
    },
    "torch.jit._pickle.restore_type_tag": Meaning("torch.jit._pickle.restore_type_tag", lambda value, _type: value),
}


@dataclass(frozen=True, slots=True)
class _Declared:
    """What the code of a class says of its attributes; `buffers` is None where it says nothing of them."""

    parameters: frozenset[str] = frozenset()
    buffers: frozenset[str] | None = None


def _detect(source: Source) -> bool:
    archive = archive_of(source)
    if archive is None:
        return False
    if root_of(archive, DESCRIPTION) is not None:
        return True
    root = root_of(archive)
    return root is not None and is_script(archive, root)


def _stream(archive: Archive, root: str, record: str, folder: str) -> tuple[Any, list[str]]:
    """One pickle of the archive, with its storages in their places."""
    storages = Storages(archive.source.name)
    tree, _, named = read_pickle(
        stream_of(archive, f"{root}{record}"),
        meanings={**MEANINGS, **_JIT_MEANINGS},
        persistent=storages.load,
        source=archive.source.name,
    )
    byteorder = byteorder_of(archive, root)
    for storage in storages.found.values():
        # torch up to 1.8 kept all tensors of an archive in one folder.
        place = f"{root}{folder}/{storage.key}"
        name = place if place in archive.entries else f"{root}tensors/{storage.key}"
        place_storage(archive, name if name in archive.entries else place, storage, byteorder)
    return settle(tree), named


def _declarations(archive: Archive, root: str) -> dict[str, _Declared]:
    """For every class of the archived code, which attributes are parameters and which are buffers."""
    found: dict[str, _Declared] = {}
    budget = _MAX_CODE
    for name, entry in archive.entries.items():
        if not name.startswith(f"{root}{CODE}") or not name.endswith(".py"):
            continue
        budget -= entry.nbytes
        if budget < 0:
            raise Corrupt(f"holds more than {_MAX_CODE:,} bytes of code", source=archive.source.name)
        module = name[len(root) + len(CODE) : -len(".py")].replace("/", ".")
        text = bytes(read(archive.data(name))).decode("utf-8", "replace")
        current = ""
        for line in text.splitlines():
            if header := _CLASS.match(line):
                current = f"{module}.{header[1]}"
                found[current] = _Declared()
            elif current and (declaration := _DECLARATION.match(line)):
                names = frozenset(_QUOTED.findall(declaration[2]))
                kind = "parameters" if declaration[1] == "__parameters__" else "buffers"
                found[current] = replace(found[current], **{kind: names})
    return found


class _Modules:
    """Walks the objects of an archive as `state_dict()` does: parameters, buffers, then submodules."""

    def __init__(self, declared: Mapping[str, _Declared]) -> None:
        self.declared = declared
        self.state: OrderedDict[str, Any] = OrderedDict()
        self.attributes: OrderedDict[str, Any] = OrderedDict()

    def walk(self, module: Opaque, prefix: str = "", depth: int = 0) -> None:
        if depth > _MAX_NESTING:
            raise Corrupt(f"modules nest deeper than {_MAX_NESTING} levels")
        attributes = module.state if isinstance(module.state, dict) else {}
        declared = self._declared_by(module, attributes)
        buffers = declared.buffers
        if buffers is None:
            # Up to torch 1.4 the code says only which tensors are parameters.
            buffers = frozenset(n for n, v in attributes.items() if isinstance(v, (TensorRecord, Composite)))
            buffers -= declared.parameters
        for kind, names in (("parameter", declared.parameters), ("tensor", buffers)):
            for name, value in attributes.items():
                if name in names and isinstance(value, (TensorRecord, Composite)):
                    is_plain = isinstance(value, TensorRecord)
                    self.state[f"{prefix}{name}"] = replace(value, kind=kind) if is_plain else value
        for name, value in attributes.items():
            if isinstance(value, Opaque) and _is_module(value):
                self.walk(value, f"{prefix}{name}.", depth + 1)
            elif name not in declared.parameters and name not in buffers:
                self.attributes[f"{prefix}{name}"] = value

    def _declared_by(self, module: Opaque, attributes: Mapping[str, Any]) -> _Declared:
        found = self.declared.get(str(module.name))
        if found is None and any(isinstance(value, (TensorRecord, Composite)) for value in attributes.values()):
            raise Corrupt(f"a module is of the class {module.name:.200}", expected="a class that the archived code has")
        return found or _Declared()


def _is_module(value: Opaque) -> bool:
    return GlobalName.parse(value.name).module.split(".")[0] == "__torch__" and isinstance(value.state, dict)


def _open(source: Source) -> Checkpoint:
    archive = Archive(source) if (known := archive_of(source)) is None else known
    described = root_of(archive, DESCRIPTION)
    return _open_pickled(archive) if described is None else _open_described(archive, described)


def _open_described(archive: Archive, root: str) -> Checkpoint:
    """An archive of torch 1.0 to 1.2."""
    state, attributes, facts = read_json_archive(archive, root)
    source = archive.source
    return checked(
        Checkpoint(
            format=FORMAT.name,
            tree={"state_dict": state, "attributes": attributes} if attributes else {"state_dict": state},
            source=source.name,
            metadata={**facts, **facts_of(archive, root)},
            close=source.close,
        )
    )


def _open_pickled(archive: Archive) -> Checkpoint:
    """An archive of torch 1.3 and later."""
    source = archive.source
    root = root_of(archive) or ""
    module, named = _stream(archive, root, PICKLE, "data")
    constants, more = _stream(archive, root, CONSTANTS, "constants")
    if not isinstance(module, Opaque):
        raise Corrupt(f"the archived module is a {type(module).__name__}", source=source.name)
    modules = _Modules(_declarations(archive, root))
    modules.walk(module)
    tree: dict[str, Any] = {"state_dict": modules.state}
    tree |= {"attributes": modules.attributes} if modules.attributes else {}
    tree |= {"constants": list(constants)} if constants else {}
    notes = []
    if constants and not modules.state:
        held = counted(len(constants), "weight")
        notes.append(f"a frozen module: {held} among the constants of its code, without names")
    return checked(
        Checkpoint(
            format=FORMAT.name,
            tree=tree,
            source=source.name,
            globals=list(dict.fromkeys([*named, *more])),
            metadata={"class": str(module.name), **facts_of(archive, root)},
            notes=notes,
            close=source.close,
        )
    )


FORMAT = Format(
    name="torchscript",
    summary="torch.jit.save",
    suffixes=(".pt", ".jit", ".ts"),
    detect=_detect,
    open=_open,
    left_behind="the code",
    capabilities=Capabilities(metadata=False, opaque=False, mmap=True),
)
