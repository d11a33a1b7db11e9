"""Gathering and scattering strided elements, held against torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compat.saving import capture
from compat.strided import element_bytes, element_chunks, gather, scatter, swap
from tests.compat.making import raw, storage_of

DTYPES = (torch.uint8, torch.float16, torch.float32, torch.int64, torch.complex128)
VIEWS = st.tuples(
    st.sampled_from(DTYPES),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=4),
    st.integers(0, 3),
)


def view(dtype: torch.dtype, dims: list[tuple[int, int]], offset: int) -> torch.Tensor:
    numel = offset + 1 + sum(max(size - 1, 0) * step for size, step in dims)
    content = torch.arange(numel * torch.empty(0, dtype=dtype).element_size(), dtype=torch.int64).to(torch.uint8)
    return content.view(dtype).as_strided([size for size, _ in dims], [step for _, step in dims], offset)


@settings(deadline=None, max_examples=200)
@given(VIEWS)
def test_elements_are_gathered_as_torch_does(drawn: tuple[torch.dtype, list[tuple[int, int]], int]) -> None:
    tensor = view(*drawn)
    (record,) = capture({"a": tensor}).tensors.values()
    assert element_bytes(record) == raw(tensor)


@settings(deadline=None, max_examples=200)
@given(VIEWS)
def test_scattering_undoes_gathering(drawn: tuple[torch.dtype, list[tuple[int, int]], int]) -> None:
    tensor = view(*drawn)
    place: dict[str, Any] = {"shape": tensor.shape, "stride": tensor.stride(), "offset": tensor.storage_offset()}
    itemsize = tensor.element_size()
    source = bytes(storage_of(tensor).tolist())
    elements = bytes(gather(source, itemsize=itemsize, **place))
    target = bytearray(len(source))
    scatter(elements, target, itemsize=itemsize, **place)
    assert bytes(gather(target, itemsize=itemsize, **place)) == elements


@pytest.mark.parametrize("component", [1, 2, 4, 8])
def test_swapping_reverses_each_unit(component: int) -> None:
    content = bytes(range(32))
    units = [content[at : at + component] for at in range(0, 32, component)]
    assert bytes(swap(content, component)) == b"".join(unit[::-1] for unit in units)
    assert bytes(swap(swap(content, component), component)) == content


def test_a_part_of_a_storage_is_streamed_without_the_rest() -> None:
    tensor = torch.arange(1000, dtype=torch.uint8)[100:200]
    (record,) = capture({"a": tensor}).tensors.values()
    (piece,) = element_chunks(record)
    assert bytes(piece) == bytes(range(100, 200))


def test_what_has_no_data_has_no_bytes() -> None:
    (record,) = capture({"a": torch.empty(3, device="meta")}).tensors.values()
    assert element_bytes(record) == b""
