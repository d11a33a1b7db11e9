"""What streams call to make tensors: of other devices, of parts that do not fit, by ids of protocol 0."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
import torch

import compat
from compat.checkpoint import Opaque, path_text, walk
from compat.errors import Corrupt, UnsafeGlobals, Unsupported
from tests.compat.making import legacy, name, number, storage_id, tensor, text, torch_dumped, zipped

# What other devices wrote


def from_numpy(
    dtype: str, code: str, content: bytes, device: str = "xla:0", call: str = "_rebuild_xla_tensor"
) -> bytes:
    """The opcodes of a tensor of a device without storages, given as a numpy array of two elements."""
    kind = (
        name("numpy.dtype")
        + text(code)
        + b"K\0K\1\x87R(K\3"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    empty = name("numpy.core.multiarray._reconstruct") + name("numpy.ndarray") + b"K\0\x85C\1b\x87R"
    array = empty + b"(K\1K\2\x85" + kind + b"\x89C" + bytes([len(content)]) + content + b"tb"
    return name(f"torch._utils.{call}") + b"(" + array + name(f"torch.{dtype}") + text(device) + b"\x89tR"


@pytest.mark.parametrize("call", ["_rebuild_xla_tensor", "_rebuild_device_tensor_from_numpy", "_rebuild_mlc_tensor"])
def test_tensors_of_other_devices_given_by_numpy_are_read(call: str) -> None:
    content = torch.tensor([1.5, -2.0]).numpy().tobytes()
    for dtype, code in (("float32", "f4"), ("bfloat16", "f4")):
        file = zipped(from_numpy(dtype, code, content, call=call))
        loaded = compat.load(file, map_location="cpu")
        assert (loaded.dtype, loaded.tolist()) == (getattr(torch, dtype), [1.5, -2.0])
        with compat.open(file) as checkpoint:
            assert next(iter(checkpoint.tensors.values())).storage.device == "xla:0"
        with pytest.raises(Unsupported, match="xla:0"):
            compat.load(file)


def test_what_is_given_with_another_dtype_is_refused() -> None:
    third = torch.tensor([1 / 3, 1.0]).numpy().tobytes()
    for dtype in ("bfloat16", "float16", "int32"):
        with pytest.raises(Corrupt, match=rf"a tensor of {dtype} is given as a numpy array of <f4"):
            compat.open(zipped(from_numpy(dtype, "f4", third)))


def test_tensors_of_other_devices_given_by_a_copy_are_read() -> None:
    body = name("torch._utils._rebuild_device_tensor_from_cpu_tensor") + b"(" + tensor() + name("torch.float32")
    file = zipped(body + text("maia:1") + b"\x88tR", {"data/0": torch.arange(4.0).numpy().tobytes()})
    loaded = compat.load(file, map_location="cpu")
    assert (loaded.tolist(), loaded.requires_grad) == ([0, 1, 2, 3], True)
    with pytest.raises(Unsupported, match="maia:1"):
        compat.load(file)


# What the parts may say

PARTS = {
    "a jagged tensor of nothing": b"}",
    "a jagged tensor without offsets": b"}" + text("values") + b"Ns" + text("offsets") + b"Ns",
    "a jagged tensor of texts": b"}" + text("values") + text("x") + b"s" + text("offsets") + text("y") + b"s",
}


@pytest.mark.parametrize("key", PARTS)
def test_a_jagged_tensor_of_something_else_is_refused(key: str) -> None:
    module = "torch.nested._internal.nested_tensor"
    call = name("torch._tensor._rebuild_from_type_v2") + b"(" + name(f"{module}._rebuild_njt")
    with pytest.raises(Corrupt, match="jagged"):
        compat.open(zipped(call + name(f"{module}.NestedTensor") + PARTS[key] + b"\x85}tR"))


@pytest.mark.parametrize("offsets", [[0, 2, 9], [-1, 2, 5], [0, 4, 2], [3, 2, 5]])
def test_a_jagged_tensor_that_reaches_outside_is_refused(offsets: list[int]) -> None:
    rows = [torch.ones(2, 2), torch.full((3, 2), 2.0)]
    file = torch_dumped(torch.nested.nested_tensor(rows, layout=torch.jagged))
    old, new = (torch.tensor(numbers).numpy().tobytes() for numbers in ([0, 2, 5], offsets))
    assert file.count(old) == 1
    damaged = without_sums(file.replace(old, new))
    with pytest.raises(Corrupt, match="jagged"):
        compat.load(damaged)


def without_sums(file: bytes) -> bytes:
    """The same archive with right sums for wrong content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            with old.open(info) as record:
                record._expected_crc = None  # type: ignore[attr-defined]  # CPython's, to read what is damaged
                new.writestr(info.filename, record.read())
    return buffer.getvalue()


def test_half_bytes_that_do_not_begin_at_their_storage_are_refused() -> None:
    quantizer = b"(" + name("torch.per_tensor_affine") + b"G" + b"\x3f\xe0" + bytes(6) + b"K\0t"
    place = storage_id(kind="torch.QUInt4x2Storage", numel=4) + b"K\2K\4\x85K\1\x85"
    body = (
        name("torch._utils._rebuild_qtensor")
        + b"("
        + place
        + quantizer
        + b"\x89"
        + name("collections.OrderedDict")
        + b")RtR"
    )
    with pytest.raises(Unsupported, match="does not begin and end with its storage"):
        compat.open(zipped(body, {"data/0": bytes(4)}))


