"""Legacy files: what torch wrote and cannot read, old layouts, and damage without sums."""

from __future__ import annotations

import io
import struct

import pytest
import torch

import compat
from compat.errors import CompatError, Corrupt, Unsupported
from tests.compat.making import (
    dumped,
    known_dtypes,
    legacy,
    name,
    number,
    raw,
    storage_id,
    storage_of,
    tensor,
    text,
    torch_dumped,
)

FLOATS = struct.pack("<4f", 1, 2, 3, 4)
ONE_KEY = b"](" + text("0") + b"e"
NEW_DTYPES = known_dtypes(
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float4_e2m1fn_x2",
    "uint16",
    "uint32",
    "uint64",
    "complex32",
    "bits8",
    "bits16",
)


def one_storage(body: bytes, data: bytes = struct.pack("<Q", 4) + FLOATS) -> bytes:
    return legacy(body, ONE_KEY, data)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", NEW_DTYPES, ids=str)
def test_dtypes_that_torch_writes_and_cannot_read_back(dtype: torch.dtype, protocol: int) -> None:
    content = torch.arange(8 * torch.empty(0, dtype=dtype).element_size(), dtype=torch.uint8)
    state = {"whole": content.view(dtype), "view": content.view(dtype)[2:6:2]}
    file = torch_dumped(state, zipped=False, protocol=protocol)
    with pytest.raises(AttributeError, match="no attribute 'dtype'"):
        torch.load(io.BytesIO(file), weights_only=False)
    loaded = compat.load(file)
    assert loaded["whole"].dtype == dtype
    assert loaded["whole"].view(torch.uint8).tolist() == content.tolist()
    assert (loaded["view"].stride(), loaded["view"].storage_offset()) == ((2,), 2)
    assert storage_of(loaded["view"]).data_ptr() == storage_of(loaded["whole"]).data_ptr()


def test_a_file_made_by_hand_is_read() -> None:
    assert compat.load(one_storage(tensor()))[1:].tolist() == [2, 3, 4]


def view(key: bytes, offset: int, size: int) -> bytes:
    """A storage that is a view of storage 0, as torch 0.2 and 0.3 wrote them."""
    whole = text("storage") + name("torch.FloatStorage") + text("0") + text("cpu") + number(4)
    return b"(" + whole + b"(" + key + number(offset) + number(size) + b"ttQ"


def test_views_of_storages_are_read() -> None:
    rebuild = name("torch._utils._rebuild_tensor") + b"(" + view(text("1"), 1, 2) + b"K\x00K\x02\x85K\x01\x85tR"
    assert compat.load(one_storage(rebuild)).tolist() == [2, 3]
    itself = name("torch._utils._rebuild_tensor") + b"(" + view(text("0"), 0, 4) + b"K\x00K\x04\x85K\x01\x85tR"
    assert compat.load(one_storage(itself)).tolist() == [1, 2, 3, 4]


def rebuilt(storage: bytes, offset: bytes = b"K\0", size: bytes = b"K\2") -> bytes:
    return name("torch._utils._rebuild_tensor") + b"(" + storage + offset + size + b"\x85K\1\x85tR"


def test_views_share_the_storage_that_they_are_part_of() -> None:
    part = view(text("1"), 1, 3)
    whole = name("torch._utils._rebuild_tensor") + b"(" + view(text("0"), 0, 4) + b"K\0K\4\x85K\1\x85tR"
    loaded = compat.load(one_storage(b"](" + rebuilt(part) + rebuilt(part, b"K\1") + whole + part + b"e"))
    loaded[2][2] = 9
    assert [tensor.tolist() for tensor in loaded[:3]] == [[2, 9], [9, 4], [1, 2, 9, 4]]
    assert list(loaded[3]) == [2, 3, 4]


@pytest.mark.parametrize("bad", [rebuilt(view(text("1"), 1, 2), b"K\1"), rebuilt(view(text("1"), 1, 1)),
                                 rebuilt(view(text("1"), 1, 2), b"J\xff\xff\xff\xff")])  # fmt: skip
def test_a_tensor_outside_its_view_is_refused(bad: bytes) -> None:
    with pytest.raises(Corrupt, match=r"view 1|storage_offset -1"):
        compat.open(one_storage(bad))


def test_a_storage_that_is_also_a_part_is_refused() -> None:
    other = storage_id(key="1")
    with pytest.raises(Corrupt, match="storage 1 is said to be a part of storage 0"):
        compat.open(legacy(b"](" + other + view(text("1"), 1, 2) + b"e"))


def test_many_large_views_of_one_storage_are_refused() -> None:
    def views(count: int) -> bytes:
        return b"](" + b"".join(view(text(f"v{n}"), 0, 4) for n in range(count)) + b"e"

    assert len(compat.load(one_storage(views(3)))) == 3
    content = bytes(4 << 20)
    body = b"".join(view(text(f"v{n}"), 0, 1 << 20).replace(number(4), number(1 << 20), 1) for n in range(20))
    with pytest.raises(Unsupported, match="20 parts of storages"):
        compat.open(one_storage(b"](" + body + b"e", struct.pack("<Q", 1 << 20) + content))


