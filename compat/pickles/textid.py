"""The persistent ids of pickle protocol 0, which are the `repr` of a tuple, and which torch itself cannot read back.

`torch.save(pickle_protocol=0)` writes `('storage', <class 'torch.FloatStorage'>, '0', 'cpu', 6)` as one line of
text: `Lib/pickle.py`, `_Pickler.save_pers`. The forms are those of `torch/serialization.py` (`persistent_id`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

_TEXT: Final = r"u?'([^'\\]*)'"
_NUMBER: Final = r"(\d{1,20})L?"
_CLASS: Final = r"<class '([\w.<>]+)'>"
_VIEW: Final = rf"(?:, (?:None|\((?:{_TEXT}|{_NUMBER}), {_NUMBER}, {_NUMBER}\)))?"
_STORAGE: Final = re.compile(rf"\(u?'storage', {_CLASS}, (?:{_TEXT}|{_NUMBER}), {_TEXT}, {_NUMBER}{_VIEW}\)")
_MODULE: Final = re.compile(rf"\(u?'module', {_CLASS}, .*\)")


def parse_text_id(text: str, find_class: Callable[[str, str], Any]) -> Any:
    """The tuple that a persistent id is the `repr` of; the text itself where it is none of torch's.

    Args:
        text: the id, one line.
        find_class: what a class stands for, by module and name; nothing else is looked up.
    """
    found = _STORAGE.fullmatch(text)
    if found is not None:
        kind, key, number, device, numel, view, view_number, offset, size = found.groups()
        parent = key if key is not None else int(number)
        storage = ("storage", _named(kind, find_class), parent, device, int(numel))
        if offset is None:
            return (*storage, None)
        return (*storage, (view if view is not None else int(view_number), int(offset), int(size)))
    found = _MODULE.fullmatch(text)
    return text if found is None else ("module", _named(found[1], find_class))


def _named(full: str, find_class: Callable[[str, str], Any]) -> Any:
    module, _, name = full.rpartition(".")
    return find_class(module, name)
