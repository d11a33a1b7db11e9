"""What of the corpus is known not to be as it should, each with its reason, and strict: what heals must be removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final

from matrix.corpus.index import Golden

# Golden files that `compat.open` does not read yet. Pattern → reason.
NOT_READ_YET: Final[Mapping[str, str]] = {}

# Golden files that `compat.load` refuses unless told to keep what it does not import. Pattern → reason.
NAMES_A_CLASS: Final[Mapping[str, str]] = {
    f"torch-{release}/subclass.*.pt": "the class of the tensor is the user's own; it is read as a plain tensor"
    # Torch 1.6 and 1.7 do not write it.
    for release in ("1.8.*", "1.1?.*", "2.*")
}

# Golden files that torch here reads with weights_only=True, and not as what was saved.
TORCH_READS_OTHERWISE: Final[Mapping[str, str]] = {
    "torch-2.*/storages.zip.pt": "torch gives an untyped storage back as a typed one of uint8",
}

# Golden files whose reading by torch is a matter of luck: it builds the tensor before it has read the bytes that it
# is built from, in memory that was not filled yet.
TORCH_READS_BY_LUCK: Final = ("torch-*/nested.legacy.pt",)

# The same of the release that wrote a file.
WRITER_READS_BY_LUCK: Final = ("torch-1.*/sparse.legacy.pt",)

# What the release that wrote a file could not read back from it. Pattern → the beginning of what it said, or did.
WRITER_CANNOT_READ: Final[Mapping[str, str]] = {
    "torch-*/mixed-protocol0.*.pt": "AssertionError: ",  # persistent ids are text in protocol 0
    "torch-*/rare_dtypes.legacy.pt": "AttributeError: ",  # as every release since: see the format torch-legacy
    "torch-2.*/storages.legacy.pt": "AttributeError: ",  # the same, of an untyped storage
    "torch-2.*/storages.zip.pt": "something else",  # see TORCH_READS_OTHERWISE
    "torch-1.*/attributes.*.pt": "something else",  # lost in writing
    "torch-1.1?.*/lazy_bits.*.pt": "something else",  # lost in writing
    "torch-1.13.1/subclass.*.pt": "AttributeError: ",  # torch 1.13 under Python 3.11
}

# Golden files some of whose damage is not seen yet. Pattern → reason.
DAMAGE_NOT_SEEN_YET: Final[Mapping[str, str]] = {
    "torch-*/*.pt2": "a record that the directory no longer names is taken for one that was never there",
    "torch-*/*.npz": "an array whose header cannot be read is taken for one of no plain dtype",
}


def matching(golden: Golden, patterns: Iterable[str]) -> list[str]:
    """The patterns that name a golden file."""
    return [pattern for pattern in patterns if fnmatchcase(golden.id, pattern)]