def test_more_half_bytes_than_the_storage_has_are_refused() -> None:
    quantizer = b"(" + name("torch.per_tensor_affine") + b"G" + b"\x3f\xe0" + bytes(6) + b"K\0t"
    place = storage_id(kind="torch.QUInt4x2Storage", numel=4) + b"K\0K\x09\x85K\1\x85"
    body = (
        name("torch._utils._rebuild_qtensor")
        + b"("
        + place
        + quantizer
        + b"\x89"
        + name("collections.OrderedDict")
        + b")RtR"
    )
    with pytest.raises(Corrupt, match="needs 5 bytes of a storage of 4"):
        compat.open(zipped(body, {"data/0": bytes(4)}))


def test_a_legacy_view_may_be_told_by_protocol_0() -> None:
    """Torch 0.2 wrote views of storages; by protocol 0 each id is one line of text, and the key may be a number."""
    line = b"P('storage', <class 'torch.FloatStorage'>, '5', 'cpu', 4, (7L, 1, 2))\n"
    body = name("torch._utils._rebuild_tensor") + b"(" + line + b"K\0K\2\x85K\1\x85tR"
    data = (4).to_bytes(8, "little") + torch.arange(4.0).numpy().tobytes()
    assert compat.load(legacy(body, b"](" + text("5") + b"e", data)).tolist() == [1, 2]


@pytest.mark.parametrize(
    "line",
    [
        b"('storage', <class 'os.system'>, '5', 'cpu', 4)",
        b"('storage', <class 'torch.FloatStorage'>, '5', 'cpu', -4)",
        b"('storage', <class 'torch.FloatStorage'>, __import__('os'), 'cpu', 4)",
        b"('storage', <class 'torch.FloatStorage'>, '5', 'cpu', 4); x",
        b"5",
        b"",
    ],
)
def test_a_line_that_is_no_id_is_refused(line: bytes) -> None:
    with pytest.raises(Corrupt, match=r"persistent id|storage is described"):
        compat.open(zipped(b"P" + line + b"\n"))


def test_a_class_with_its_source_is_named_by_protocol_0() -> None:
    module = b"P('module', <class 'm.Net'>, 'net.py', 'class Net:\\n    pass')\n"
    made_of = b"ccopy_reg\n_reconstructor\n(" + module + b"c__builtin__\nobject\nNtR}" + text("w") + number(1) + b"sb"
    with compat.open(legacy(made_of)) as checkpoint:
        assert "m.Net" in checkpoint.globals
        assert (str(checkpoint.tree.name), checkpoint.tree.state) == ("m.Net", {"w": 1})
        assert [path_text(path) for path, leaf in walk(checkpoint.tree) if isinstance(leaf, Opaque)] == [
            "(the whole file)"
        ]


def test_sizes_that_torch_1_0_made_are_read() -> None:
    """It pickled them as objects of their class, by NEWOBJ, which only takes classes."""
    for made in (b"\x81", b"R"):
        body = name("torch.Size") + b"K\2K\3\x86\x85" + made
        assert compat.load(zipped(body)) == torch.Size([2, 3])
        assert type(compat.load(zipped(body))) is torch.Size
    with pytest.raises(Corrupt, match=r"torch\.Size"):
        compat.open(zipped(name("torch.Size") + text("x") + b"\x85\x81"))
    with pytest.raises(UnsafeGlobals, match=r"torch\.Size"):
        compat.load(zipped(name("torch.Size")))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [
        ("per_channel_affine", torch.float64),
        ("per_channel_affine_float_qparams", torch.float32),
    ],
)
def test_scales_that_were_written_as_a_list_keep_their_digits(scheme: str, dtype: torch.dtype) -> None:
    """As torch 2.1 to 2.4 wrote them; 0.1 is another number in float32."""
    numbers = b"](" + b"".join(b"G" + struct.pack(">d", value) for value in (0.1, 0.2)) + b"e"
    quantizer = b"(" + name(f"torch.{scheme}") + numbers + b"](K\1K\2eK\0t"
    place = storage_id(kind="torch.QUInt8Storage", numel=4) + b"K\0K\2K\2\x86K\2K\1\x86"
    hooks = name("collections.OrderedDict") + b")R"
    file = zipped(
        name("torch._utils._rebuild_qtensor") + b"(" + place + quantizer + b"\x89" + hooks + b"tR",
        {"data/0": bytes(4), "version": b"3\n"},
    )
    loaded = compat.load(file)
    assert loaded.q_per_channel_scales().dtype == dtype
    assert str(loaded.qscheme()) == f"torch.{scheme}"
    assert loaded.q_per_channel_scales().tolist() == torch.tensor([0.1, 0.2], dtype=dtype).tolist()
    assert loaded.q_per_channel_zero_points().tolist() == [1, 2]
