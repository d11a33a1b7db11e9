"""Deliberately broken implementations. Each check of the matrix must catch the ones that are meant for it, by name.

A miniature is a real writer or reader with one defect. `catches` says in which cells it shows and what the
verdict must name: the facet that differs, or the kind of outcome.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import compat
from matrix.implementations import IMPLEMENTATIONS, Implementation, ReadMode, Transferred, WriteMode
from matrix.trainings import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Miniature:
    """One broken implementation.

    Attributes:
        defect: what is wrong with it, in a few words.
        implementation: takes the place of compat.
        cells: where it must be caught; facet: what the outcome must name.
        kind: the outcome's kind.
    """

    defect: str
    implementation: Implementation
    cells: str
    facet: str
    kind: str = "mismatch"


COMPAT = IMPLEMENTATIONS["compat"]
assert COMPAT.recipes is not None
CALLS = COMPAT.recipes


def reading(change: Callable[[Any], Any]) -> Implementation:
    """compat, with what it reads changed."""

    def read(path: Path, mode: ReadMode) -> Any:
        return change(COMPAT.read(path, mode))

    return replace(COMPAT, read=read)


def writing(change: Callable[[Any], Any]) -> Implementation:
    """compat, with what it is given changed before it is written."""

    def write(state: Any, path: Path, mode: WriteMode) -> None:
        COMPAT.write(change(state), path, mode)

    return replace(COMPAT, write=write)


def values(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], Any]:
    """A change of every tensor of a state_dict; keys, order and metadata stay."""

    def changed(state: Any) -> Any:
        made = OrderedDict((key, change(v) if isinstance(v, torch.Tensor) else v) for key, v in state.items())
        vars(made).update(vars(state))
        return made

    return changed


def with_items(state: Any, items: list[tuple[Any, Any]]) -> Any:
    """A state_dict with other items and the same metadata."""
    made = OrderedDict(items)
    vars(made).update(vars(state))
    return made


def drops_the_last_key(state: Any) -> Any:
    return with_items(state, list(state.items())[:-1])


def upcasts_bfloat16(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def splits_aliases(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone(memory_format=torch.preserve_format)


def merges_colliding_keys(state: Any) -> Any:
    """As loaders do that flatten names and strip prefixes with a regular expression."""
    return with_items(state, [(re.sub(r"^(module\.)+", "", str(key)).split(".")[0], v) for key, v in state.items()])


def loses_metadata(state: Any) -> Any:
    return OrderedDict(state)


def reorders_keys(state: Any) -> Any:
    return with_items(state, sorted(state.items(), reverse=True))


def makes_zeros_positive(tensor: torch.Tensor) -> torch.Tensor:
    return tensor + 0.0 if tensor.dtype in (torch.float32, torch.float64) else tensor


def makes_nans_canonical(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point() or tensor.element_size() == 1:
        return tensor
    return torch.where(torch.isnan(tensor), torch.full_like(tensor, float("nan")), tensor)


def densifies(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous()


def forgets_gradients(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach()


def refuses_what_it_claims(state: Any) -> Any:
    if any(t.dtype == torch.float8_e5m2 for t in state.values() if isinstance(t, torch.Tensor)):
        raise KeyError("torch.float8_e5m2")
    return state


def hangs(state: Any) -> Any:
    while True:
        state = dict(state)


def converts_values_only(source: Path, target: Path, mode: WriteMode) -> None:
    """A converter that loads and saves, and so keeps what a loaded dict of tensors says."""
    COMPAT.write(OrderedDict(COMPAT.read(source, ReadMode())), target, mode)


def converts_into_one_file_of_views(source: Path, target: Path, mode: WriteMode) -> None:
    """A converter that gives every tensor memory of its own, as formats without aliases make people do."""
    COMPAT.write(values(splits_aliases)(COMPAT.read(source, ReadMode())), target, mode)


def continues_by_number(run: Training, path: Path) -> None:
    """A loader that gives optimizer state to parameters by their number, as torch does."""
    loaded = COMPAT.read(path, ReadMode())
    run.module.load_state_dict(loaded["model_state_dict"])
    run.optimizer.load_state_dict(loaded["optimizer_state_dict"])
    compat.load_training(path)
    run.step = loaded["step"]


def continues_other_random_numbers(run: Training, path: Path) -> None:
    """A loader that forgets the random generators."""
    loaded = compat.load_training(path, models=run.module, optimizers=run.optimizer, rng=False)
    run.step = loaded["step"]


def loads_silently(module: torch.nn.Module, path: Path, _strictness: str) -> Transferred:
    """A loader that says "all keys matched", as torch does when `_metadata` was lost."""
    found = module.load_state_dict(compat.load_state_dict(path), strict=False)
    return Transferred(missing=list(found[0]), unexpected=list(found[1]), mismatched=[], warned=False)


def loads_what_fits(module: torch.nn.Module, path: Path, strictness: str) -> Transferred:
    """A loader that never refuses."""
    del strictness
    report = compat.load_into(module, path, strict=False, skip_mismatched=True)
    return Transferred(missing=report.missing_keys, unexpected=report.unexpected_keys, mismatched=[], warned=True)


def gives_the_first_model(path: Path, key: str | None) -> Any:
    """A loader that takes the first state_dict of a file, whatever it was asked for."""
    state = compat.load(path, on_unknown="keep")
    first = next(iter(value for value in state.values() if isinstance(value, dict)), state)
    return compat.load_state_dict(path, key=key) if first is state else compat.strip_prefix(first)


def stays_where_it_was(path: Path, mode: ReadMode) -> Any:
    """A loader that knows no device but the CPU, and says nothing."""
    return compat.load(path, map_location="cpu") if mode.moved else COMPAT.read(path, mode)


def executes_pickles(path: Path, mode: ReadMode) -> Any:
    """A loader that unpickles first and refuses afterwards."""
    with zipfile.ZipFile(path) if zipfile.is_zipfile(path) else io.BytesIO() as archive:
        if isinstance(archive, zipfile.ZipFile):
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            pickle.loads(archive.read(name))
        else:
            torch.load(path, weights_only=False)
    return COMPAT.read(path, mode)


MINIATURES: Mapping[str, Miniature] = {
    "drops_the_last_key": Miniature(
        defect="drops the last key",
        implementation=writing(drops_the_last_key),
        cells="roundtrip:torch-zip:compat>compat:wo:plain",
        facet="structure",
    ),
    "upcasts_bfloat16": Miniature(
        defect="reads bfloat16 as float32",
        implementation=reading(values(upcasts_bfloat16)),
        cells="roundtrip:torch-legacy:torch>compat:wo:dtype-bfloat16",
        facet="dtype",
    ),
    "splits_aliases": Miniature(
        defect="gives every tensor a storage of its own",
        implementation=reading(values(splits_aliases)),
        cells="roundtrip:torch-zip:torch>compat:wo:shared-storage",
        facet="aliasing",
    ),
    "merges_colliding_keys": Miniature(
        defect="flattens names until two keys are one",
        implementation=reading(merges_colliding_keys),
        cells="roundtrip:torch-zip:torch>compat:wo:many",
        facet="structure",
    ),
    "loses_metadata": Miniature(
        defect="loses _metadata",
        implementation=reading(loses_metadata),
        cells="roundtrip:torch-zip:torch>compat:wo:metadata",
        facet="metadata",
    ),
    "reorders_keys": Miniature(
        defect="sorts the keys",
        implementation=reading(reorders_keys),
        cells="roundtrip:safetensors:compat>compat:wo:many",
        facet="key-order",
    ),
    "makes_zeros_positive": Miniature(
        defect="turns -0.0 into 0.0",
        implementation=reading(values(makes_zeros_positive)),
        cells="roundtrip:torch-zip:torch>compat:wo:negative-zero",
        facet="bytes",
    ),
    "makes_nans_canonical": Miniature(
        defect="loses the payload of NaNs",
        implementation=reading(values(makes_nans_canonical)),
        cells="roundtrip:torch-zip:torch>compat:wo:nan-payload",
        facet="bytes",
    ),
    "densifies": Miniature(
        defect="makes every tensor contiguous",
        implementation=reading(values(densifies)),
        cells="roundtrip:torch-zip:torch>compat:wo:noncontiguous",
        facet="stride",
    ),
    "forgets_gradients": Miniature(
        defect="forgets requires_grad",
        implementation=reading(values(forgets_gradients)),
        cells="roundtrip:torch-zip:torch>compat:wo:requires-grad",
        facet="requires-grad",
    ),
    "refuses_what_it_claims": Miniature(
        defect="claims a dtype and fails to write it",
        implementation=writing(refuses_what_it_claims),
        cells="roundtrip:safetensors:compat>compat:wo:dtype-float8_e5m2",
        facet="",
        kind="crashed",
    ),
    "converts_values_only": Miniature(
        defect="converts keys and values, and nothing that hangs on them",
        implementation=replace(COMPAT, convert=converts_values_only),
        cells="convert:torch-zip>safetensors:metadata",
        facet="metadata",
    ),
    "converts_into_one_file_of_views": Miniature(
        defect="converts shared tensors into separate ones",
        implementation=replace(COMPAT, convert=converts_into_one_file_of_views),
        cells="convert:safetensors>torch-zip:shared-storage",
        facet="aliasing",
    ),
    "continues_by_number": Miniature(
        defect="gives optimizer state to parameters by their number",
        implementation=replace(COMPAT, load_run=continues_by_number),
        cells="resume:torch-zip:Adam:reordered:module-mixed",
        facet="",
        kind="crashed",
    ),
    "continues_other_random_numbers": Miniature(
        defect="forgets the random generators",
        implementation=replace(COMPAT, load_run=continues_other_random_numbers),
        cells="resume:torch-zip:SGD:module-mixed",
        facet="module",
    ),
    "loads_silently": Miniature(
        defect="says nothing of a lost _metadata",
        implementation=replace(COMPAT, load_into=loads_silently),
        cells="transfer:torch-zip:lost-metadata:loose:module-batchnorm",
        facet="silent",
    ),
    "loads_what_fits": Miniature(
        defect="loads what fits, however strict it was asked to be",
        implementation=replace(COMPAT, load_into=loads_what_fits),
        cells="transfer:torch-zip:missing:module-mixed",
        facet="not-refused",
    ),
    "gives_the_first_model": Miniature(
        defect="gives the first of several models",
        implementation=replace(COMPAT, recipes=replace(CALLS, weights=gives_the_first_model)),
        cells="recipe:torch-zip:several-one:module-mixed",
        facet="",
    ),
    "stays_where_it_was": Miniature(
        defect="loads to the CPU, wherever it was asked to",
        implementation=replace(COMPAT, read=stays_where_it_was),
        cells="device:torch-zip:cuda0>compat:module-mixed",
        facet="device",
    ),
    "hangs": Miniature(
        defect="never comes back",
        implementation=reading(hangs),
        cells="roundtrip:torch-zip:torch>compat:wo:plain",
        facet="",
        kind="timeout",
    ),
    "executes_pickles": Miniature(
        defect="executes the pickle before it looks at it",
        implementation=replace(COMPAT, read=executes_pickles),
        cells="inert:torch-legacy:torch>compat:wo:reduce",
        facet="executed",
    ),
    **{
        f"export_{name.lower()}": Miniature(
            defect=defect,
            implementation=replace(COMPAT, exporting=f"tests.exporters:{name}"),
            cells=f"export:torchscript-trace:{cells}",
            facet=facet,
            kind=kind,
        )
        for name, defect, cells, facet, kind in (
            ("FORGETS", "answers as it did the first time", "mutated:linear", "second-call", "mismatch"),
            ("GUESSES", "makes inputs fit", "linear", "not-refused", "mismatch"),
            ("PADS", "knows one batch size", "linear", "batch", "mismatch"),
            ("ROUNDS", "computes in bfloat16", "mlp", "values", "mismatch"),
            ("UNTIES", "gives tied weights memory of their own", "tied:linear", "weights-untied", "mismatch"),
            ("RENAMES", "keeps values under other names", "linear", "weights-renamed", "mismatch"),
            ("REWRITES", "keeps names with other values", "linear", "weights-changed", "mismatch"),
            ("TRAINS", "changes the module that it exports", "bn-stats", "source", "mismatch"),
            ("RAISES", "stumbles", "linear", "", "crashed"),
        )
    },
}
