"""No stream can execute, import or change anything, in whatever container it comes."""

from __future__ import annotations

import copyreg
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import compat
from compat.cli.inspect_command import facts
from compat.errors import CompatError, Corrupt, UnsafeGlobals, Unsupported
from compat.pickles import read_pickle
from compat.pickles.reader import Meaning, StandIn
from compat.rebuild import MEANINGS
from compat.records import TorchValue
from tests.compat.making import doubled, legacy, name, number, storage_id, tensor, text, zipped

MODULE = "canary_that_must_not_sing"
SOURCE = """
import pathlib
SUNG = pathlib.Path(__file__).with_suffix(".sung")
SUNG.write_text("imported")
def sing(*args, **kwargs):
    SUNG.write_text("called")
class Bird:
    def __new__(cls, *args, **kwargs):
        SUNG.write_text("made")
        return super().__new__(cls)
    def __setstate__(self, state):
        SUNG.write_text("given a state")
    def append(self, item):
        SUNG.write_text("appended to")
"""
BIRD, SING = name(f"{MODULE}.Bird"), name(f"{MODULE}.sing")
CALLS = {
    "REDUCE": SING + b")R",
    "REDUCE of a class": BIRD + b")R",
    "NEWOBJ": BIRD + b")\x81",
    "NEWOBJ_EX": BIRD + b")}\x92",
    "INST": f"(i{MODULE}\nBird\n".encode(),
    "OBJ": b"(" + BIRD + b"o",
    "BUILD": BIRD + b")\x81}b",
    "APPEND": BIRD + b")\x81K\x01a",
    "STACK_GLOBAL": text(MODULE) + text("sing") + b"\x93)R",
    "a call of what a call made": SING + b")R)R",
    "the rebuild of a subclass": name("torch._tensor._rebuild_from_type_v2") + b"(" + SING + BIRD + b")}tR",
    "a name alone": SING,
    "as a key": b"}" + BIRD + b")RK\x01s",
    "in a set": name("builtins.set") + b"](" + BIRD + b")Re\x85R",
    "in a key's tuple": b"}" + SING + b")R\x85K\x01s",
}
# The stream wraps the call in a dict, so that a caller has something to hold.
CONTAINERS: dict[str, Callable[[bytes], bytes]] = {"torch-zip": zipped, "torch-legacy": legacy}


@pytest.fixture
def sung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the canary would leave its trace, were it imported or called."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / f"{MODULE}.sung"


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("way", CALLS)
def test_nothing_is_imported_or_called(way: str, container: str, sung: Path, tmp_path: Path) -> None:
    content = CONTAINERS[container](b"}" + text("x") + CALLS[way] + b"s")
    source = tmp_path / "source"
    source.write_bytes(content)
    with compat.open(source) as checkpoint:
        assert any(MODULE in found for found in checkpoint.globals)
        facts(checkpoint)
    with pytest.raises(UnsafeGlobals, match=MODULE):
        compat.load(source)
    compat.load(source, on_unknown="keep")
    for target in ("torch-zip", "torch-legacy", "safetensors"):
        try:
            compat.convert(source, tmp_path / target, to=target)
        except Unsupported:
            continue
        assert not compat.diff(source, tmp_path / target)
    assert not sung.exists()
    assert MODULE not in sys.modules


def test_the_canary_sings_when_it_is_asked_to(sung: Path, tmp_path: Path) -> None:
    """Otherwise the tests above could not fail."""
    source = tmp_path / "source"
    source.write_bytes(zipped(CALLS["REDUCE"], {"version": b"3\n"}))
    try:
        compat.load(source, weights_only=False)
        assert sung.read_text() == "called"
    finally:
        sys.modules.pop(MODULE, None)


@pytest.mark.parametrize("way", CALLS)
def test_a_bare_pickle_is_no_checkpoint(way: str, sung: Path) -> None:
    with pytest.raises(CompatError):
        compat.open(b"\x80\x02" + CALLS[way] + b".")
    assert not sung.exists()


