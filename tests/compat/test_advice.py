"""The lines that a scan gives load the file, and where torch alone cannot, the reason is right."""

from __future__ import annotations

import functools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compat
from compat.allowlist import ALLOWED, order
from tests.compat.making import known_dtypes, tensor, torch_dumped, zipped
from tests.compat.tars import archive, members

INSTALLED = order(torch.__version__.partition("+")[0].rpartition(".")[0])


def test_the_table_of_what_torch_allows_is_that_of_this_torch() -> None:
    unpickler: Any = torch._weights_only_unpickler
    real = set(unpickler._get_allowed_globals())
    ours = {
        name
        for name, allowed in ALLOWED.items()
        if order(allowed.since) <= INSTALLED and (not allowed.until or order(allowed.until) > INSTALLED)
    }
    assert ours == real


class Setting:
    """A class of the user's."""

    def __init__(self) -> None:
        self.rate = 0.1


def run(advice: Any) -> Any:
    """What the line for torch gives."""
    names: dict[str, Any] = {}
    for statement in advice.imports:
        exec(statement, names)
    exec(advice.torch, names) if advice.torch.startswith("with") else names.update(loaded=eval(advice.torch, names))
    return names["loaded"]


@pytest.mark.parametrize(
    "state",
    [
        {"w": torch.ones(2)},
        {"w": torch.ones(2), "b": b"bytes", "s": {1}, "c": 1j},
        {"n": np.float64(3), "a": np.ones(3, "i4"), "d": np.dtype("f2")},
        torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1)),
        {"setting": Setting(), "when": OrderedDict(a=1)},
    ],
    ids=["plain", "values", "numpy", "module", "class"],
)
@pytest.mark.parametrize("is_zip", [True, False])
def test_the_line_for_torch_loads_the_file(state: Any, is_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "a file.pt"
    path.write_bytes(torch_dumped(state, zipped=is_zip))
    found = compat.scan(path)
    if isinstance(state, torch.nn.Module) and not is_zip:
        assert found.advice.reason == "weights_only=True takes no modules that bring the source of their classes along"
        return
    assert type(run(found.advice)) is type(state)
    assert order(found.advice.since) <= INSTALLED


def test_the_line_for_compat_loads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for state, call in (
        ({"w": torch.ones(2)}, "compat.load({})"),
        ({"w": torch.ones(2), "s": Setting()}, 'compat.load({}, on_unknown="keep")'),
        (torch.nn.Linear(1, 1), "compat.load_state_dict({})"),
        ({"model": torch.nn.Linear(1, 1), "epoch": 3}, "compat.load_state_dict({})"),
        ({"model": torch.nn.Linear(1, 1), "ema": torch.nn.ReLU()}, "compat.load_state_dict({}, key='model')"),
    ):
        path.write_bytes(torch_dumped(state))
        line = compat.scan(path).advice.line
        assert line == call.format(repr(str(path)))
        eval(line)


def in_legacy(dtype: torch.dtype) -> list[bytes]:
    try:
        return [torch_dumped({"a": torch.ones(2).to(dtype)}, zipped=False)]
    except KeyError:  # releases that have the dtype and do not write it yet
        return []


FLOAT8 = [file for dtype in known_dtypes("float8_e5m2") for file in in_legacy(dtype)]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (torch_dumped({"a": torch.ones(2)}, protocol=4), "weights_only=True knows pickle protocol 2 only"),
        *[(file, "torch writes storages without a type into this format and cannot read them back") for file in FLOAT8],
        (zipped(b"}"), "torch refuses archives without a record `version`"),
        (
            zipped(tensor(), {"tensors/0": bytes(16), "version": b"1"}),
            "the zip files of torch 1.4 are read by torch 1.4 only",
        ),
        (archive(members({"w": torch.ones(2)})), "torch reads archives of torch 0.1 with weights_only=False only"),
        (torch_dumped({"a": functools.partial(print)}), "it names what is known to do harm"),
    ],
    ids=["protocol", *["float8" for _ in FLOAT8], "version", "1.4", "tar", "harm"],
)
def test_it_is_said_why_torch_cannot(file: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(file)
    advice = compat.scan(path).advice
    assert advice.torch == ""
    assert advice.reason.startswith(reason)
    assert advice.line.startswith("compat.load(")
    if reason.startswith("torch reads archives of torch 0.1") and not hasattr(torch.serialization, "safe_globals"):
        return  # those releases did not refuse them yet
    with pytest.raises(Exception, match=r".+"):
        torch.load(path, weights_only=True)
