from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from matrix.gathering import visible
from matrix.nodes import TensorNode
from matrix.peer import ITEMSIZES


@settings(deadline=None)
@given(
    st.sampled_from(("uint8", "float16", "float32", "int64", "complex128")),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=4),
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_gathering_equals_addressing_every_element(
    dtype: str, dims: list[tuple[int, int]], offset: int, spare: int
) -> None:
    width = ITEMSIZES[dtype]
    shape, stride = tuple(size for size, _ in dims), tuple(step for _, step in dims)
    last = offset + sum(max(size - 1, 0) * step for size, step in dims)
    # A storage need not be a whole number of elements long.
    data = bytes(i * 37 % 256 for i in range((last + 1) * width + spare))
    node = TensorNode(dtype=dtype, shape=shape, stride=stride, storage=0, storage_offset=offset)
    starts = [
        offset + sum(at * step for at, step in zip(index, stride, strict=True)) for index in product(*map(range, shape))
    ]
    assert visible(node, data) == b"".join(data[at * width : (at + 1) * width] for at in starts)
