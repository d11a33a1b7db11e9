"""What all tests share: where a release of torch lacks what a test itself uses, there is nothing to be tried."""

from __future__ import annotations

import re
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest
import torch
from hypothesis import settings
from packaging.version import Version

from compat.errors import Unsupported
from matrix.peer import PeerError

# A machine that does other things as well is slow at times: that says nothing of the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

_TESTS: Final = Path(__file__).parent
# Of the releases from this one on, a name that is missing is a mistake of the test.
_NOTHING_IS_MISSING_SINCE: Final = Version("2.13")
# What compat says of a torch that lacks something.
_REFUSED: Final = r"torch {} (does not know|does not let|only copies|has no \w+ tensors)"
_MISSING: Final = (
    r"module 'torch[\w.]*' has no attribute '\w+'",
    r"type object 'torch[\w.]*' has no attribute '\w+'",
    r"'(Tensor|UntypedStorage|TypedStorage|dtype|torch\.dtype|Module|Linear)' object has no attribute '\w+'",
    r"No module named 'torch\.[\w.]+'",
    r"cannot import name '\w+' from 'torch[\w.]*'",
    r"'torch\.device' object does not support the context manager protocol",
    r"Weights only load failed\..* WeightsUnpickler error: Unsupported (operand|class)",  # torch 1.13 knows no floats
    r"Can't pickle local object 'convert_frame",  # torch 2.1 of what it compiled
    r"dtype torch\.\w+ is not recognized",
)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Skip where the torch that is here lacks what the test itself names; not where the code that it tests does."""
    try:
        return (yield)
    except Exception as error:
        if not _is_missing(error):
            raise
        pytest.skip(f"torch {torch.__version__}: {error}")


def _is_missing(error: Exception) -> bool:
    if isinstance(error, PeerError):
        return str(error).startswith("this torch has no")
    if Version(torch.__version__) >= _NOTHING_IS_MISSING_SINCE:
        return False
    if '"copy_kernel" not implemented for' in str(error):  # torch 2.1 of the dtypes of bits
        return True
    if isinstance(error, Unsupported):
        return re.search(_REFUSED.format(re.escape(torch.__version__)), str(error)) is not None
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f.filename for f in frames if "/site-packages/" not in f.filename and not f.filename.startswith("<")]
    raised_by_test = bool(ours) and Path(ours[-1]).is_relative_to(_TESTS)
    return raised_by_test and any(re.search(pattern, str(error)) for pattern in _MISSING)
