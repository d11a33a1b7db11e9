"""What a pickle stream may ask for, and what it is refused before it runs."""

from __future__ import annotations

import pickle
import pickletools
import tracemalloc

import pytest

from compat.errors import Corrupt, Unsupported
from compat.pickles import Limits, vet
from tests.compat.making import doubled


@pytest.mark.parametrize("protocol", range(6))
def test_what_python_writes_passes_and_ends_where_it_ends(protocol: int) -> None:
    value = {"a": [1, 2.5, None, True, 1 << 80, -3], ("k", (1, b"b")): {1, "x"}, "d": {i: str(i) for i in range(2000)}}
    stream = pickle.dumps(value, protocol)
    assert vet(stream + b"rest") == len(stream)
    assert vet(b"rest" + stream, 4) == 4 + len(stream)


def test_what_is_optimized_by_pickletools_passes() -> None:
    shared = ["x"] * 3
    stream = pickletools.optimize(pickle.dumps([shared, shared, list(range(300))], 2))
    assert vet(stream) == len(stream)


def test_every_opcode_of_python_is_known() -> None:
    from compat.pickles.vet import _EFFECTS

    assert set(_EFFECTS) == {ord(code.code) for code in pickletools.opcodes}


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"", "ends before its STOP"),
        (b"}", "ends before its STOP"),
        (b"K", "ends inside an opcode's argument"),
        (b"X\xff\xff\xff\xffabc.", "a value of 4,294,967,295 bytes is declared"),
        (b"\x8d" + b"\xff" * 8 + b".", "bytes is declared"),
        (b"\x95" + b"\x00\x00\x00\x00\x01\x00\x00\x00.", "a frame of 4,294,967,296 bytes is declared"),
        (b"Nr\xff\xff\xff\x7f.", "memo index 2,147,483,647 after 1 bytes"),
        (b"Np5000000\n.", "memo index 5,000,000 after 1 bytes"),
        (b"Np-1\n.", "memo index b'-1'"),
        (b"Np" + b"9" * 30 + b"\n.", "memo index b'9"),
        (b"h\x00.", "memo index 0 was never stored"),
        (b"cmodule\nname", "a text argument has no end"),
        (b"q\x00.", "stack underflow"),
        (b"2.", "stack underflow"),
        (b"0.", "stack underflow"),
        (b"N(\x85.", "stack underflow"),
        (b"t.", "no mark on the stack"),
        (b"\xfe.", "unknown opcode 0xfe"),
    ],
)
def test_a_broken_stream_says_where_it_breaks(stream: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match="the pickle stream is damaged") as caught:
        vet(stream, source="file")
    assert message in str(caught.value)
    assert caught.value.offset is not None


@pytest.mark.parametrize("stream", [b"\x82\x01.", b"\x83\x01\x00.", b"\x84\x01\x00\x00\x00.", b"\x97.", b"N\x98."])
def test_what_lies_outside_the_file_is_unsupported(stream: bytes) -> None:
    with pytest.raises(Unsupported) as caught:
        vet(stream)
    assert caught.value.feature == "pickle-extension"


def test_a_stream_behind_which_much_follows_gets_no_larger_memo() -> None:
    with pytest.raises(Corrupt, match="memo index"):
        vet(b"Nr\x00\x00\x10\x00." + bytes(1 << 22))


@pytest.mark.parametrize("use", [b"}%sNs", b"}(%sNu", b"(%sNd", b"\x8f(%s\x90", b"(%s\x91"])
def test_a_doubled_tuple_is_no_key(use: bytes) -> None:
    few, many = doubled(b"", b"\x86", 4), doubled(b"", b"\x86", 50)
    # The tuples below the topmost are dropped, so that only one key is on the stack.
    vet(b"\x80\x02" + use.replace(b"%s", few[:-2]) + b".") if b"(" not in use else None
    with pytest.raises(Corrupt, match=r"over and over|nested too deep"):
        vet(b"\x80\x02" + use.replace(b"%s", many) + b".")


def test_a_tuple_that_is_no_key_may_be_doubled() -> None:
    stream = b"\x80\x02" + doubled(b"", b"\x86", 50) + b"."
    assert vet(stream) == len(stream)


def test_keys_as_people_have_them_pass() -> None:
    stream = pickle.dumps({(i, ("name", (i, i + 1)), frozenset({i})): i for i in range(1000)}, 4)
    assert vet(stream) == len(stream)


def test_the_depth_of_a_key_is_limited() -> None:
    for depth, fits in ((90, True), (110, False)):
        stream = b"\x80\x02})" + b"\x85" * depth + b"Ns."
        if fits:
            assert vet(stream) == len(stream)
        else:
            with pytest.raises(Corrupt, match="nested too deep"):
                vet(stream)


def test_the_number_of_steps_is_limited() -> None:
    assert vet(b"NNN.", limits=Limits(opcodes=4)) == 4
    with pytest.raises(Corrupt, match="more than 3 opcodes"):
        vet(b"NNN.", limits=Limits(opcodes=3))


def test_vetting_takes_little_memory() -> None:
    stream = b"\x80\x02" + doubled(b"", b"\x86", 200)[: 5 + 200 * 7] + b")" * 50_000 + b"."
    tracemalloc.start()
    try:
        vet(stream)
        assert tracemalloc.get_traced_memory()[1] < 64 * len(stream)
    finally:
        tracemalloc.stop()
