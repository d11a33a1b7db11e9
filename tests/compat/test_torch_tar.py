"""Archives of torch 0.1, written from the rules by which torch reads them to this day."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import compat
from compat.checkpoint import Opaque
from compat.errors import CompatError, Corrupt, UnknownFormat, UnsafeGlobals, Unsupported
from tests.compat.making import name, text
from tests.compat.tars import archive, members
from tests.compat.telling import told

BASE = torch.arange(12.0).reshape(3, 4)


def state() -> dict[str, Any]:
    weights = OrderedDict(
        w=BASE, t=BASE.t(), row=BASE[1], i=torch.arange(3), d=torch.ones(2, 0, 3, dtype=torch.float64)
    )
    return {"state": weights, "bytes": torch.tensor([1, 255], dtype=torch.uint8), "epoch": 3, "empty": torch.empty(0)}


def read_by_torch(file: bytes, folder: Path) -> Any:
    """What torch makes of it; only files on disk are read as archives."""
    path = folder / "by_torch.tar"
    path.write_bytes(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, weights_only=False)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_an_archive_is_read_as_torch_reads_it(protocol: int, tmp_path: Path) -> None:
    file = archive(members(state(), protocol=protocol))
    loaded = compat.load(file)
    assert told(loaded) == told(state()) == told(read_by_torch(file, tmp_path))
    with compat.open(file) as checkpoint:
        assert checkpoint.format == "torch-tar"
        assert checkpoint.metadata == {"byteorder": "little", "protocol_version": 1000}
        assert not checkpoint.notes


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("protocol", [0, 2])
def test_parameters_are_read_in_both_of_their_forms(protocol: int, early: bool, tmp_path: Path) -> None:
    parameters = {"p": torch.nn.Parameter(BASE), "q": torch.nn.Parameter(BASE[1:], requires_grad=False)}
    file = archive(members(parameters, protocol=protocol, early=early))
    assert told(compat.load(file)) == told(parameters)
    assert told(read_by_torch(file, tmp_path)) == told(parameters)


def test_a_class_that_came_with_its_source_is_named() -> None:
    """`(class, file, source)` stood before every container of torch 0.1."""
    module = b"(" + name("m.Net") + text("net.py") + text("import os") + b"tQ"
    content = members({}) | {"pickle": b"\x80\x02" + module + b")R}" + text("w") + b"K\x01sb."}
    with compat.open(archive(content)) as checkpoint:
        assert isinstance(checkpoint.tree, Opaque)
        assert (checkpoint.tree.name, checkpoint.tree.state) == ("m.Net", {"w": 1})
        assert "m.Net" in checkpoint.globals
    with pytest.raises(UnsafeGlobals, match=r"m\.Net"):
        compat.load(archive(content))


def test_a_tensor_without_a_storage_is_empty() -> None:
    key = 5
    content = members({}) | {
        "tensors": pickle.dumps(1, 2)
        + pickle.dumps((key, None, torch.LongTensor), 2)
        + struct.pack("<iiq", 0, 0, 0)[:8],
        "pickle": b"\x80\x02" + text(str(key)) + b"Q.",
    }
    content["tensors"] = content["tensors"][:-8] + struct.pack("<iiqqq", 1, 0, 0, 1, 0)
    loaded = compat.load(archive(content))
    assert (loaded.dtype, loaded.shape) == (torch.int64, (0,))


def test_it_converts_and_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(archive(members(state())))
    for target in ("y.pt", "y.safetensors"):
        compat.convert(tmp_path / "x.pth", tmp_path / target)
        assert told(compat.load(tmp_path / target)) == told(state())
    with pytest.raises(Unsupported, match="can be read, not written"):
        compat.save(state(), tmp_path / "z.pt", format="torch-tar")


# What does not fit


def changed(member: str, content: bytes) -> bytes:
    return archive(members({"t": BASE}) | {member: content})


def dump(*values: Any) -> bytes:
    return b"".join(value if isinstance(value, bytes) else pickle.dumps(value, 2) for value in values)


STORAGE = (1, "cpu", torch.FloatStorage)
FOUR = struct.pack("<q4f", 4, 1, 2, 3, 4)


def tensor_of(*numbers: int, key: Any = 9, storage: Any = 1, ndim: int = 1) -> bytes:
    return dump(
        1, (key, storage, torch.FloatTensor), struct.pack("<ii", ndim, 0), struct.pack(f"<{len(numbers)}q", *numbers)
    )


def small(storages: bytes = dump(1, STORAGE, FOUR, []), tensors: bytes | None = None, pid: str = "9") -> bytes:
    described = tensor_of(4, 1, 0) if tensors is None else tensors
    return archive({"pickle": b"\x80\x02" + text(pid) + b"Q.", "storages": storages, "tensors": described})


def test_the_smallest_archive_is_read() -> None:
    assert compat.load(small()).tolist() == [1, 2, 3, 4]
    assert compat.load(small(pid="1")).tolist() == [1, 2, 3, 4]


def test_views_of_storages_are_read(tmp_path: Path) -> None:
    file = small(dump(1, STORAGE, FOUR, [(2, 1, 1, 3)]), tensor_of(2, 1, 1, storage=2))
    assert compat.load(file).tolist() == read_by_torch(file, tmp_path).tolist() == [3, 4]
    with compat.open(file) as checkpoint:
        (record,) = checkpoint.tensors.values()
        assert (record.storage.key, record.storage_offset) == ("1", 2)
    of_a_view = small(dump(1, STORAGE, FOUR, [(2, 1, 1, 3), (3, 2, 1, 2)]), tensor_of(2, 1, 0, storage=3))
    assert compat.load(of_a_view).tolist() == read_by_torch(of_a_view, tmp_path).tolist() == [3, 4]
    bare = small(dump(1, STORAGE, FOUR, [(2, 1, 1, 3)]), pid="2")
    assert list(compat.load(bare)) == list(read_by_torch(bare, tmp_path)) == [2, 3, 4]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (small(storages=dump(-1)), "says it holds -1 things"),
        (small(storages=dump(1 << 62)), "things"),
        (small(storages=dump("x")), "things"),
        (small(storages=dump(2, STORAGE, FOUR, [])), "storage is described by"),
        (small(storages=dump(2, STORAGE, FOUR, STORAGE, FOUR, [])), "a key is 1"),
        (small(storages=dump(1, ("x", "cpu", torch.FloatStorage), FOUR, [])), "a key is"),
        (small(storages=dump(1, (1, "cpu", torch.FloatTensor), FOUR, [])), "storage is described by"),
        (small(storages=dump(1, (1, 2, torch.FloatStorage), FOUR, [])), "storage is described by"),
        (small(storages=dump(1, STORAGE, struct.pack("<q", 5), FOUR[8:])), "4 bytes too early"),
        (small(storages=dump(1, STORAGE, struct.pack("<q", -1), FOUR[8:])), "too early"),
        (small(storages=dump(1, STORAGE, FOUR)), "ends before its STOP"),
        (small(storages=dump(1, STORAGE, FOUR, 5)), "views of storages are 5"),
        (small(storages=dump(1, STORAGE, FOUR, [5])), "view of a storage is described by 5"),
        (small(storages=dump(1, STORAGE, FOUR, [(2, 3, 0, 1)])), "view of a storage is described by"),
        (small(storages=dump(1, STORAGE, FOUR, [(2, 1, -1, 1)])), "view of a storage is described by"),
        (small(storages=dump(1, STORAGE, FOUR, [(2, 1, 3, 2)])), "reaches outside it"),
        (small(storages=dump(1, STORAGE, FOUR, [(1, 1, 0, 1)])), "a key is 1"),
        (small(tensors=tensor_of(5, 1, 0)), "needs 20 bytes of a storage of 16"),
        (small(tensors=tensor_of(4, 1, 1)), "needs 20 bytes of a storage of 16"),
        (small(tensors=tensor_of(-4, 1, 0)), "natural numbers"),
        (small(tensors=tensor_of(4, 1, 0, ndim=65)), "65 dimensions"),
        (small(tensors=tensor_of(4, 1, 0, ndim=-1)), "-1 dimensions"),
        (small(tensors=tensor_of(4, 1, ndim=1)), "too early"),
        (small(tensors=tensor_of(4, 1, 0, storage=2)), "refers to the storage 2"),
        (small(tensors=tensor_of(4, 1, 0, storage="1")), "refers to the storage '1'"),
        (small(tensors=tensor_of(4, 1, 0, storage=None)), "needs 16 bytes of a storage of 0"),
        (small(tensors=tensor_of(4, 1, 0, key=1)), "a key is 1"),
        (small(pid="8"), "persistent id is 8"),
        (small(pid="x"), "persistent id is 'x'"),
        (small(pid="1" * 10_000), "persistent id is"),
        (changed("sys_info", dump([])), "facts of the writer"),
    ],
)
def test_what_does_not_fit_is_refused(file: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        compat.open(file)


def test_a_big_endian_machine_is_refused() -> None:
    with pytest.raises(Unsupported, match="big-endian"):
        compat.open(changed("sys_info", dump({"little_endian": False})))


# The archive itself


def linked(info: tarfile.TarInfo) -> None:
    if info.name == "storages":
        info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0


def sparse(info: tarfile.TarInfo) -> None:
    info.pax_headers = {"GNU.sparse.realsize": str(1 << 60)}


def too_large(info: tarfile.TarInfo) -> None:
    info.pax_headers = {"size": str(1 << 40)}


def long_header(info: tarfile.TarInfo) -> None:
    info.pax_headers = {"comment": "x" * 70_000}


@pytest.mark.parametrize(
    ("change", "message", "error"),
    [
        (linked, "no known format|tar", UnknownFormat),
        (sparse, "sparse", Corrupt),
        (too_large, "bytes are missing", Corrupt),
        (long_header, "extended header has", Corrupt),
    ],
)
def test_members_that_lead_elsewhere_are_refused(
    change: Callable[[tarfile.TarInfo], None], message: str, error: type[CompatError]
) -> None:
    with pytest.raises(error, match=message):
        compat.open(archive(members(state()), change))


def test_two_members_of_one_name_are_refused() -> None:
    buffer = io.BytesIO(archive(members(state())))
    with tarfile.open(fileobj=buffer, mode="a:") as tar:
        tar.addfile(tarfile.TarInfo("storages"), io.BytesIO(b""))
    with pytest.raises(Corrupt, match="two members are named 'storages'"):
        compat.open(buffer.getvalue())


def test_where_its_members_lie_in_it_does_not_matter(tmp_path: Path) -> None:
    content = members(state())
    for order in (sorted(content), sorted(content, reverse=True)):
        file = archive({"README": b"x", **{key: content[key] for key in order}})
        assert told(compat.load(file)) == told(state()) == told(read_by_torch(file, tmp_path))


def test_another_archive_is_no_checkpoint() -> None:
    with pytest.raises(UnknownFormat):
        compat.open(archive({"README": b"nothing to see"}))


def test_a_wrong_sum_of_a_header_is_seen() -> None:
    file = bytearray(archive(members(state())))
    file[1024 + 100] ^= 1
    with pytest.raises(CompatError):
        compat.open(bytes(file))


def test_damage_gives_an_error_of_ours_or_a_value() -> None:
    """There are no sums: a flipped bit of a tensor comes back, in its place; everything else is seen or harmless."""
    file = archive(members(state()))
    for size in range(0, len(file), 511):
        try:
            loaded = compat.load(file[:size])
        except CompatError:
            continue
        assert told(loaded) == told(state())
    for at in range(0, len(file), 13):
        broken = bytearray(file)
        broken[at] ^= 1 << at % 8
        try:
            compat.load(bytes(broken), on_unknown="keep", map_location="cpu")
        except CompatError:
            continue