def test_the_extension_registry_is_not_asked(sung: Path) -> None:
    copyreg.add_extension(MODULE, "sing", 240)
    try:
        with pytest.raises(Unsupported, match="EXT1"):
            compat.open(zipped(b"\x82\xf0)R"))
    finally:
        copyreg.remove_extension(MODULE, "sing", 240)
    assert not sung.exists()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("pid", [b"N", b"]", BIRD, BIRD + b")R", b"(" + text("storage") + SING * 4 + b"t"])
def test_a_persistent_id_is_only_a_storage(pid: bytes, container: str, sung: Path) -> None:
    with pytest.raises(Corrupt, match=r"persistent id|storage is described"):
        compat.open(CONTAINERS[container](pid + b"Q"))
    assert not sung.exists()


OURS = {
    "a dtype": name("torch.float32"),
    "a rebuild function": name("torch._utils._rebuild_tensor_v2"),
    "a storage class": name("torch.FloatStorage"),
    "a class of the file": BIRD,
    "a tensor": tensor(),
    "a storage": storage_id(),
    "a size": name("torch.Size") + b")R",
    "a device": name("torch.device") + text("cpu") + b"\x85R",
    "a layout": name("torch.serialization._get_layout") + text("torch.strided") + b"\x85R",
    "a list": b"]",
    "a dict": b"}",
    "a set": name("builtins.set") + b")R",
    "a number": b"K\x01",
    "a text": text("x"),
}
STATES = {
    "a dict": b"}" + text("name") + text("other") + b"s",
    "fields": b"](" + text("dtype") + text("int64") + b"e",
    "slots": b"N}" + text("name") + text("other") + b"s\x86",
    "a class": b"N}" + text("__class__") + BIRD + b"s\x86",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("ours", OURS)
def test_build_cannot_change_what_is_ours(ours: str, state: str) -> None:
    with pytest.raises(Corrupt):
        compat.open(zipped(OURS[ours] + STATES[state] + b"b", {"data/0": bytes(16)}))


def test_what_one_file_does_is_not_seen_by_the_next() -> None:
    """A stream that changes a shared constant must not change what the next file means."""
    before = {full: (type(found), str(found)) for full, found in MEANINGS.items()}
    for body in (name(full) + state + b"b" for full in MEANINGS for state in STATES.values()):
        with pytest.raises(Corrupt):
            compat.open(zipped(body))
    assert {full: (type(found), str(found)) for full, found in MEANINGS.items()} == before
    with compat.open(zipped(name("torch.float32"))) as checkpoint:
        assert checkpoint.tree == TorchValue("dtype", "float32")


def test_attributes_of_an_ordered_dict_cannot_hide_its_content() -> None:
    body = name("collections.OrderedDict") + b")R" + text("k") + b"K\x01s}"
    body += b"".join(text(hidden) + b"Ns" for hidden in ("items", "keys", "values", "__class__", "__dict__")) + b"b"
    with compat.open(zipped(body)) as checkpoint:
        assert list(dict.items(checkpoint.tree)) == [("k", 1)]
    assert compat.load(zipped(body)) == {"k": 1}


@pytest.mark.parametrize("made", ["_get_layout", "device"])
def test_no_attribute_of_torch_can_be_had_by_name(made: str) -> None:
    call = {"_get_layout": "torch.serialization._get_layout", "device": "torch.device"}[made]
    for wanted in ("torch.load", "torch.hub", "load", "__builtins__"):
        with pytest.raises(CompatError):
            compat.load(zipped(name(call) + text(wanted) + b"\x85R"))


# What calls may cost


def repeated(call: bytes, argument: bytes, count: int) -> bytes:
    return argument + b"q\x00" + name(call.decode()) + b"q\x0100](" + b"h\x01h\x00\x85R" * count + b"e"


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (b"builtins.set", b"](" + b"K\x01" * 50_000 + b"e"),
        (b"collections.OrderedDict", b"](" + b"K\x01K\x02\x86" * 20_000 + b"e"),
        (b"builtins.bytearray", text("a" * 100_000)),
        (b"_codecs.encode", text("a" * 100_000)),
        (b"torch.Size", b"](" + b"K\x01" * 50_000 + b"e"),
        (b"somebody.Something", b"(" + b"K\x01" * 50_000 + b"t"),
    ],
)
def test_a_value_that_is_handed_over_again_and_again_is_refused(call: bytes, argument: bytes) -> None:
    with pytest.raises(Corrupt, match=r"over and over|dimensions"):
        compat.open(zipped(repeated(call, argument, 10_000)))


