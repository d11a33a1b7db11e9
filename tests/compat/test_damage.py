"""Random damage, the same on every run: an error of ours or an answer, never another exception, never slow."""

from __future__ import annotations

import io
import json
import random
import time
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import compat
from compat.cli.inspect_command import facts
from compat.errors import CompatError, Mismatch
from tests.compat.making import dumped, torch_dumped

ROUNDS = 400
# Values that code trips over: of another type, out of range, or with a meaning elsewhere.
ATOMS: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    3,
    1e300,
    float("inf"),
    1 << 62,
    1 << 70,
    "",
    "a",
    [],
    {},
    {"tensor": "a"},
    [[1, 2]],
)


class Unknown:
    pass


def content() -> OrderedDict[str, Any]:
    base = torch.arange(12.0).reshape(3, 4)
    noted = torch.ones(2, 3)
    vars(noted)["note"] = [1, {"a": 2}]
    state: OrderedDict[str, Any] = OrderedDict(a=base.t(), row=base[1], b=noted, p=torch.nn.Parameter(torch.ones(2)))
    state["z"] = torch.ones(2, dtype=torch.complex64).conj()
    state["u"] = torch.ones(2, dtype=torch.uint16)
    state["coo"] = torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.tensor([1.0]), (2, 3))
    state["x"] = {1: 2, (1, "k"): {3, 4}, "f": frozenset([1]), "b": b"abc", "c": 1 + 2j, "n": Counter("ab")}
    state["others"] = [torch.device("cuda:0"), torch.float16, torch.Size([1, 2]), float("nan"), None, True]
    vars(state)["_metadata"] = OrderedDict({"": {"version": 1}})
    return state


def spoiled(stream: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, dropped, or said again elsewhere."""
    made = bytearray(stream)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, kind = chance.randrange(len(made)), chance.random()
        if kind < 0.5:
            made[at] = chance.randrange(256)
        elif kind < 0.7:
            del made[at : at + chance.randrange(1, 9)]
        else:
            begin = chance.randrange(len(made))
            made[at:at] = made[begin : begin + chance.randrange(1, 40)]
    return bytes(made)


def spoiled_streams(chance: random.Random) -> Iterator[bytes]:
    state = content()
    for protocol in (2, 4):
        with zipfile.ZipFile(io.BytesIO(torch_dumped({**state, "w": Unknown()}, protocol=protocol))) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        stream = next(name for name in records if name.endswith("data.pkl"))
        for _ in range(ROUNDS):
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                for name, record in records.items():
                    archive.writestr(name, spoiled(record, chance) if name == stream else record)
            yield buffer.getvalue()


def spoiled_files(chance: random.Random, form: str) -> Iterator[bytes]:
    file = dumped(content(), form)
    return (spoiled(file, chance) for _ in range(ROUNDS))


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    for step in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, step
        if isinstance(node[step], (dict, list)):
            yield from places(node[step])


def spoiled_layouts(chance: random.Random) -> Iterator[bytes]:
    file = dumped(content(), "safetensors")
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    layout = header["__metadata__"]["compat.layout"]
    for _ in range(ROUNDS):
        changed = json.loads(layout)
        for _ in range(chance.choice((1, 1, 2))):
            node, step = chance.choice(list(places(changed)))
            node[step] = json.loads(json.dumps(chance.choice(ATOMS)))
        header["__metadata__"]["compat.layout"] = json.dumps(changed)
        text = json.dumps(header).encode()
        yield len(text).to_bytes(8, "little") + text + file[8 + size :]


DAMAGE = {
    "streams": spoiled_streams,
    "legacy files": lambda chance: spoiled_files(chance, "torch-legacy"),
    "safetensors files": lambda chance: spoiled_files(chance, "safetensors"),
    "zip files": lambda chance: spoiled_files(chance, "torch-zip"),
    "carried layouts": spoiled_layouts,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_ends_in_an_error_or_an_answer(kind: str, tmp_path: Path) -> None:
    chance = random.Random(kind)
    outcomes: Counter[str] = Counter()
    for number, file in enumerate(DAMAGE[kind](chance)):
        begun = time.process_time()
        outcomes.update(outcome(attempt, file, tmp_path, number) for attempt in (load, keep, show, again))
        assert time.process_time() - begun < 5, number
    # Damage that always or never matters would test nothing.
    assert outcomes["error"] > ROUNDS // 4
    assert outcomes["answer"] > ROUNDS // 100


def outcome(attempt: Callable[[bytes, Path, int], None], file: bytes, folder: Path, number: int) -> str:
    """What became of it; anything but an error of ours fails the test, and so does a conversion that lied."""
    try:
        attempt(file, folder, number)
    except Mismatch:
        raise
    except CompatError:
        return "error"
    return "answer"


def load(file: bytes, _folder: Path, _number: int) -> None:
    compat.load(file, map_location="cpu")


def keep(file: bytes, _folder: Path, _number: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compat.load(file, on_unknown="keep", map_location="cpu")


def show(file: bytes, _folder: Path, _number: int) -> None:
    with compat.open(file) as checkpoint:
        json.dumps(facts(checkpoint))


def again(file: bytes, folder: Path, number: int) -> None:
    to = ("torch-zip", "torch-legacy", "safetensors")[number % 3]
    compat.convert(file, folder / "x", to=to, overwrite=True)
