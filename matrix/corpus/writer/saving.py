"""How a release is asked for one container or the other, and where the classes that files name are."""

import importlib.util
import os
import sys
from typing import Any

from matrix.corpus.writer.release import torch


def load_zoo() -> Any:
    """Return the module of the classes that golden files name, under a name that readers cannot import."""
    place = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models.py")
    found = importlib.util.spec_from_file_location("zoo", place)
    if found is None or found.loader is None:
        raise ImportError("models.py lies beside this file and cannot be loaded")
    zoo = sys.modules["zoo"] = importlib.util.module_from_spec(found)
    found.loader.exec_module(zoo)
    return zoo


def container(path: str) -> str:
    """Return the name of the format that a file of torch.save has, by its content."""
    with open(path, "rb") as file:
        return "torch-zip" if file.read(4) == b"PK\x03\x04" else "torch-legacy"


def save(state: Any, path: str, wanted: str, **options: Any) -> str:
    """Save in the container that is wanted; releases without such an option write theirs."""
    try:
        torch.save(state, path, _use_new_zipfile_serialization=wanted == "torch-zip", **options)
    except TypeError as error:
        if "_use_new_zipfile_serialization" not in str(error):
            raise
        torch.save(state, path, **options)
    if container(path) != wanted:
        raise ValueError("this torch has no such container")
    return wanted
