"""The reader of array headers against Python's own parser of literals, on what numpy writes and on anything else."""

from __future__ import annotations

import ast
import string
import warnings
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compat.errors import Corrupt
from compat.npyheader import parse

LITERALS: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.integers(0, 10**19), st.booleans(), st.none(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(), inner, max_size=4),
    ),
    max_leaves=12,
)
# What headers are made of, in no order.
PIECES = st.lists(
    st.sampled_from([*"{}()[],: '\"\\Lub", "1", "007", "True", "None", "descr", "\\x41", "-", "0x1", "1.5", "\n", "#"]),
    max_size=12,
).map("".join)


@given(st.dictionaries(st.text(), LITERALS, max_size=5))
def test_what_python_shows_is_read(facts: dict[str, Any]) -> None:
    assert parse(repr(facts) + " \n", "a") == facts


@given(st.one_of(PIECES.map("{{'descr': {}}}".format), PIECES, st.text(string.printable, max_size=20)))
@example("{'descr': '\\d'}")
@example("{'descr': (1)}")
@example("{'a': 1, 'a': 1}")
def test_anything_else_is_refused_or_read_as_python_does(text: str) -> None:
    try:
        found = parse(text, "a")
    except Corrupt:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            expected = ast.literal_eval(text.strip())
        except SyntaxError:
            # Python 3 takes neither the long numbers of Python 2 nor zeros before a number.
            return
    assert [list(found), repr(found)] == [list(expected), repr(expected).replace("b'", "'").replace('b"', '"')]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{'shape': (3L, 4L)}", {"shape": (3, 4)}),
        ("{'shape': (3)}", {"shape": 3}),
        ("{'shape': (3,)}", {"shape": (3,)}),
        ("{u'descr': b'<f4'}", {"descr": "<f4"}),
        ("{}", {}),
    ],
)
def test_the_forms_of_other_writers(text: str, expected: dict[str, Any]) -> None:
    assert parse(text, "a") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{'a': -1}",
        "{'a': 1.5}",
        "{'a': 1} {}",
        "{'a': " + "(" * 40 + ")" * 40 + "}",
        "{" * 100_000,
        "-" * 100_000,
        "{'a': " + "9" * 5000 + "}",
        "{'a': '\\U00110000'}",
        "{1: 1}",
        "{'a': 1 'b': 1}",
        "{'a': [1 2]}",
        "{'a': __import__('os')}",
        "{'a': '",
    ],
    ids=range(15),
)
def test_what_no_header_is(text: str) -> None:
    with pytest.raises(Corrupt, match=r"the header of the array 'x\.npy' is"):
        parse(text, "x.npy")
