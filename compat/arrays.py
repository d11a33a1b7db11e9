"""Numpy arrays, scalars and dtypes inside checkpoints, in every direction, with no class of the file imported.

- kept: arrays and scalars of booleans, integers, floats, complex numbers, byte strings, text and raw bytes, in
  C or Fortran order; plain dtypes. The byte order is kept where numpy itself keeps it: in what pickle protocol 5
  wrote, and not in what older protocols did.
- left opaque: object arrays (each element is a pickle of its own), structured dtypes, dates and time spans, and
  arrays of subclasses such as `numpy.matrix`.

Sources: numpy's `_core/src/multiarray/methods.c` (`array_reduce`, `array_setstate`), `descriptor.c`
(`arraydescr_reduce`), `scalartypes.c.src` (`gentype_reduce`) and `_core/numeric.py` (`_frombuffer`).
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from math import prod
from typing import Any, Final

from compat.checkpoint import GlobalRef, NumpyArray, NumpyDType, Opaque, contiguous_stride
from compat.errors import Corrupt, MissingDependency, Unsupported, brief
from compat.records import MAX_DIMS, MAX_INT64
from compat.strided import gather, swap

_RECONSTRUCT: Final = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_FROM_BUFFER: Final = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_SCALAR: Final = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_DTYPE: Final = "numpy.dtype"
_ARRAY: Final = "numpy.ndarray"

# Widths in bytes by kind; text and byte strings may be of any, text counts characters of four bytes.
_WIDTHS: Final = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8, 16), "c": (8, 16, 32)}
_STRINGS: Final = {"S": 1, "U": 4, "V": 1}
_MAX_WIDTH: Final = 1 << 28
_STATE_FIELDS: Final = 5  # version, subarray, names and fields follow the byte order


def itemsize(dtype: str) -> int | None:
    """Bytes per element of a plain dtype's type string; None where it is none that is kept."""
    found = re.fullmatch(r"([<>|])([biufcSUV])(\d{1,9})", dtype)
    if found is None:
        return None
    order, kind, width = found[1], found[2], int(found[3])
    if kind in _STRINGS:
        size = width * _STRINGS[kind]
        return size if 0 < size <= _MAX_WIDTH and (order == "|") == (kind != "U") else None
    return width if width in _WIDTHS[kind] and (order == "|") == (width == 1) else None


def made(dtype: Any, shape: Any, data: Any, order: Any = "C", *, scalar: bool = False) -> NumpyArray:
    """An array from its parts, whatever they are.

    Raises:
        Corrupt: they do not fit each other.
    """
    size = itemsize(dtype) if isinstance(dtype, str) else None
    if size is None:
        raise Corrupt(f"a numpy array has the dtype {brief(dtype, 40)}")
    if (
        not isinstance(shape, (tuple, list))
        or len(shape) > MAX_DIMS
        or any(type(n) is not int or not 0 <= n <= MAX_INT64 for n in shape)
        or (scalar and shape)
    ):
        raise Corrupt(f"a numpy array has the shape {brief(shape)}")
    if not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
        raise Corrupt(f"a numpy array is made of {brief(data, 40)} in order {brief(order, 20)}")
    if len(data) != prod(shape) * size:
        raise Corrupt(f"a numpy array of {dtype} and shape {brief(tuple(shape))} has {len(data):,} bytes")
    return NumpyArray(dtype=dtype, shape=tuple(shape), data=bytes(data), order=order, scalar=scalar)


def from_opaque(node: Opaque) -> NumpyArray | NumpyDType | None:
    """What an object of a pickle stream is, where it is numpy's and plain; None where it stays opaque.

    Raises:
        Corrupt: it is plain, and its parts do not fit each other.
    """
    if node.made_by != "call" or node.callee is not None or node.kwargs or node.items or node.pairs:
        return None
    if node.name == _DTYPE:
        code = _dtype(node)
        return None if code is None else NumpyDType(code)
    if node.name in _RECONSTRUCT:
        return _reconstructed(node)
    if node.name in _FROM_BUFFER and len(node.args) in (4, 5) and node.state is None:
        return _from_buffer(*node.args)
    if node.name in _SCALAR and len(node.args) == 2 and node.state is None:  # noqa: PLR2004 - dtype and bytes
        code = _dtype(node.args[0])
        return None if code is None else _native(made(code, (), _raw(node.args[1]), scalar=True))
    return None


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> NumpyArray | None:
    """An array made of a buffer; with axes (numpy since 2.2), of one whose dimensions they permute."""
    code = _dtype(dtype)
    if code is None:
        return None
    if order != "K" or axes is None:
        return made(code, shape, data, order)
    array = made(code, shape, data)
    known = set(range(len(array.shape)))
    if not isinstance(axes, tuple) or len(axes) != len(known) or {n for n in axes if type(n) is int} != known:
        raise Corrupt(f"a numpy array of shape {brief(shape)} has the axes {brief(axes)}")
    size = itemsize(code) or 1
    stride = contiguous_stride(array.shape)
    permuted, steps = tuple(array.shape[n] for n in axes), tuple(stride[n] for n in axes)
    if size & (size - 1):  # no machine word: its bytes become one more dimension
        inner, outer = (*permuted, size), (*(step * size for step in steps), 1)
        content = gather(array.data, itemsize=1, shape=inner, stride=outer, offset=0)
    else:
        content = gather(array.data, itemsize=size, shape=permuted, stride=steps, offset=0)
    return replace(array, shape=permuted, data=bytes(content))


