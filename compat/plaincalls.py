"""What a `torch.save` pickle stream calls to make plain values: torch's own small ones, and those of Python.

Sources: `torch/_weights_only_unpickler.py` (`_get_allowed_globals`), CPython's `Lib/pickle.py` and `copyreg.py`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from compat.checkpoint import Size, TorchValue
from compat.errors import Corrupt, brief
from compat.pickles.reader import StandIn
from compat.pickles.vet import DEFAULT_LIMITS
from compat.records import TORCH_VALUES
from compat.tensorcalls import expect, ints


def _device(kind: Any, index: Any = None) -> TorchValue:
    expect(kind, str, "a device")
    return TorchValue("device", kind if index is None else f"{kind}:{expect(index, int, 'a device index')}")


def _size(values: Any = ()) -> Size:
    return Size(ints(values, "a torch.Size"))


class SizeName(StandIn):
    """`torch.Size` as a stream names it: a class, since torch 1.0 made sizes by NEWOBJ, which takes nothing else."""

    __slots__ = ()
    global_name = "torch.Size"

    def __new__(cls, *args: Any) -> Any:
        """The size itself."""
        cls.spend(args)
        return _size(*args)


def _layout(name: Any) -> TorchValue:
    layout = TorchValue("layout", expect(name, str, "a layout").removeprefix("torch."))
    if layout not in TORCH_VALUES:
        raise Corrupt(f"a layout is {brief(name)}", expected="one that torch has")
    return layout


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, by which protocol 2 writes bytes; only the one encoding it uses."""
    if encoding not in ("latin1", "latin-1"):
        raise Corrupt(f"bytes are encoded as {encoding!r}")
    return str(expect(text, str, "encoded bytes")).encode("latin-1")


def _bytearray(content: Any = b"", encoding: Any = "latin-1") -> bytearray:
    if isinstance(content, str):
        return bytearray(_encode(content, encoding))
    return bytearray(expect(content, (bytes, bytearray), "a bytearray's content"))


def _bytes(*content: Any) -> bytes:
    """`bytes()`, by which protocol 2 writes the empty one."""
    if content:
        raise Corrupt(f"bytes are made of {brief(content)}")
    return b""


def _complex(real: Any, imag: Any) -> complex:
    return complex(expect(real, float, "a complex number"), expect(imag, float, "a complex number"))


def _hash_cost(value: Any, budget: list[int], depth: int = 0) -> None:
    if isinstance(value, tuple):
        budget[0] -= len(value) + 1
        if budget[0] < 0 or depth > DEFAULT_LIMITS.tuple_depth:
            raise Corrupt("keys are tuples that nest or repeat themselves without end")
        for item in value:
            _hash_cost(item, budget, depth + 1)


def _keys(values: Any) -> list[Any]:
    """Values that are safe to hash: the unpickler's own budget does not see inside lists."""
    listed = list(expect(values, (list, tuple, set, frozenset), "a set's content"))
    budget = [16 * len(listed) + 4096]
    for value in listed:
        _hash_cost(value, budget)
    return listed


def _pairs(pairs: Any) -> list[tuple[Any, Any]]:
    if isinstance(pairs, dict):
        return list(dict.items(pairs))
    listed = [expect(pair, (list, tuple), "a dict's item") for pair in expect(pairs, (list, tuple), "a dict's items")]
    if any(len(pair) != 2 for pair in listed):  # noqa: PLR2004 - a key and a value
        raise Corrupt("a dict's item is no pair")
    return list(zip(_keys([key for key, _ in listed]), [value for _, value in listed], strict=True))


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(_pairs(pairs))


def _counter(pairs: Any = ()) -> Counter[Any]:
    return Counter(dict(_pairs(pairs)))


PLAIN_CALLS: Final[Mapping[str, Callable[..., Any]]] = {
    "torch.device": _device,
    "torch.serialization._get_layout": _layout,
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "builtins.set": lambda values=(): set(_keys(values)),
    "builtins.frozenset": lambda values=(): frozenset(_keys(values)),
    "builtins.bytearray": _bytearray,
    "builtins.bytes": _bytes,
    "builtins.complex": _complex,
    "_codecs.encode": _encode,
}
