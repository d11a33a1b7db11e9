"""The TorchScript archives of torch 1.0 to 1.2, which describe their modules in JSON.

torch 2.x refuses them. `model.json` holds a tree of modules and a list of tensors; attributes (from 1.2 on)
lie in a pickle that names tensors by their place in that list.

Source of the layout: `torch/csrc/jit/import_legacy.cpp` of torch 1.3 and `caffe2/proto/torch.proto` of 1.2.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace
from typing import Any, Final

from compat.data import read
from compat.errors import CompatError, Corrupt, Unsupported
from compat.pickles import read_pickle
from compat.pickles.reader import Meaning
from compat.rebuild import MEANINGS
from compat.records import StorageRecord, TensorRecord, contiguous_stride
from compat.torcharchive import place_storage
from compat.zipdir import Archive

DESCRIPTION: Final = "model.json"
_MAX_NESTING: Final = 100
_DTYPES: Final = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "FLOAT16": "float16",
    "INT64": "int64",
    "INT32": "int32",
    "INT16": "int16",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


def read_json_archive(archive: Archive, root: str) -> tuple[OrderedDict[str, Any], dict[str, Any], dict[str, Any]]:
    """The state_dict, the other attributes by name, and facts about the archive.

    Raises:
        Corrupt: the description is damaged or contradicts the records.
    """
    try:
        model = json.loads(bytes(read(archive.data(f"{root}{DESCRIPTION}"))))
        description = _Description(archive, root, model)
        description.walk(model["mainModule"], "", 0)
    except CompatError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise Corrupt(
            f"{DESCRIPTION} is damaged: {type(error).__name__}: {error!s:.120}", source=archive.source.name
        ) from error
    facts = {"producer": f"{model.get('producerName', '')} {model.get('producerVersion', '')}".strip()}
    return description.state, description.attributes, facts


class _Description:
    def __init__(self, archive: Archive, root: str, model: dict[str, Any]) -> None:
        self.archive = archive
        self.root = root
        self.state: OrderedDict[str, Any] = OrderedDict()
        self.attributes: dict[str, Any] = {}
        self.storages: dict[str, StorageRecord] = {}
        self.tensors = [self._tensor(facts) for facts in model.get("tensors", [])]
        self.values = self._values()

    def _tensor(self, facts: dict[str, Any]) -> TensorRecord:
        dtype = _DTYPES.get(facts["dataType"])
        if dtype is None:
            raise Unsupported(
                f"a tensor has the type {facts['dataType']!r:.40}", feature="dtype", source=self.archive.source.name
            )
        key = facts["data"]["key"]
        shape = tuple(int(size) for size in facts.get("dims", []))
        stride = tuple(int(step) for step in facts.get("strides", contiguous_stride(shape)))
        return TensorRecord(
            dtype=dtype,
            shape=shape,
            stride=stride,
            storage_offset=int(facts.get("offset", 0)),
            storage=self._storage(str(key), str(facts.get("device", "cpu")), dtype),
            requires_grad=bool(facts.get("requiresGrad", False)),
        )

    def _storage(self, key: str, device: str, dtype: str) -> StorageRecord:
        if key not in self.storages:
            name = f"{self.root}{key}"
            entry = self.archive.entries.get(name)
            made = StorageRecord(key=key, nbytes=entry.nbytes if entry else 0, device=device, dtype=dtype)
            place_storage(self.archive, name, made, "little")
            self.storages[key] = made
        return self.storages[key]

    def _values(self) -> tuple[Any, ...]:
        name = f"{self.root}attributes.pkl"
        if name not in self.archive.entries:
            return ()

        def by_id(index: Any) -> TensorRecord:
            if type(index) is not int or not 0 <= index < len(self.tensors):
                raise Corrupt(f"an attribute refers to tensor {index!r:.40}", source=self.archive.source.name)
            return self.tensors[index]

        meaning = Meaning("torch.jit._pickle.build_tensor_from_id", by_id)
        lists = {
            f"torch.jit._pickle.{kind}": Meaning(f"torch.jit._pickle.{kind}", lambda values: values)
            for kind in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
        }
        values, _, _ = read_pickle(
            bytes(read(self.archive.data(name))),
            meanings={**MEANINGS, **lists, meaning.name: meaning},
            source=self.archive.source.name,
        )
        return tuple(values)

    def walk(self, module: dict[str, Any], prefix: str, depth: int) -> None:
        """Collect a module as `state_dict()` does: parameters, buffers, then submodules."""
        if depth > _MAX_NESTING:
            raise Corrupt(f"modules nest deeper than {_MAX_NESTING} levels", source=self.archive.source.name)
        for facts in module.get("parameters", []):
            record = self.tensors[int(facts["tensorId"])]
            # `caffe2/proto/torch.proto` of 1.2: ParameterDef.isBuffer, which JSON leaves out where it is false.
            kind = "tensor" if facts.get("isBuffer", False) else "parameter"
            self.state[f"{prefix}{facts['name']}"] = replace(record, kind=kind)
        for facts in module.get("attributes", []):
            value = self.values[int(facts["id"])]
            # Before 1.3 buffers of traced modules were attributes like any other tensor.
            place = self.state if isinstance(value, TensorRecord) else self.attributes
            place[f"{prefix}{facts['name']}"] = value
        for below in module.get("submodules", []):
            self.walk(below, f"{prefix}{below['name']}.", depth + 1)