def _dtype(node: Any) -> str | None:
    """The type string of a pickled `numpy.dtype`; None where it is none, or not a plain one."""
    if not isinstance(node, Opaque) or node.name != _DTYPE or not node.args or not isinstance(node.state, tuple):
        return None
    code, state = node.args[0], node.state
    if not isinstance(code, str) or len(state) < _STATE_FIELDS or state[2:5] != (None, None, None):
        return None
    dtype = f"{state[1]}{code}" if state[1] in ("<", ">", "|") else ""
    return dtype if itemsize(dtype) is not None else None


def _reconstructed(node: Opaque) -> NumpyArray | None:
    """An array made empty and given its state: (version, shape, dtype, whether in Fortran order, bytes)."""
    state = node.state
    if not node.args or _name_of(node.args[0]) != _ARRAY or not isinstance(state, tuple):
        return None
    if len(state) == 5 and type(state[0]) is int and state[0] in (0, 1):  # noqa: PLR2004 - as above
        state = state[1:]
    if len(state) != 4:  # noqa: PLR2004 - the oldest files have no version
        return None
    shape, dtype, fortran, data = state
    code = _dtype(dtype)
    return None if code is None else _native(made(code, shape, _raw(data), "F" if fortran else "C"))


def _native(array: NumpyArray) -> NumpyArray:
    """The same values in little-endian order: numpy too gives what is rebuilt this way in its machine's order."""
    if not array.dtype.startswith(">"):
        return array
    kind, width = array.dtype[1], int(array.dtype[2:])
    component = _STRINGS[kind] if kind in _STRINGS else width // 2 if kind == "c" else width
    return replace(array, dtype=f"<{array.dtype[1:]}", data=bytes(swap(array.data, component)))


def _name_of(node: Any) -> str:
    """The name of a class that a stream refers to."""
    if isinstance(node, GlobalRef):
        return str(node.name)
    return str(getattr(node, "global_name", "")) if isinstance(node, type) else ""


def _raw(data: Any) -> Any:
    """The bytes of an element, which Python 2 wrote as what Python 3 reads as text."""
    return data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data


def to_opaque(node: NumpyArray | NumpyDType) -> Opaque:
    """The object that a pickle stream describes it by: numpy's own, readable by every numpy."""
    if isinstance(node, NumpyDType):
        return _call(_DTYPE, (node.dtype[1:], False, True), _dtype_state(node.dtype))
    dtype = to_opaque(NumpyDType(node.dtype))
    if node.scalar:
        return _call(_SCALAR[0], (dtype, node.data), None)
    if node.dtype.startswith(">"):
        # The other way to describe an array gives it back in the reader's own byte order.
        return _call(_FROM_BUFFER[0], (bytearray(node.data), dtype, node.shape, node.order), None)
    state = (1, node.shape, dtype, node.order == "F", node.data)
    return _call(_RECONSTRUCT[0], (GlobalRef(_ARRAY), (0,), b"b"), state)


def _dtype_state(dtype: str) -> tuple[Any, ...]:
    order, kind = dtype[0], dtype[1]
    sizes = (itemsize(dtype), 4 if kind == "U" else 1, 0) if kind in _STRINGS else (-1, -1, 0)
    return (3, order, None, None, None, *sizes)


def _call(name: str, args: tuple[Any, ...], state: Any) -> Opaque:
    call = Opaque(name, args)
    call.made_by, call.state = "call", state
    return call


def live(node: NumpyArray | NumpyDType, where: str) -> Any:
    """The numpy object itself; an array is writable and owns its memory.

    Raises:
        MissingDependency: numpy is not installed.
        Unsupported: this numpy or this machine has no such dtype.
        Corrupt: its bytes are no value of its dtype.
    """
    try:
        import numpy as np
    except ImportError as error:
        raise MissingDependency("numpy", needed_for=f"loading {where}, which is numpy's,") from error
    try:
        dtype = np.dtype(node.dtype)
    except (TypeError, ValueError) as error:
        raise Unsupported(
            f"{where} has the numpy dtype {node.dtype}, which is not to be had here", feature="dtype"
        ) from error
    if isinstance(node, NumpyDType):
        return dtype
    # Numpy takes any number for a character, and fails when it is looked at.
    if dtype.kind == "U" and node.data and np.frombuffer(node.data, f"{node.dtype[0]}u4").max() > sys.maxunicode:
        raise Corrupt(f"{where} is no numpy value: its text is beyond Unicode")
    try:
        array = np.ndarray(node.shape, dtype, bytearray(node.data), order="F" if node.order == "F" else "C")
        return array[()] if node.scalar else array.copy(order="K")
    except (TypeError, ValueError, OverflowError, MemoryError) as error:
        raise Corrupt(f"{where} is no numpy value: {error!s:.120}") from error


def from_live(node: Any, where: str) -> NumpyArray | NumpyDType | None:
    """The record of a numpy object; None for what is none. Numpy is not imported for that.

    Raises:
        Unsupported: it is one of those that would stay opaque.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    is_scalar = isinstance(node, numpy.generic)
    if not (is_scalar or isinstance(node, (numpy.ndarray, numpy.dtype))):
        return None
    dtype = node if isinstance(node, numpy.dtype) else node.dtype
    plain = dtype.names is None and dtype.subdtype is None and not dtype.metadata
    if not plain or itemsize(dtype.str) is None or (not is_scalar and type(node) not in (numpy.ndarray, type(dtype))):
        raise Unsupported(
            f"{where} is a {type(node).__module__}.{type(node).__qualname__} of dtype {dtype!s:.60}",
            feature="numpy",
            paths=[where],
            expected="plain numpy arrays of numbers, text or bytes",
        )
    if isinstance(node, numpy.dtype):
        return NumpyDType(dtype.str)
    if is_scalar:
        return made(dtype.str, (), node.tobytes(), scalar=True)
    order = "F" if node.flags.f_contiguous and not node.flags.c_contiguous else "C"
    return made(dtype.str, node.shape, node.tobytes(order), order)
