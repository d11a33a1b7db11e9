"""The exact text of each error, once, and the facts behind it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from compat import errors
from compat.errors import (
    CompatError,
    Corrupt,
    KeyCollision,
    Mismatch,
    MissingClass,
    MissingDependency,
    TargetExists,
    UnknownFormat,
    Unreadable,
    UnsafeGlobals,
    Unsupported,
    brief,
)

TEXTS: dict[CompatError, str] = {
    CompatError("seen"): "seen",
    CompatError("seen", source="f", expected="other", hint="Do this."): "f: seen; expected other. Do this.",
    UnknownFormat("is empty", source="f", expected="one of a, b"): "f: is empty; expected one of a, b",
    Corrupt("ends", source="f", offset=7, hint="Get it again."): "f: ends. Get it again. (at byte 7)",
    Unsupported("cannot", feature="dtype", paths=["a"], source="as x"): "as x: cannot",
    UnsafeGlobals({"m.C": ["a", "b", "c", "d"], "m.D": ["e"]}, source="f"): (
        "f: holds objects of classes that compat does not import: m.C at a, b, c; m.D at e; expected tensors and plain "
        'values. Pass on_unknown="keep" to get them as inert Opaque records, or, if you trust the file, '
        "weights_only=False to let torch import and call them; `compat scan` says what that would execute."
    ),
    UnsafeGlobals({"m.Net": [".state"]}, source="f", module="model"): (
        "f: holds objects of classes that compat does not import: m.Net at .state; expected tensors and plain values. "
        "compat.load_state_dict gives the weights of the pickled module at model, without its class. "
        'Pass on_unknown="keep" to get them as inert Opaque records, or, if you trust the file, '
        "weights_only=False to let torch import and call them; `compat scan` says what that would execute."
    ),
    KeyCollision({"a": ["module.a", "a"], "b": ["module.b", "b"]}): (
        "'module.a', 'a' would all become 'a' (and 1 more); expected every key to stay distinct. "
        "Nothing was changed. Rename one of them first."
    ),
    MissingClass("old.Net", looked="in old", reason="no module", near=["new.Net"], source="f"): (
        "f: names old.Net, looked for in old: no module; expected a class that can be imported under the name it had "
        "when the file was saved. There is new.Net. Say where it is now: renamed={'old.Net': 'new.Net'}; or take the "
        "weights without the class: compat.load_state_dict."
    ),
    Mismatch("differs", source="f"): "f: differs",
    MissingDependency("torch", needed_for="loading"): (
        "loading needs torch, which is not installed. Install it with: python -m pip install torch"
    ),
    TargetExists("f"): (
        "f: already exists and was left untouched. Pass overwrite=True (--overwrite) to replace it, "
        "or choose another name."
    ),
    Unreadable("does not exist", source="f", hint="Check the path."): "f: does not exist. Check the path.",
}


@pytest.mark.parametrize("error", TEXTS, ids=[f"{n}-{type(error).__name__}" for n, error in enumerate(TEXTS)])
def test_the_exact_text(error: CompatError) -> None:
    assert str(error) == TEXTS[error]
    facts = json.loads(json.dumps(error.to_json()))
    assert (facts["error"], facts["message"]) == (type(error).code, str(error))


def test_every_error_is_shown_here_and_has_its_own_code() -> None:
    classes = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, CompatError)]
    assert {type(error) for error in TEXTS} == set(classes)
    assert len({found.code for found in classes}) == len(classes)


def endless(levels: int) -> Any:
    value: Any = ()
    for _ in range(levels):
        value = (value, value)
    return value


BRIEF: list[tuple[Any, str]] = [
    (None, "None"),
    (True, "True"),
    (1.5, "1.5"),
    (12, "12"),
    (-(1 << 20_000), "an int of 20,001 bits"),
    ("a'b", '"a\'b"'),
    ("x" * 1000, "'" + "x" * 79),
    (b"\x00", r"b'\x00'"),
    ((), "()"),
    ((1,), "(1,)"),
    ([1, "a"], "[1, 'a']"),
    ([1, 2, 3, 4, 5], "[1, 2, 3, 4, …]"),
    (endless(60), "(((…, …), (…, …)), ((…, …), (…, …)))"),
    ({"a": 1}, "a dict"),
    (object(), "a object"),
]


@pytest.mark.parametrize(("value", "text"), BRIEF, ids=range(len(BRIEF)))
def test_any_value_is_shown_in_brief(value: Any, text: str) -> None:
    assert brief(value) == text
