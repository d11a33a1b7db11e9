"""The contents axis: what a checkpoint can hold that a format, a writer or a reader might get wrong.

Each content shows its feature in every draw, by construction, and is otherwise random; what another content
is about stays out of it, so that a failure points at one feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from matrix.choices import Choices
from matrix.draft import Draft, contiguous
from matrix.extras import empty_bytes, json_extras, optimizer, python_extras
from matrix.nodes import DictNode, ODictNode, TensorNode
from matrix.spec import ITEMSIZES, CheckpointSpec, to_node

# Infinities' bits (exponent all ones) and the mantissa's, by dtype: what a NaN is made of.
_NAN_BITS: Final = {
    "float32": (0x7F80_0000, 0x007F_FFFF),
    "float64": (0x7FF0_0000_0000_0000, 0x000F_FFFF_FFFF_FFFF),
    "float16": (0x7C00, 0x03FF),
    "bfloat16": (0x7F80, 0x007F),
}
_FLOATS: Final = tuple(_NAN_BITS)
_BIG: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """One value of the contents axis.

    Attributes:
        name: as cell ids show it; summary: one sentence.
        draw: makes a spec, its storages numbered as describe() numbers them.
        features: what every draw holds.
    """

    name: str
    summary: str
    draw: Callable[[Choices], CheckpointSpec]
    features: frozenset[str]


def _state_dict(feature: Callable[[Draft], None]) -> Callable[[Choices], CheckpointSpec]:
    """Return the draw of a state_dict that holds a feature among one to six plain tensors."""

    def draw(choices: Choices) -> CheckpointSpec:
        draft = Draft(choices)
        draft.add_plain(0, 3)
        feature(draft)
        draft.add_plain(1, 3)
        return draft.finish(draft.state_dict())

    return draw


def _dtype(name: str) -> Callable[[Draft], None]:
    return lambda draft: draft.add(draft.tensor(name, draft.shape()))


def _zero_dim(draft: Draft) -> None:
    draft.add(draft.tensor(draft.choices.pick(("float32", "int64", "float16", "bool")), ()))


def _empty(draft: Draft) -> None:
    size = draft.choices.integer(1, 4)
    draft.add(draft.tensor(draft.choices.pick(("float32", "int64")), (0,)))
    draft.add(draft.tensor("float32", draft.choices.pick(((0, size), (size, 0), (size, 0, 2)))))


def _noncontiguous(draft: Draft) -> None:
    dtype = draft.choices.pick(("float32", "int64", "float16", "uint8"))
    rows, columns = draft.choices.integer(2, 4), draft.choices.integer(2, 4)
    draft.add(draft.view(draft.elements(dtype, rows * columns), dtype, (columns, rows), (1, columns)))
    count, step = draft.choices.integer(2, 4), draft.choices.integer(2, 3)
    draft.add(draft.view(draft.elements(dtype, count * step), dtype, (count,), (step,)))


def _channels_last(draft: Draft) -> None:
    n = draft.choices.integer(1, 2)
    c, h, w = (draft.choices.integer(2, 3) for _ in range(3))
    storage = draft.elements("float32", n * c * h * w)
    draft.add(draft.view(storage, "float32", (n, c, h, w), (c * h * w, 1, w * c, c)))


def _expanded(draft: Draft) -> None:
    size, times = draft.choices.integer(1, 4), draft.choices.integer(2, 5)
    draft.add(draft.view(draft.elements("float32", size), "float32", (times, size), (0, 1)))


def _overlapping(draft: Draft) -> None:
    windows, width = draft.choices.integer(2, 4), draft.choices.integer(2, 4)
    size = windows + width - 1
    storage = draft.elements("float32", size)
    draft.add(draft.view(storage, "float32", (windows, width), (1, 1)))
    draft.add(draft.view(storage, "float32", (size - 1,), (1,), 1))


def _shared_storage(draft: Draft) -> None:
    tied = draft.tensor(draft.choices.pick(("float32", "float16", "int64")), draft.shape())
    for _ in range(draft.choices.integer(2, 3)):
        draft.add(tied)
        draft.add_plain(0, 1)


def _partial_views(draft: Draft) -> None:
    dtype = draft.choices.pick(("float32", "int64", "float16"))
    cut, rest = draft.choices.integer(1, 4), draft.choices.integer(1, 4)
    both = draft.elements(dtype, cut + rest)
    draft.add(draft.view(both, dtype, (cut,), (1,)))
    draft.add(draft.view(both, dtype, (rest,), (1,), cut))
    # A slice of something larger: the bytes around it are in the storage, and no tensor shows them.
    before, after = draft.choices.integer(1, 3), draft.choices.integer(1, 3)
    hiding = draft.elements(dtype, before + rest + after)
    draft.add(draft.view(hiding, dtype, (rest,), (1,), before))


def _nan_payload(draft: Draft) -> None:
    for dtype in ("float32", draft.choices.pick(_FLOATS[1:])):
        exponent, mantissa = _NAN_BITS[dtype]
        width, count = ITEMSIZES[dtype], draft.choices.integer(1, 4)
        raw = draft.choices.bytes(width * count)
        data = b""
        for at in range(0, len(raw), width):
            bits = int.from_bytes(raw[at : at + width], "little") | exponent
            data += (bits if bits & mantissa else bits | 1).to_bytes(width, "little")
        draft.add(draft.view(draft.storage(data), dtype, (count,), (1,)))


def _negative_zero(draft: Draft) -> None:
    for dtype in ("float32", draft.choices.pick(_FLOATS[1:])):
        zero, count = bytes(ITEMSIZES[dtype] - 1), draft.choices.integer(1, 4)
        data = (zero + b"\x80") * count + zero + b"\x00"
        draft.add(draft.view(draft.storage(data), dtype, (count + 1,), (1,)))


def _odd_keys(draft: Draft) -> None:
    long = "long." * draft.choices.integer(60, 80)
    for key in (
        "",
        "ключ.重み.🙂",
        "line\nbreak",
        "..",
        f"dots...{draft.choices.text()}",
        long,
        "tab\t\x00\x7f",
    ):
        draft.add(draft.plain(), key)


def _reserved_keys(draft: Draft) -> None:
    draft.add(draft.plain(), "__metadata__")


def _colliding_keys(draft: Draft) -> None:
    draft.add({"b": draft.plain()}, "a")
    draft.add(draft.plain(), "a.b")


def _int_keys(choices: Choices) -> CheckpointSpec:
    draft = Draft(choices)
    for key in (0, choices.integer(1, 9), -1, 1 << 40):
        draft.add(draft.plain(), key)
    draft.add_plain(1, 3)
    return draft.finish()


def _nested(choices: Choices) -> CheckpointSpec:
    draft = Draft(choices)
    draft.add_plain(1, 3)
    draft.add(draft.state_dict(), "model")
    draft.add([draft.plain() for _ in range(choices.integer(1, 3))], "list")
    draft.add((draft.plain(), {"deep": [draft.plain()]}), "tuple")
    return draft.finish()


def _extras(make: Callable[[Choices], dict[str, Any]]) -> Callable[[Choices], CheckpointSpec]:
    def draw(choices: Choices) -> CheckpointSpec:
        draft = Draft(choices)
        draft.add_plain(1, 4)
        draft.add(draft.state_dict(), "state_dict")
        for name, value in make(choices).items():
            draft.add(value, name)
        return draft.finish()

    return draw


def _metadata(choices: Choices) -> CheckpointSpec:
    draft = Draft(choices)
    draft.add_plain(1, 6)
    state = draft.state_dict()
    if not isinstance(state.metadata, ODictNode):
        raise TypeError("a drawn state_dict has no _metadata, expected one")
    version = {"version": choices.integer(1, 3), "assign_to_params_buffers": choices.boolean()}
    extra = (to_node("extra.module"), to_node(version))
    metadata = replace(state.metadata, items=(*state.metadata.items, extra))
    return draft.finish(replace(state, metadata=metadata))


def _no_metadata(choices: Choices) -> CheckpointSpec:
    draft = Draft(choices)
    draft.add_plain(1, 6)
    entries = tuple(draft.entries)
    return draft.finish(DictNode(items=entries) if choices.boolean() else ODictNode(items=entries))


def _float(draft: Draft) -> TensorNode:
    return draft.tensor(draft.choices.pick(_FLOATS), draft.shape())


def _parameters(draft: Draft) -> None:
    for requires_grad in (True, False):
        draft.add(replace(_float(draft), tensor_kind="parameter", requires_grad=requires_grad))


def _requires_grad(draft: Draft) -> None:
    draft.add(replace(_float(draft), requires_grad=True))


def _conj(draft: Draft) -> None:
    dtype = draft.choices.pick(("complex64", "complex128"))
    draft.add(replace(draft.tensor(dtype, draft.shape()), conj=True))


def _neg(draft: Draft) -> None:
    dtype = draft.choices.pick(("float32", "float64"))
    draft.add(replace(draft.tensor(dtype, draft.shape()), neg=True))


def _many(choices: Choices) -> CheckpointSpec:
    # One draw of bytes for all: hundreds of small draws would cost seconds.
    draft = Draft(choices)
    count = choices.integer(200, 300)
    data = choices.bytes(16 * count)
    for index in range(count):
        size = index % 4 + 1
        storage = draft.storage(data[16 * index : 16 * index + 4 * size])
        tensor = draft.view(storage, "int32", (size,), contiguous((size,)))
        draft.add(tensor, f"blocks.{index // 4}.part{index % 4}.weight")
    return draft.finish(draft.state_dict())


def _no_tensors(choices: Choices) -> CheckpointSpec:
    draft = Draft(choices)
    for name, value in json_extras(choices).items():
        draft.add(value, name)
    return draft.finish()


def _big_tensor(draft: Draft) -> None:
    rows = draft.choices.pick((256, 64, 1))
    dtype = draft.choices.pick(("float32", "uint8", "float16"))
    draft.add(draft.tensor(dtype, (rows, _BIG // rows // ITEMSIZES[dtype] + draft.choices.integer(0, 3))))


def _optimizer(choices: Choices) -> CheckpointSpec:
    draft = Draft(choices)
    return draft.finish(optimizer(draft))


def _content(name: str, summary: str, draw: Callable[[Choices], CheckpointSpec], *features: str) -> Content:
    return Content(name=name, summary=summary, draw=draw, features=frozenset((name, *features)))


_ROWS: Final = (
    _content(
        "plain",
        "A state_dict of contiguous tensors of common dtypes, with dotted keys and _metadata.",
        _state_dict(lambda _: None),
        "metadata",
    ),
    *(
        _content(f"dtype-{name}", f"A tensor of dtype {name}.", _state_dict(_dtype(name)), "dtype")
        for name in ITEMSIZES
    ),
    _content("zero-dim", "A tensor without dimensions.", _state_dict(_zero_dim)),
    _content("empty", "Tensors without elements.", _state_dict(_empty)),
    _content("noncontiguous", "A transposed tensor and one with a step.", _state_dict(_noncontiguous), "strides"),
    _content("channels-last", "An image batch in channels-last order.", _state_dict(_channels_last), "strides"),
    _content("expanded", "An expanded tensor: a stride of 0.", _state_dict(_expanded), "strides"),
    _content(
        "overlapping",
        "Elements and views that overlap in memory.",
        _state_dict(_overlapping),
        "strides",
        "aliasing",
    ),
    _content("shared-storage", "One tensor under several names.", _state_dict(_shared_storage), "aliasing"),
    _content(
        "partial-views",
        "Different views of one storage, and a slice that hides bytes of its storage.",
        _state_dict(_partial_views),
        "aliasing",
        "hidden-bytes",
    ),
    _content("nan-payload", "NaNs with payloads, quiet and signalling.", _state_dict(_nan_payload)),
    _content("negative-zero", "-0.0 beside 0.0.", _state_dict(_negative_zero)),
    _content(
        "odd-keys",
        "Keys that are empty, long, not ASCII, or hold dots and control characters.",
        _state_dict(_odd_keys),
    ),
    _content("reserved-keys", "The key that safetensors keeps for itself.", _state_dict(_reserved_keys)),
    _content(
        "colliding-keys",
        "Keys that are the same once nesting is flattened.",
        _state_dict(_colliding_keys),
        "nesting",
    ),
    _content("int-keys", "A dict whose keys are ints.", _int_keys, "no-metadata"),
    _content("nested", "Tensors in dicts, lists and tuples.", _nested, "nesting"),
    _content(
        "extras-json",
        "Plain values that JSON can hold, beside a state_dict.",
        _extras(json_extras),
        "nesting",
        "extras",
    ),
    _content(
        "extras-python",
        "Plain values that JSON cannot hold, beside a state_dict.",
        _extras(python_extras),
        "nesting",
        "extras",
    ),
    _content("empty-bytes", "Empty bytes, beside a state_dict.", _extras(empty_bytes), "nesting", "extras"),
    _content("metadata", "A state_dict whose _metadata says more than versions.", _metadata),
    _content("no-metadata", "A dict or an OrderedDict without _metadata.", _no_metadata),
    _content("parameters", "Parameters that require gradients, and that do not.", _state_dict(_parameters)),
    _content("requires-grad", "A plain tensor that requires gradients.", _state_dict(_requires_grad)),
    _content("conj", "A lazily conjugated tensor.", _state_dict(_conj)),
    _content("neg", "A lazily negated tensor.", _state_dict(_neg)),
    _content("optimizer", "The state_dict of an Adam optimizer.", _optimizer, "int-keys", "nesting", "extras"),
    _content("many", "A few hundred tiny tensors.", _many),
    _content("no-tensors", "Plain values only.", _no_tensors, "extras"),
    _content("big-tensor", "A tensor of 256 KiB, larger than most buffers.", _state_dict(_big_tensor)),
)

CONTENTS: Final[Mapping[str, Content]] = MappingProxyType({content.name: content for content in _ROWS})
if len(CONTENTS) != len(_ROWS):
    raise AssertionError("two contents have one name, expected every name once")