@pytest.mark.parametrize("bad", [view(text("1"), 3, 2), view(text("1"), -1, 2), view(b"]", 0, 1), view(b")", 0, 1)])
def test_views_outside_their_storage_are_refused(bad: bytes) -> None:
    with pytest.raises(Corrupt, match="view"):
        compat.open(one_storage(bad))


def big_endian(file: bytes) -> bytes:
    """The file as a big-endian machine says it wrote it."""
    return file.replace(text("little_endian") + b"\x88", text("little_endian") + b"\x89")


@pytest.mark.parametrize("count", ["<Q", ">Q"])
def test_a_big_endian_writer_is_read(count: str) -> None:
    """Its elements are little-endian, as torch/csrc/serialization.cpp makes them; their number is not, before 1.9."""
    file = big_endian(one_storage(tensor(), struct.pack(count, 4) + FLOATS))
    assert compat.load(file).tolist() == [1, 2, 3, 4]
    with compat.open(file) as checkpoint:
        assert checkpoint.metadata["byteorder"] == "big"
    assert not compat.diff(file, one_storage(tensor()))


def test_torch_does_not_ask_who_wrote_it_either() -> None:
    file = torch_dumped(torch.arange(4.0), zipped=False)
    at = file.index(b"\x88", file.index(b"little_endian"))
    file = file[:at] + b"\x89" + file[at + 1 :]
    assert torch.load(io.BytesIO(file), weights_only=True).tolist() == compat.load(file).tolist() == [0, 1, 2, 3]


def test_complex_numbers_of_a_big_endian_writer_are_refused() -> None:
    """Torch reverses all eight bytes of a complex64 there, and writes nothing sensible for complex128."""
    body = tensor(kind="torch.ComplexFloatStorage", numel=2, shape=(2,))
    assert compat.load(one_storage(body, struct.pack("<Q", 2) + FLOATS)).tolist() == [1 + 2j, 3 + 4j]
    with pytest.raises(Unsupported, match="big-endian machine"):
        compat.open(big_endian(one_storage(body, struct.pack("<Q", 2) + FLOATS)))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (legacy(tensor(), b"]", struct.pack("<Q", 4) + FLOATS), "list of storages is not that of the content"),
        (legacy(b"N", ONE_KEY, struct.pack("<Q", 4) + FLOATS), "list of storages is not that of the content"),
        (legacy(tensor(), b"](" + text("0") * 2 + b"e"), "list of storages is not that of the content"),
        (legacy(tensor(), b"N"), "list of storages is None"),
        (one_storage(tensor(), struct.pack("<Q", 5) + FLOATS), "has 5 elements of 4 bytes"),
        (one_storage(tensor(), struct.pack("<Q", 4) + FLOATS[:-1]), "1 of its 16 bytes are missing"),
        (one_storage(tensor(), b"\4\0\0"), "16 of its 16 bytes are missing"),
        (one_storage(tensor(shape=(5,))), "needs 20 bytes of a storage of 16"),
        (one_storage(tensor(numel=1 << 70)), "a storage is described by"),
        (one_storage(tensor(numel=-1)), "a storage is described by"),
        (one_storage(tensor()).replace(b"M\xe9\x03.", b"M\xe8\x03."), "begins with"),
    ],
)
def test_what_does_not_fit_is_refused(file: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        compat.open(file)


def test_what_follows_is_noted() -> None:
    with compat.open(one_storage(tensor()) + b"rest") as checkpoint:
        assert checkpoint.notes == ["4 bytes follow the checkpoint"]


def test_a_stream_longer_than_the_first_piece_is_read() -> None:
    state = {str(index): f"{index:0100}" for index in range(20_000)}
    assert len(dumped(state, "torch-legacy")) > 1 << 20
    assert compat.load(dumped(state, "torch-legacy")) == state


def test_a_flipped_byte_changes_nothing_but_itself() -> None:
    """The format has no sums: a byte of a tensor may come back changed, in its place and nowhere else."""
    state = {"a": torch.arange(8, dtype=torch.uint8), "b": torch.arange(4, dtype=torch.int16)}
    file = dumped(state, "torch-legacy")
    begin = file.index(raw(state["a"]))
    for position in range(begin, begin + 8):
        damaged = bytearray(file)
        damaged[position] ^= 0x10
        loaded = compat.load(bytes(damaged))
        changed = [index for index in range(8) if loaded["a"][index] != state["a"][index]]
        assert changed == [position - begin]
        assert torch.equal(loaded["b"], state["b"])


def test_a_storage_alone_comes_back_typed() -> None:
    loaded = compat.load(one_storage(storage_id()))
    assert isinstance(loaded, torch.storage.TypedStorage)
    assert list(loaded) == [1, 2, 3, 4]


def test_the_whole_module_form_of_old_torch_gives_what_it_holds() -> None:
    """`("module", class, source file, source)` stood before every class of torch up to 1.5."""
    body = (
        b"(" + text("module") + name("m.Net") + text("net.py") + text("import os") + b"tQ)R}" + text("w") + b"K\x01sb"
    )
    with compat.open(legacy(body)) as checkpoint:
        assert checkpoint.globals == ("m.Net",)
        assert checkpoint.tree.state == {"w": 1}
    with pytest.raises(CompatError, match=r"m\.Net"):
        compat.load(legacy(body))
