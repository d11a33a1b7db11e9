"""Pickle streams and inert records: read without executing, written without importing."""

from compat.pickles.reader import read_pickle
from compat.pickles.vet import Limits, vet
from compat.pickles.writer import PickleWriter

__all__ = ["Limits", "PickleWriter", "read_pickle", "vet"]
