"""Scans list what a file names, in every container and in hostile ones, and give lines that load it."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import compat
from compat.dangers import ERROR, HARMLESS, WARNING, judge
from compat.errors import Corrupt, Unreadable
from compat.pickles.shadows import Named
from compat.records import GlobalName
from tests.compat.making import name, text, torch_dumped, zipped
from tests.compat.tars import archive, members

MAGIC = 0x1950A86A20F9469CFC6C


class Shell:
    """Reduces to a call of os.system."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


class Inside:
    """An object that is given a state with a call in it."""

    def __init__(self) -> None:
        self.deep = {"call": [Shell()]}


EVIL = pickle.dumps(Shell(), 2)
GOOD = pickle.dumps({}, 2)
LEGACY: tuple[Any, ...] = (MAGIC, 1001, {"little_endian": True}, {"a": 1}, [])


def zip_of(records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as writer:
        for record, content in records.items():
            writer.writestr(record, content)
    return buffer.getvalue()


def executed(file: bytes) -> list[str]:
    return [found.name for found in compat.scan(file).executed]


def legacy_of(*replaced: tuple[int, bytes]) -> bytes:
    """A legacy file, some of whose five pickles are others."""
    pickles: list[bytes] = [pickle.dumps(value, 2) for value in LEGACY]
    for index, stream in replaced:
        pickles[index] = stream
    return b"".join(pickles)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(("value", "path"), [(Shell(), "a"), ([1, Shell()], "a.1"), (Inside(), "a.state.deep.call.0")])
def test_calls_are_found_where_they_are(value: Any, path: str, is_zip: bool, protocol: int) -> None:
    file = torch_dumped({"t": torch.ones(2), "a": value}, zipped=is_zip, protocol=protocol)
    found = compat.scan(file)
    assert found.exit_code == 1
    (worst,) = [one for one in found.findings if one.severity == ERROR]
    assert (worst.name, worst.paths, worst.uses, worst.count) == ("posix.system", (path,), ("called",), 1)
    assert worst.stream == ("archive/data.pkl" if is_zip else "pickle 4")
    assert worst.file_offset is not None
    assert file[worst.file_offset : worst.file_offset + 1] in (b"c", b"\x93")


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_is_scanned(protocol: int) -> None:
    found = compat.scan(pickle.dumps({"a": Shell()}, protocol))
    assert (found.format, found.exit_code, found.error) == ("pickle", 1, None)
    assert [one.paths for one in found.executed] == [("a",)]
    assert compat.scan(pickle.dumps({"a": 1}, protocol)).exit_code == 0


@pytest.mark.parametrize("index", range(5))
def test_every_pickle_of_a_legacy_file_is_scanned(index: int) -> None:
    assert executed(legacy_of((index, EVIL))) == ["posix.system"]
    # The call's result is thrown away, and what the reader expects follows.
    hidden = EVIL[:-1] + b"0" + pickle.dumps(LEGACY[index], 2)[2:]
    file = legacy_of((index, hidden))
    found = compat.scan(file)
    assert (found.format, found.exit_code) == ("torch-legacy", 1)
    assert [(one.name, one.paths) for one in found.executed] == [("posix.system", ())]


@pytest.mark.parametrize("member", ["pickle", "tensors", "storages", "sys_info"])
def test_every_member_of_a_tar_archive_is_scanned(member: str) -> None:
    content = members({"w": torch.ones(2)})
    content[member] = EVIL + content[member]
    found = compat.scan(archive(content))
    assert [one.name for one in found.executed] == ["posix.system"]
    assert found.exit_code == (1 if member == "pickle" else 2)


def test_a_tar_archive_of_other_things_is_scanned() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("model/weights.pkl")
        info.size = len(EVIL)
        tar.addfile(info, io.BytesIO(EVIL))
    found = compat.scan(buffer.getvalue())
    assert [(one.name, one.stream) for one in found.executed] == [("posix.system", "model/weights.pkl")]


@pytest.mark.parametrize(
    ("records", "stream"),
    [
        ({"archive/data.pkl": EVIL}, "archive/data.pkl"),
        ({"archive/data.pkl": GOOD, "archive/extra.pkl": EVIL}, "archive/extra.pkl"),
        ({"archive/data.pkl": GOOD, "archive/.hidden": EVIL}, "archive/.hidden"),
        ({"a/data.pkl": GOOD, "b/c/data.pkl": EVIL}, "b/c/data.pkl"),
        ({"outer/model.pt": zip_of({"archive/data.pkl": EVIL})}, "outer/model.pt: archive/data.pkl"),
        ({"archive/data.pkl": pickle.dumps({"b": EVIL}, 3)}, "archive/data.pkl: bytes at 13"),
        ({"archive/data.pkl": GOOD, "archive/two.pkl": GOOD + EVIL}, "archive/two.pkl: pickle 2"),
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_record_of_an_archive_is_scanned(records: dict[str, bytes], stream: str, method: int) -> None:
    found = compat.scan(zip_of(records, method))
    assert [(one.name, one.stream) for one in found.executed] == [("posix.system", stream)]
    assert found.exit_code == 1


def test_arrays_of_objects_are_scanned() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, plain=np.ones(2), objects=np.array([Shell()], dtype=object))
    found = compat.scan(buffer.getvalue())
    assert [(one.name, one.stream, one.paths) for one in found.executed] == [
        ("posix.system", "objects.npy", (".state.4.0",))
    ]


def falsified(change: Callable[[bytearray, int], None], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive whose directory says something else; `change` is given where its first entry stands."""
    file = bytearray(zip_of({"archive/data.pkl": EVIL, "archive/version": b"3"}, method))
    change(file, file.index(b"PK\x01\x02"))
    return bytes(file)


def _cut(file: bytearray, directory: int) -> None:
    del file[directory + 20 :]


def _flag(offset: int) -> Callable[[bytearray, int], None]:
    def change(file: bytearray, directory: int) -> None:
        file[directory + offset] ^= 1

    return change


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "change",
    [_cut, _flag(8), _flag(10), _flag(16), _flag(42), _flag(47)],
    ids=["cut", "encrypted", "method", "sum", "offset", "name"],
)
def test_names_are_listed_although_the_archive_breaks(change: Callable[[bytearray, int], None], method: int) -> None:
    found = compat.scan(falsified(change, method))
    assert [one.name for one in found.executed] == ["posix.system"]
    assert found.error is not None
    assert found.exit_code == 2


def test_what_lies_too_deep_is_not_vouched_for() -> None:
    file = GOOD
    for _ in range(7):
        file = zip_of({"archive/data.pkl": GOOD, "archive/inner.pt": file})
    found = compat.scan(file)
    assert found.exit_code == 2
    assert "lies too deep in archives" in str(found.error)


def test_records_that_inflate_without_end_are_not_vouched_for() -> None:
    bomb = zip_of({"archive/data.pkl": GOOD, "archive/big.pkl": bytes(80 << 20)}, zipfile.ZIP_DEFLATED)
    found = compat.scan(bomb)
    assert found.exit_code == 2
    assert "inflate to more than 32 times" in str(found.error)


@pytest.mark.parametrize("body", [b")R", b")R}b", b"}", b"(N", b"]", b"N\x94", b"ca\nb\n0"])
def test_long_streams_take_little(body: bytes) -> None:
    stream = b"\x80\x04" + name("os.system") + body * 60_000
    found = compat.scan(stream)
    assert (found.exit_code, found.executed[0].name) == (2, "os.system")


def test_names_are_listed_although_the_stream_breaks() -> None:
    for file in (EVIL[:-1], EVIL[:-1] + b"\xff", zipped(EVIL[2:-1] + b"\xff")):
        found = compat.scan(file)
        assert [one.name for one in found.executed] == ["posix.system"]
        assert isinstance(found.error, Corrupt)
        assert found.exit_code == 2


def test_a_file_that_is_also_a_pickle_is_scanned_as_one() -> None:
    # The header's length is the opcode BINUNICODE and a length, which leads behind the header.
    head = json.dumps({"__metadata__": {"a": "A" * (0x10058 - 25)}}, separators=(",", ":")).encode()
    begin = struct.pack("<Q", len(head)) + head
    assert begin[:1] == b"X"
    skipped = 5 + int.from_bytes(begin[1:5], "little")
    file = begin[:skipped] + name("os.system") + text("true") + b"\x85R." + begin[skipped:]
    found = compat.scan(file)
    assert [one.name for one in found.executed] == ["os.system"]


@pytest.mark.parametrize("file", [b"", b"plain text\n" * 9, b"\x00" * 64, b"code,name\nchair,3\n" * 4])
def test_what_is_no_checkpoint_is_unreadable_and_names_nothing(file: bytes) -> None:
    found = compat.scan(file)
    assert (found.exit_code, found.findings, found.streams) == (2, (), 0)


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Unreadable):
        compat.scan(tmp_path / "none.pt")


@given(st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", EVIL, zip_of({"a/data.pkl": EVIL})]))
def test_any_bytes_are_scanned(noise: bytes, begin: bytes) -> None:
    found = compat.scan(begin + noise)
    assert found.exit_code in (0, 1, 2)
    json.dumps(found.to_json(), default=str)


@given(st.data())
def test_a_call_is_found_in_damaged_archives(data: st.DataObject) -> None:
    file = bytearray(zip_of({"archive/data.pkl": EVIL, "archive/version": b"3"}))
    begin, end = file.index(EVIL), file.index(EVIL) + len(EVIL)
    at = data.draw(st.sampled_from([n for n in range(len(file)) if not (n < 4 or begin - 16 <= n < end)]))
    file[at] ^= 1 << data.draw(st.integers(0, 7))
    found = compat.scan(bytes(file))
    assert [one.name for one in found.executed] == ["posix.system"] or found.exit_code == 2


@pytest.mark.parametrize(
    ("module", "qualname", "protocol", "severity"),
    [
        ("os", "system", 2, ERROR),
        ("nt", "system", 2, ERROR),
        ("builtins", "getattr", 2, ERROR),
        ("builtins", "eval", 2, ERROR),
        ("subprocess", "Popen", 2, ERROR),
        ("runpy", "_run_code", 2, ERROR),
        ("torch", "hub.load", 4, ERROR),
        ("torch", "serialization.os.system", 4, ERROR),
        ("torch.storage", "_load_from_bytes", 2, ERROR),
        ("functools", "partial", 2, ERROR),
        ("operator", "attrgetter", 2, ERROR),
        ("codecs", "decode", 2, ERROR),
        ("_codecs", "decode", 2, ERROR),
        ("<computed>", "system", 4, ERROR),
        ("_codecs", "encode", 2, HARMLESS),
        ("collections", "OrderedDict", 2, HARMLESS),
        ("numpy.core.multiarray", "scalar", 2, HARMLESS),
        ("numpy.dtypes", "Float64DType", 2, HARMLESS),
        ("torch._utils", "_rebuild_tensor_v2", 2, HARMLESS),
        ("torch.distributed.checkpoint.metadata", "Metadata", 2, HARMLESS),
        ("torch.distributed.checkpoint.metadata", "os.system", 4, ERROR),
        ("torch.nn.modules.linear", "Linear", 2, WARNING),
        ("code.models", "Net", 2, WARNING),
        ("my.package", "os", 2, WARNING),
        ("copyreg._extension_registry", "7", 2, WARNING),
    ],
)
def test_names_are_judged(module: str, qualname: str, protocol: int, severity: str) -> None:
    assert judge(Named(GlobalName(module, qualname), "", 0, protocol, frozenset({"called"}))).severity == severity


def test_a_class_that_is_given_a_state_itself_is_dangerous() -> None:
    (found,) = compat.scan(b"\x80\x02" + name("collections.OrderedDict") + b"}b.").executed
    assert (found.severity, found.uses) == (ERROR, ("changed",))


def test_uses_and_places_are_counted() -> None:
    found = compat.scan(torch_dumped({"model": {f"w{n}": torch.ones(1) for n in range(20)}}))
    rebuilt = next(one for one in found.findings if one.name == "torch._utils._rebuild_tensor_v2")
    assert (rebuilt.places, len(rebuilt.paths), rebuilt.paths[0]) == (20, 10, "model.w0")
    assert (rebuilt.severity, rebuilt.allowed_since, found.exit_code) == (HARMLESS, "1.13", 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's, about TorchScript
def test_code_that_is_no_pickle_is_told() -> None:
    class Writes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.from_file("nothing", size=1)

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Writes()), buffer)
    found = compat.scan(buffer.getvalue())
    assert (found.format, found.exit_code) == ("torchscript", 0)
    assert any("reads or writes files when it is run: from_file" in note for note in found.notes)
    assert any(one.reason.startswith("is defined by the archive's own") for one in found.findings)


def test_formats_without_code_say_so(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    compat.save({"a": torch.ones(2)}, path)
    found = compat.scan(path)
    assert (found.exit_code, found.streams) == (0, 0)
    assert found.notes == ("safetensors holds numbers and text, and nothing that could run",)


def test_shards_are_scanned(tmp_path: Path) -> None:
    shard = tmp_path / "model-00001-of-00001.bin"
    shard.write_bytes(torch_dumped({"a": torch.ones(2), "b": Shell()}))
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": shard.name}}))
    found = compat.scan(index)
    assert [one.name for one in found.executed] == ["posix.system"]


def test_folders_of_distributed_checkpoints_are_scanned(tmp_path: Path) -> None:
    distributed: Any = pytest.importorskip("torch.distributed.checkpoint")
    writer = distributed.FileSystemWriter(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about processes that are not there
        distributed.save({"w": torch.ones(2), "item": [Shell()]}, storage_writer=writer)
    found = compat.scan(tmp_path)
    assert (found.format, found.exit_code) == ("dcp", 1)
    assert [(one.name, one.stream, one.paths) for one in found.executed] == [
        ("posix.system", "__0_0.distcp: archive/data.pkl", ("0",))
    ]
    (tmp_path / ".metadata").write_bytes(EVIL)
    found = compat.scan(tmp_path)
    assert found.exit_code == 2
    assert ("posix.system", ".metadata") in [(one.name, one.stream) for one in found.executed]


def test_what_a_module_state_may_lack_is_told() -> None:
    module = torch.nn.Linear(1, 1)
    module.register_state_dict_post_hook(json.dumps)  # type: ignore[no-untyped-call]  # torch's
    notes = compat.scan(torch_dumped(module)).notes
    assert notes == (
        "without the classes, its state_dict may lack something: the module has 1 state_dict hooks, which were not run",
    )
