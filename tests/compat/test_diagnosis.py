"""What is no checkpoint is named, what is damaged is explained, and what is read is never called unknown."""

from __future__ import annotations

import base64
import bz2
import contextlib
import gzip
import io
import lzma
import pickle
import random
import re
import shutil
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

import compat
from compat.errors import CompatError, Corrupt, UnknownFormat, Unsupported
from tests.compat.making import REAL, dumped, torch_dumped

STATE = {"a": torch.arange(4096.0), "b": torch.arange(1000.0).sin()}
ZIP = torch_dumped(STATE)
LEGACY = torch_dumped(STATE, zipped=False)
SAFETENSORS = dumped(STATE, "safetensors")


def said(content: bytes, tmp_path: Path, name: str = "model.pt") -> CompatError:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CompatError) as caught:
        compat.open(path)
    assert str(caught.value).isprintable()
    return caught.value


def packed(entries: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(entries: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def varint(value: int) -> bytes:
    made = b""
    while value > 0x7F:
        made, value = made + bytes([value & 0x7F | 0x80]), value >> 7
    return made + bytes([value])


def message(number: int, *parts: bytes) -> bytes:
    """A field of a protocol buffer message that is a message itself."""
    content = b"".join(parts)
    return varint(number << 3 | 2) + varint(len(content)) + content


def flax() -> bytes:
    """`flax.serialization.to_bytes({"params": {"kernel": np.zeros(3, np.float32)}})`, by its own rules."""
    array = b"\x93\x91\x03\xa7float32\xc4\x0c" + bytes(12)
    return b"\x81\xa6params\x81\xa6kernel\xc7" + bytes([len(array)]) + b"\x01" + array


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345678\n"
NODE = message(1, message(1, b"input"), message(2, b"Placeholder"))

# What it is → its bytes, what the message says, what the next step says.
FOREIGN: dict[str, tuple[bytes, str, str]] = {
    "html": (b"<!DOCTYPE html>\n<title>Sign in\n</title>", "is an HTML page, 'Sign in'", "login"),
    "html with a mark before it": (b"\xef\xbb\xbf<html>", "is an HTML page", "login"),
    "s3 error": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "says 'AccessDenied'", "link"),
    "http answer": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nPK", "web server, headers and all", "without -i"),
    "json": (b'{"architectures": ["X"], "model_type": "b"}', "is JSON text with ['architectures'", "another file"),
    "json error": (b'{"error": "Repository not found"}', "is JSON text with ['error']", "login"),
    "json that is cut": (b'{"a": [1, 2', "is JSON text", "another file"),
    "yaml": (b"# settings\nmodel:\n  type: resnet\n  depth: 50\nlist:\n  - a\n", "is YAML text", "another file"),
    "python": (b"import torch\n\nclass Net(torch.nn.Module):\n    pass\n", "is Python source", "another file"),
    "text": ("Grüße, this is a README.\n".encode(), "is plain text: 'Grüße, this", "meant"),
    "base64": (base64.encodebytes(ZIP), "a zip archive written as Base64", "base64 -d"),
    "tensorflow list": (b'model_checkpoint_path: "model.ckpt-1"\n', "TensorFlow checkpoint's files", "TensorFlow"),
    "git-lfs": (LFS, "which has 12,345,678 bytes (sha256:4d7a214614ab2935", "git lfs pull --include"),
    "git-annex": (b"/annex/objects/SHA256E-s1048576--3e54eeb72aa3.pt\n", "1,048,576 bytes", "git annex get"),
    "git-annex link": (b"../.git/annex/objects/Zk/2x/MD5-s10--01/MD5-s10--01", "git-annex pointer", "git annex get"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(88), "is an HDF5 file", "keras"),
    "npy": (saved(np.ones(3)), "is a single numpy array", "numpy.load"),
    "tflite": (b"\x1c\0\0\0TFL3\x14\0" + bytes(50), "is a TensorFlow Lite model", "TensorFlow"),
    "ggml": (b"lmgg" + bytes(60), "is a model in the old GGML format", "GGUF"),
    "ggjt": (b"tjgg\x03\0\0\0" + bytes(60), "is a model in the old GGJT format", "GGUF"),
    "rar": (b"Rar!\x1a\x07\x01\0" + bytes(20), "is a RAR archive", "unrar x"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(20), "is a 7-Zip archive", "7z x"),
    "pdf": (b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", "is a PDF document", "meant"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is a PNG image", "meant"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "is a JPEG image", "meant"),
    "elf": (Path(sys.executable).resolve().read_bytes()[:4096], "is a program or a shared library", "compiled"),
    "tensorflow index": (bytes(90) + b"\1" * 38 + 0xDB4775248B80FB57.to_bytes(8, "little"), "checkpoint's table", ""),
    "saved model": (b"\x08\x01" + message(2, message(1, b""), message(2, NODE)), "SavedModel's graph", "beside it"),
    "frozen graph": (NODE + message(1, message(1, b"w"), message(2, b"Const")), "frozen TensorFlow graph", ""),
    "core ml": (b"\x08\x04" + message(2, message(1, b"\x0a\x05image")) + message(500, b"\x0a\x03abc"), "Core ML", ""),
    "flax": (flax(), "is a Flax checkpoint (MessagePack)", "msgpack_restore"),
    "pickle 4": (pickle.dumps({"a": np.ones(3)}, 4), "is a pickle (protocol 4)", "compat scan"),
    "pickle 2": (pickle.dumps([1, 2, 3], 2), "is a pickle (protocol 2)", "executes what it says"),
    "pickle 0": (b"(dp0\nVa\np1\ncposix\nsystem\np2\ns.", "whose first name is 'posix.system'", "compat scan"),
    "tensors in a pickle": (pickle.dumps(STATE, 5), "'torch._utils._rebuild_tensor_v2'", "executes what it says"),
    "scikit-learn": (b"\x80\x03csklearn.svm._classes\nSVC\n)\x81}b.", "'sklearn.svm._classes.SVC'", "joblib"),
    "zip": (packed({"readme.txt": b"hello"}), "holds no checkpoint: 'readme.txt'", "unzip -l"),
    "empty zip": (packed({"a/": b""}), "a zip archive with nothing in it", "again"),
    "zip around one": (
        packed({"__MACOSX/._model.pt": b"x" * 90, "readme": b"hello", "x/my model.pt": ZIP}),
        "around 'x/my model.pt', a zip file as torch.save writes it",
        "'x/my model.pt'",
    ),
    "stored zip around one": (
        packed({"m.safetensors": SAFETENSORS}, zipfile.ZIP_STORED),
        "around 'm.safetensors', a checkpoint (safetensors)",
        "unzip",
    ),
    "docx": (packed({"[Content_Types].xml": b"<", "word/document.xml": b"<"}), "an office document", ""),
    "jar": (packed({"META-INF/MANIFEST.MF": b"", "A.class": b""}), "a Java archive", ""),
    "keras": (packed({"config.json": b"{}", "model.weights.h5": b"\x89HDF"}), "a Keras model", "keras"),
    "mar": (packed({"MAR-INF/MANIFEST.json": b"{}", "model.pt": ZIP}), "TorchServe", "unzip"),
    "wheel": (packed({"a/__init__.py": b"", "a-1.dist-info/WHEEL": b""}), "a Python wheel", "pip"),
    "tar": (tarred({"readme.txt": b"hello"}), "a tar archive that holds no checkpoint: 'readme.txt'", "tar -tf"),
    "tar around one": (tarred({"readme": b"hi", "model.pt": LEGACY}), "around 'model.pt'", "tar -xf"),
    "nemo": (tarred({"./model_config.yaml": b"a: 1", "./model_weights.ckpt": ZIP}), "a NeMo model", "tar -xf"),
    "utf-16": (b"\xff\xfe" + ZIP.decode("latin-1").encode("utf-16-le"), "became UTF-16", "PowerShell"),
    "zeros": (bytes(10_000), "is nothing but zeros: all 10,000 bytes", "reserved"),
    "zeros at first": (bytes(10_000) + ZIP[10_000:], "its first 10,0", "reserved"),
    "the end of a zip": (ZIP[5000:], "of which the first 5,000 bytes are missing", "again"),
    "a zip behind something": (b"\x01junk" + ZIP, "with 5 bytes of something else before it", "tail -c +6"),
    "nothing known": (bytes(range(128, 200)), "it begins with 80 81 82", "meant"),
    "one byte": (b"\x80", "has 1 byte;", ""),
    "empty": (b"", "is empty", "again"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_checkpoint_is_named_with_the_next_step(kind: str, tmp_path: Path) -> None:
    content, seen, hint = FOREIGN[kind]
    error = said(content, tmp_path, "some file")
    assert isinstance(error, UnknownFormat)
    assert seen in str(error)
    assert hint in (error.hint or "")
    assert "FILE" not in str(error)
    assert str(compat_error(content)).count("; expected one of ") == 1  # the same without a name


def compat_error(content: bytes) -> CompatError:
    with pytest.raises(CompatError) as caught:
        compat.open(content)
    return caught.value


COMPRESSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    ".gz": (gzip.compress, "gzip"),
    ".bz2": (bz2.compress, "bzip2"),
    ".xz": (lzma.compress, "xz"),
    ".z": (zlib.compress, "zlib"),
}


@pytest.mark.parametrize("suffix", COMPRESSED)
@pytest.mark.parametrize(
    ("content", "inside"),
    [
        (ZIP, "a zip file as torch.save writes it"),
        (LEGACY, "a checkpoint (torch-legacy)"),
        (SAFETENSORS, "a checkpoint (safetensors)"),
        (b"<html>", "an HTML page"),
    ],
    ids=["zip", "legacy", "safetensors", "html"],
)
def test_what_is_compressed_is_named_and_the_command_unpacks_it(
    suffix: str, content: bytes, inside: str, tmp_path: Path
) -> None:
    compress, kind = COMPRESSED[suffix]
    error = said(compress(content), tmp_path, f"my model.pt{suffix}")
    assert f"is {kind}-compressed; inside begins {inside}" in str(error)
    command = (error.hint or "").removeprefix("Unpack it first: ")
    program = command.split()[0]
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    subprocess.run(["sh", "-c", command], check=True)
    assert (tmp_path / "my model.pt").read_bytes() == content


@pytest.mark.parametrize(
    "head", [b"\x28\xb5\x2f\xfd\x04\x58\0\0", b"\x04\x22\x4d\x18\x64\x40\0\0", b"\x1f\x8b\x08rest"]
)
def test_what_cannot_be_unpacked_here_is_named_all_the_same(head: bytes, tmp_path: Path) -> None:
    assert re.search("is (zstd|lz4|gzip)-compressed; expected", str(said(head, tmp_path)))


def test_a_compressed_tar_archive_names_its_first_member(tmp_path: Path) -> None:
    error = said(gzip.compress(tarred({"a/model.pt": ZIP})), tmp_path, "x.tar.gz")
    assert "inside begins a tar archive of 'a/model.pt'" in str(error)
    subprocess.run(["sh", "-c", (error.hint or "").removeprefix("Unpack it first: ")], check=True, cwd=tmp_path)
    assert (tmp_path / "a" / "model.pt").read_bytes() == ZIP


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = gzip.compress(gzip.compress(bytes(1 << 26)))
    assert "inside begins gzip" not in str(said(bomb, tmp_path))
    assert "nothing but zeros" not in str(said(zlib.compress(bytes(1 << 26)), tmp_path))


def test_an_encrypted_record_is_named(tmp_path: Path) -> None:
    content = bytearray(packed({"model/data.pkl": b"hello"}))
    at = content.find(b"PK\x01\x02")
    content[at + 8] |= 1
    content[6] |= 1
    error = said(bytes(content), tmp_path)
    assert isinstance(error, Unsupported)
    assert "record 'model/data.pkl' is encrypted" in str(error)
    assert "asks for the password" in str(error)


# What torch writes beside the storages: each with a header and a sum behind it.
RECORDS = [(f"archive/data/{n}", tensor.numel() * tensor.element_size()) for n, tensor in enumerate(STATE.values())]


@pytest.mark.parametrize("cut", [100, 400, 1000, 5000, 15_000, 17_500, 20_000, len(ZIP) - 700, len(ZIP) - 1])
def test_how_much_of_a_cut_zip_is_missing(cut: int, tmp_path: Path) -> None:
    error = said(ZIP[:cut], tmp_path)
    assert isinstance(error, Corrupt)
    assert error.hint is not None
    assert "cut short" in error.hint
    found = re.search(r"at least ([\d,]+) bytes of tensors are missing", str(error))
    if found is None:
        is_behind = cut > data_starts()[1] + RECORDS[1][1]
        assert ("no tensor is missing" if is_behind else "cannot be told") in str(error)
        return
    # Exactly the bytes of the storages: what else is missing, headers and the directory, can only be more.
    tensors = sum(
        size - max(0, min(size, cut - start)) for (_, size), start in zip(RECORDS, data_starts(), strict=True)
    )
    assert int(found[1].replace(",", "")) == tensors <= len(ZIP) - cut


def data_starts() -> list[int]:
    with zipfile.ZipFile(io.BytesIO(ZIP)) as archive:
        starts = []
        for name, _ in RECORDS:
            at = archive.getinfo(name).header_offset
            starts.append(at + 30 + sum(int.from_bytes(ZIP[at + n : at + n + 2], "little") for n in (26, 28)))
        return starts


def test_how_much_of_any_cut_zip_is_missing(tmp_path: Path) -> None:
    content = packed({"a/version": b"3", "a/data.pkl": b"\x80\x02}.", "a/data/0": bytes(range(256)) * 40}, 0)
    missing = content.find(bytes(range(256))) + 256 * 40 - 5500
    assert f"at least {missing:,} bytes are missing" in str(said(content[:5500], tmp_path))
    assert "inside 'a/data/0', behind 2 whole records" in str(said(content[:5500], tmp_path))


def test_how_much_of_a_cut_legacy_file_is_missing(tmp_path: Path) -> None:
    whole = dumped(STATE, "torch-legacy")  # torch puts storages in the order of their addresses
    error = said(whole[:-6000], tmp_path)
    assert "1,992 of its 16,384 bytes are missing, and the 4,008 bytes behind it" in str(error)
    assert f"expected {len(whole):,} bytes in all" in str(error)
    between = len(whole) - 4004
    assert "4,000 of its 4,000 bytes are missing; " in str(said(whole[:between], tmp_path))
    assert "cut short" in str(said(whole[:200], tmp_path))


def test_how_much_of_a_cut_safetensors_file_is_missing(tmp_path: Path) -> None:
    assert "1,234 bytes of tensors are missing" in str(said(SAFETENSORS[:-1234], tmp_path))
    assert "ends inside its header" in str(said(SAFETENSORS[:100], tmp_path))


def onnx_like(size: int) -> bytes:
    tensor = (
        b"\x08" + varint(size // 4) + b"\x10\x01" + message(8, b"w") + message(9, bytes(range(256)) * (size // 256))
    )
    return b"\x08\x08" + message(7, message(5, tensor))


def test_how_much_of_a_cut_onnx_model_is_missing(tmp_path: Path) -> None:
    content = onnx_like(25_600)
    with compat.open(content) as checkpoint:
        assert checkpoint.format == "onnx"
    error = said(content[:-7777], tmp_path)
    assert isinstance(error, Corrupt)
    assert f"at least 7,777 of {len(content):,} bytes are missing" in str(error)


NOISE = torch_dumped(torch.frombuffer(bytearray(random.Random(0).randbytes(40_000)), dtype=torch.uint8))
BINARY = {
    "zip": NOISE,
    "legacy": torch_dumped(torch.randn(3000), zipped=False),
    "safetensors": dumped([torch.randn(3000)], "safetensors"),
}


@pytest.mark.parametrize("form", BINARY)
def test_a_file_that_went_through_a_text_program_is_known(form: str, tmp_path: Path) -> None:
    content = BINARY[form]
    assert re.search(
        r"read as text and written again, which replaced [\d,]+ bytes for good",
        str(said(content.decode("utf-8", "replace").encode(), tmp_path)),
    )
    error = said(content.decode("latin-1").encode(), tmp_path)
    assert "taken for Latin-1" in str(error)
    if form != "safetensors":  # its header has no line to break
        assert "transferred as text" in str(said(content.replace(b"\n", b"\r\n"), tmp_path))
    if shutil.which("iconv"):
        said(content.decode("latin-1").encode(), tmp_path)
        subprocess.run(["sh", "-c", (error.hint or "").removeprefix("That can be undone: ")], check=True)
        assert (tmp_path / "model.pt.new").read_bytes() == content


@pytest.mark.parametrize("form", ["zip", "safetensors"])
def test_a_download_that_began_anew_is_known_and_its_whole_part_is_found(form: str, tmp_path: Path) -> None:
    content = BINARY[form]
    error = said(content[:5_000] + content, tmp_path)
    assert "its first bytes stand in it again at byte 5,000" in str(error)
    command = (error.hint or "").rpartition("or ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    assert (tmp_path / "model.pt.new").read_bytes() == content


def test_a_zip_whose_tail_was_never_written_is_known(tmp_path: Path) -> None:
    error = said(ZIP[:10_000] + bytes(len(ZIP) - 10_000), tmp_path)
    assert re.search(rf"its last [\d,]+ of {len(ZIP):,} bytes are zero", str(error))


def test_a_name_alone_speaks_where_the_bytes_say_nothing(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(400)
    error = said(noise, tmp_path, "model.ckpt.data-00000-of-00001")
    assert "by its name the data of a TensorFlow checkpoint" in str(error)
    assert "TensorFlow" not in str(said(noise, tmp_path, "model.ckpt"))


def test_a_folder_names_what_could_be_opened_in_it(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match="It holds no files"):
        compat.open(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UnknownFormat, match=r"It holds notes.txt; none is named like a checkpoint"):
        compat.open(tmp_path)
    (tmp_path / "model.PT").write_bytes(ZIP)
    with pytest.raises(UnknownFormat, match=r"It holds model.PT; name one of them"):
        compat.open(tmp_path)


def test_a_part_of_a_distributed_checkpoint_points_to_its_folder(tmp_path: Path) -> None:
    described = b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81}b."
    assert "Open the folder" in str(said(described, tmp_path, ".metadata"))
    assert "open the folder" in str(said(ZIP[:9000] + ZIP + LEGACY, tmp_path, "__0_0.distcp"))


def test_what_is_read_is_not_diagnosed() -> None:
    if not REAL.is_dir():
        pytest.skip("no ../shared/real here")
    for path in REAL.iterdir():
        if path.suffix != ".md":
            with compat.open(path) as checkpoint:
                assert not [note for note in checkpoint.notes if "named" in note], path


def test_damage_is_explained_without_a_stumble() -> None:
    """Whatever bytes there are, the explanation is of our own type."""
    draw = random.Random(2)
    samples = [content for content, _, _ in FOREIGN.values() if content] + [ZIP, LEGACY, SAFETENSORS, onnx_like(2560)]
    for content in samples:
        for _ in range(12):
            spoiled = bytearray(content[: draw.randrange(1, min(len(content), 6000) + 1)])
            for _ in range(draw.randrange(4)):
                spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with contextlib.suppress(CompatError):
                    compat.open(bytes(spoiled)).close()