def test_a_name_that_is_looked_up_again_and_again_is_refused() -> None:
    body = text("m" * 100_000) + b"q\x00" + text("n") + b"q\x010](" + b"h\x00h\x01\x930" * 100_000 + b"e"
    with pytest.raises(Corrupt, match="over and over"):
        compat.open(zipped(body))


@pytest.mark.parametrize(
    "body",
    [
        doubled(b"", b"\x86", 60) + b"Q",
        b"(" + text("storage") + name("torch.FloatStorage") + doubled(b"", b"\x86", 60) + text("cpu") + b"K\x01tQ",
        b"(" + text("storage") + doubled(b"", b"\x86", 60) + text("0") + text("cpu") + b"K\x01tQ",
        name("torch.Size") + b"(" + doubled(b"", b"\x86", 60) + b"tR",
        name("torch.device") + b"(" + text("cpu") + doubled(b"", b"\x86", 60) + b"tR",
        name("torch._utils._rebuild_sparse_tensor") + b"(" + doubled(b"", b"\x86", 60) + b")tR",
        name("torch._utils._rebuild_parameter") + b"(" + doubled(b"", b"\x86", 60) + b"\x88NtR",
        doubled(b"](", b"e", 60) + b"Q",
        name("collections.OrderedDict") + b"(" + doubled(b"](", b"e", 60) + b"tR",
        name("builtins.complex") + b"(" + doubled(b"", b"\x86", 60) * 1 + b"K\x01tR",
    ],
)
def test_a_message_does_not_show_a_value_without_end(body: bytes) -> None:
    with pytest.raises(CompatError) as caught:
        compat.open(zipped(body))
    assert len(str(caught.value)) < 1000


def test_a_number_that_python_refuses_to_print_is_described() -> None:
    with compat.open(zipped(number(1 << 30_000))) as checkpoint:
        assert facts(checkpoint)["values"] == [{"path": "(the whole file)", "value": "an int of 30,001 bits"}]


def test_more_names_than_the_limit_are_refused() -> None:
    from compat.pickles import Limits

    stream = b"\x80\x02" + b"".join(name(f"m.n{n}") + b"0" for n in range(5)) + b"N."
    assert read_pickle(stream, meanings={}, limits=Limits(globals=5))[2] == [f"m.n{n}" for n in range(5)]
    with pytest.raises(Corrupt, match="more than 4 different globals"):
        read_pickle(stream, meanings={}, limits=Limits(globals=4))


def test_every_hook_of_a_stand_in_only_remembers() -> None:
    stream = b"\x80\x02" + name("m.C") + b"K\x01\x85\x81(K\x02K\x03eK\x04a(K\x05K\x06uK\x07b."
    tree, end, named = read_pickle(stream, meanings={})
    assert isinstance(tree, StandIn)
    assert (tree.name, tree.args, tree.items, tree.pairs, tree.state) == ("m.C", (1,), [2, 3, 4], [(5, 6)], 7)
    assert (tree.made_by, end, named) == ("new", len(stream), ["m.C"])


def test_a_meaning_of_a_stream_is_not_the_shared_one() -> None:
    found: list[Meaning] = []
    shared = Meaning("m.f", lambda: found)
    tree, _, _ = read_pickle(b"\x80\x02" + name("m.f") + b".", meanings={"m.f": shared})
    assert isinstance(tree, Meaning)
    assert tree is not shared


def test_python_2_text_and_names_are_read() -> None:
    stream = b"\x80\x02(U\x02\xc3\xa9" + name("__builtin__.set") + b"]\x85RU\x01\xfft."
    tree, _, named = read_pickle(stream, meanings=MEANINGS)
    assert (tree, named) == (("é", set(), "\udcff"), ["builtins.set"])


def test_a_stream_ends_where_it_ends() -> None:
    tree, end, _ = read_pickle(b"..K\x07.rest", 2, meanings={})
    assert (tree, end) == (7, 5)
    assert read_pickle(io.BytesIO(b"N.").getvalue(), meanings={})[0] is None
