"""Objects that old torch and old protocols made as objects of a class, and that are tensors all the same."""

from __future__ import annotations

import io
import struct

import pytest
import torch

import compat
from compat.checkpoint import Opaque
from compat.errors import Corrupt, UnsafeGlobals
from tests.compat.making import legacy, name, number, storage_id, tensor, text, zipped

FLOATS = {"data/0": struct.pack("<4f", 1, 2, 3, 4)}
PARAMETER = name("torch.nn.parameter.Parameter")
VARIABLE = name("torch.autograd.variable.Variable")
HOOKS = name("collections.OrderedDict") + b")R"
# Today's state, and the one of torch 0.1: (data, creator, hooks, requires_grad, volatile).
NEW_STATE, OLD_STATE = b"\x88\x89" + HOOKS + b"\x87", b"(" + tensor() + b"N" + HOOKS + b"\x88\x89t"


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        (PARAMETER + tensor() + b"\x85\x81" + NEW_STATE + b"b", True),
        (PARAMETER + b")\x81" + OLD_STATE + b"b", True),
        (name("copy_reg.__newobj__") + PARAMETER + tensor() + b"\x86R" + NEW_STATE + b"b", True),
        (name("copyreg.__newobj__") + PARAMETER + tensor() + b"\x86R" + NEW_STATE + b"b", True),
        (VARIABLE + tensor() + b"\x85R" + NEW_STATE + b"b", False),
        (VARIABLE + b")\x81" + OLD_STATE + b"b", False),
    ],
)
def test_variables_are_tensors(body: bytes, parameter: bool) -> None:
    file = zipped(body, FLOATS)
    loaded = compat.load(file)
    assert (isinstance(loaded, torch.nn.Parameter), loaded.requires_grad) == (parameter, True)
    assert loaded.tolist() == [1, 2, 3, 4]
    assert not compat.diff(file, file)


def test_torch_reads_such_a_parameter_too() -> None:
    body = PARAMETER + tensor() + b"\x85\x81" + NEW_STATE + b"b"
    file = zipped(body.replace(b"\x8b\x01\0\0\0", b"\x8a\x01"), FLOATS | {"version": b"3\n"})
    by_torch = torch.load(io.BytesIO(file), weights_only=True)
    assert (type(by_torch), by_torch.tolist()) == (torch.nn.Parameter, [1, 2, 3, 4])


@pytest.mark.parametrize("kind", ["torch.FloatTensor", "torch.cuda.FloatTensor", "torch.Tensor"])
def test_tensors_that_are_given_a_storage_are_tensors(kind: str) -> None:
    state = b"(" + storage_id() + b"K\1K\2\x85K\1\x85tb"
    assert compat.load(zipped(name(kind) + b")R" + state, FLOATS)).tolist() == [2, 3]
    assert compat.load(zipped(name(kind) + b")\x81" + state, FLOATS)).tolist() == [2, 3]
    with pytest.raises(Corrupt, match="needs 20 bytes"):
        compat.open(zipped(name(kind) + b")R(" + storage_id() + b"K\1K\4\x85K\1\x85tb", FLOATS))


@pytest.mark.parametrize(
    "body",
    [
        PARAMETER + b")\x81" + NEW_STATE + b"b",
        PARAMETER + b"K\1\x85\x81" + NEW_STATE + b"b",
        PARAMETER + tensor() + b"\x85\x81K\1b",
        PARAMETER + tensor() + b"\x85\x81(K\1K\2K\3K\4tb",
        PARAMETER + tensor() + b"\x85\x81K\1" + b"K\2K\3\x87b",
        PARAMETER + tensor() + b"\x85\x81" + NEW_STATE + b"bK\1a",
        name("torch.FloatTensor") + b")R",
        name("torch.FloatTensor") + b"K\5\x85R",
        name("copyreg.__newobj__") + b")R",
        name("copyreg.__newobj__") + b"K\1\x85R",
        name("copyreg._reconstructor") + name("m.C") + name("builtins.dict") + b"}\x87R",
    ],
)
def test_what_has_another_form_stays_opaque(body: bytes) -> None:
    file = zipped(body, FLOATS)
    with pytest.raises(UnsafeGlobals):
        compat.load(file)
    assert isinstance(compat.load(file, on_unknown="keep"), Opaque)


def test_a_class_behind_a_helper_is_the_one_that_is_named() -> None:
    body = (
        name("copy_reg._reconstructor") + name("m.C") + name("__builtin__.object") + b"N\x87R}" + text("x") + b"K\1sb"
    )
    with compat.open(legacy(body)) as checkpoint:
        assert (str(checkpoint.tree.name), checkpoint.tree.state, checkpoint.tree.made_by) == ("m.C", {"x": 1}, "new")
        # What an unsafe load would call is listed all the same.
        assert checkpoint.globals == ("copyreg._reconstructor", "m.C", "builtins.object")
    body = name("copy_reg.__newobj__") + name("m.C") + number(5) + b"\x86R"
    with compat.open(legacy(body)) as checkpoint:
        assert (str(checkpoint.tree.name), checkpoint.tree.args) == ("m.C", (5,))


def test_an_object_behind_a_helper_may_hold_itself() -> None:
    made = name("copy_reg._reconstructor") + name("m.C") + name("__builtin__.object") + b"N\x87Rq\0"
    with compat.open(legacy(made + b"}" + text("me") + b"h\0sb")) as checkpoint:
        assert checkpoint.tree.state["me"] is checkpoint.tree
