"""Tracing finds every name that the C unpickler would look up, in whatever bytes, and never raises."""

from __future__ import annotations

import collections
import datetime as dt
import io
import os
import pickle
import pickletools
import warnings
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from compat.checkpoint import path_text
from compat.errors import CompatError
from compat.pickles.shadows import COMPUTED, places
from compat.pickles.tracing import trace
from compat.pickles.vet import vet
from tests.compat.making import name, text


class Shell:
    """Reduces to a call of os.system."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


class Plain:
    """An object with a state."""

    def __init__(self) -> None:
        self.attribute = Shell()


class Anything:
    """What every name stands for: takes whatever a stream does to it."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_kwargs: Any) -> Anything:
        return self

    def append(self, item: Any) -> None:
        """What APPEND calls."""

    extend = add = append


class Recorder(pickle.Unpickler):
    """The C unpickler, which notes what it looks up and imports nothing."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")
        self.looked_up: list[str] = []

    def find_class(self, module: str, name: str, /) -> Any:
        """Note it."""
        self.looked_up.append(f"{module}.{name}")
        return type("Stand", (Anything,), {})

    def persistent_load(self, pid: Any, /) -> Any:
        """Nothing is stored elsewhere."""
        return Anything()


def looked_up(data: bytes) -> list[str]:
    """What the C unpickler looks up before it ends or fails."""
    recorder = Recorder(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            recorder.load()
        except Exception:  # noqa: BLE001 - damaged streams drive the unpickler into every error there is
            return recorder.looked_up
    return recorder.looked_up


VALUES = (
    {"a": [0, Shell(), {"q": Shell()}], "s": {1, 2}, "f": frozenset([3]), "t": (1, Shell())},
    [Plain(), Shell(), 10**40, 2.5, b"bytes", "é", None, True],
    collections.OrderedDict(a=Shell(), b=dt.datetime(2020, 1, 1)),  # noqa: DTZ001 - only pickled
)
STREAMS = [
    *(pickle.dumps(value, protocol) for value in VALUES for protocol in range(6)),
    b"(S'true'\nios\nsystem\n.",
    b"(cos\nsystem\nS'true'\no.",
    b"\x80\x04\x8c\x02os\x940\x8c\x06system\x940h\x00h\x01\x93\x8c\x04true\x85R.",
]
OPCODES = [code.code.encode("latin-1") for code in pickletools.opcodes]


@pytest.mark.parametrize("stream", STREAMS)
def test_what_the_unpickler_looks_up_is_found(stream: bytes) -> None:
    found = trace(stream)
    assert (found.error, found.end) == ("", len(stream))
    named = {str(one.name) for one in found.names} | {one.written for one in found.names}
    assert set(looked_up(stream)) <= named


@st.composite
def damaged_streams(draw: st.DrawFn) -> bytes:
    """Streams with bytes flipped, opcodes put in, and pieces of other streams in between."""
    data = bytearray(draw(st.sampled_from(STREAMS)))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.sampled_from([*OPCODES, *STREAMS]) | st.binary(max_size=4))
        begin = draw(st.integers(0, len(piece)))
        kept = draw(st.integers(0, 4))
        data[at : at + kept] = piece[begin : begin + draw(st.integers(0, 20))]
    return bytes(data)


@given(damaged_streams())
def test_nothing_is_missed_in_damaged_streams(stream: bytes) -> None:
    found = trace(stream)
    try:
        vet(stream)
    except CompatError as error:
        if "memo index" in error.seen or "declared" in error.seen:
            return  # the C unpickler would take gigabytes
    named = {str(one.name) for one in found.names} | {one.written for one in found.names}
    if any(COMPUTED in one for one in named):
        event("a name is computed")
        return
    event("breaks" if found.error else "whole")
    assert set(looked_up(stream)) <= named


@given(st.binary(max_size=200))
def test_any_bytes_are_traced(data: bytes) -> None:
    found = trace(data)
    assert 0 <= found.end <= len(data)
    assert found.error or data[found.end - 1 : found.end] == b"."


def test_places_are_those_of_the_content() -> None:
    found = trace(pickle.dumps({"a": [0, Shell()], "b": (Plain(),), 3: {Shell: 1}}, 2))
    held = [(str(named.name), path_text(path)) for named, path in places(found.root, frozenset())]
    assert held == [
        ("posix.system", "a.1"),
        ("tests.compat.test_tracing.Plain", "b.0"),
        ("posix.system", "b.0.state.attribute"),
        ("tests.compat.test_tracing.Shell", "3.key 0"),
    ]


@pytest.mark.parametrize(
    ("body", "uses"),
    [
        (name("m.C"), set()),
        (name("m.C") + b")R", {"called"}),
        (name("m.C") + b")\x81", {"called"}),
        (name("m.C") + b")}\x92", {"called"}),
        (b"(" + name("m.C") + b"o", {"called"}),
        (b"(im\nC\n", {"called"}),
        (name("m.C") + b")R}b", {"called", "built"}),
        (name("m.C") + b"}b", {"changed"}),
        (name("m.C") + b")R)R", {"called"}),
    ],
)
def test_uses_are_told_apart(body: bytes, uses: set[str]) -> None:
    (named,) = trace(b"\x80\x04" + body + b".").names
    assert (str(named.name), set(named.uses)) == ("m.C", uses)


def test_a_name_that_ends_nowhere_has_no_place() -> None:
    found = trace(b"\x80\x02" + name("os.system") + text("true") + b"\x85R0N.")
    assert [(str(named.name), named.offset, set(named.uses)) for named in found.names] == [("os.system", 2, {"called"})]
    assert list(places(found.root, frozenset())) == []


@pytest.mark.parametrize(
    ("stream", "named"),
    [
        (b"c__builtin__\neval\n.", "builtins.eval"),
        (b"ccommands\ngetoutput\n.", "subprocess.getoutput"),
        (b"\x80\x03c__builtin__\neval\n.", "__builtin__.eval"),
        (b"\x80\x04V\\u006f\\u0073\nVs\\u0079stem\n\x93.", "os.system"),
        (b"\x80\x04S'\\157\\163'\nS\"sys\\x74em\"\n\x93.", "os.system"),
        (b"\x80\x04c_codecs\ndecode\n\x8c\x02so\x85R\x8c\x06system\x93.", "<computed>.system"),
        (b"\x82\x07.", "copyreg._extension_registry.7"),
    ],
)
def test_names_are_read_however_they_are_written(stream: bytes, named: str) -> None:
    assert str(trace(stream).names[-1].name) == named


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (b"", "ends before its STOP opcode (at byte 0)"),
        (b"\x80\x02cos\nsystem\n)R", "ends before its STOP opcode (at byte 15)"),
        (b"\x80\x02cos\nsystem\n)R\xff", "unknown opcode 0xff (at byte 15)"),
        (b"\x80\x020cos\nsystem\n)R.", "takes from an empty stack (at byte 2)"),
        (b"\x80\x02h\x09cos\nsystem\n)R.", "looks for 9 in its memo, where nothing is (at byte 2)"),
        (b"\x80\x02tcos\nsystem\n)R.", "looks for a mark that is not there (at byte 2)"),
        (b"\x80\x09cos\nsystem\n)R.", "declares the protocol 9, which there is not (at byte 0)"),
        (b"\x80\x05\x97cos\nsystem\n)R.", "takes a buffer from outside of the file (at byte 2)"),
    ],
)
def test_names_are_found_although_the_stream_breaks(stream: bytes, error: str) -> None:
    found = trace(stream)
    assert found.error == error
    assert [str(named.name) for named in found.names] == ["os.system"] * bool(stream)


def test_both_readings_of_a_crossed_frame_are_found() -> None:
    # The frame ends inside of the name: the C unpickler loses the first four letters.
    stream = b"\x80\x04\x95" + (8).to_bytes(8, "little") + b"cos\nxxxxsystem\n)R."
    assert looked_up(stream) == ["os.system"]
    found = trace(stream)
    assert [str(named.name) for named in found.names] == ["os.xxxxsystem", "os.system"]
    assert found.error == "an opcode crosses the end of its frame"
    with pytest.raises(CompatError, match="an opcode crosses the end of its frame"):
        vet(stream)


def test_a_frame_inside_of_another_is_refused() -> None:
    stream = b"\x80\x04\x95" + (11).to_bytes(8, "little") + b"\x95" + (2).to_bytes(8, "little") + b"N."
    assert trace(stream).error
    with pytest.raises(CompatError, match="a frame begins inside of another"):
        vet(stream)


def test_bytes_that_are_a_pickle_themselves_are_kept() -> None:
    inner = pickle.dumps(Shell(), 2)
    for protocol in (2, 3, 5):
        assert [content for _, content in trace(pickle.dumps({"a": inner}, protocol)).inner] == [inner]
