"""Save something in a process of its own first: some releases end by a signal where they cannot."""

import io
import os
import signal
from typing import Any

from matrix.corpus.writer.release import torch

_SECONDS = 60


def fate(state: Any) -> str:
    """Say what torch.save makes of a state: `saved`, `refused`, or the signal that ended the process."""
    child = os.fork()
    if not child:
        code = 1
        signal.alarm(_SECONDS)
        try:
            torch.save(state, io.BytesIO())
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return "refused" if os.WEXITSTATUS(status) else "saved"
