"""The protocol: one JSON request per line on standard input, one JSON reply per line on standard output.

A request is `{"seq": 1, "do": "read", …}`; its reply repeats `seq` and has either `done`, a dict, or `failed`, with
the type and the text of what was raised. `stop` ends the process.

Libraries print. So the replies go to a copy of standard output that only this module knows, and whatever else is
written there, from Python or from C, comes out on standard error.
"""

import json
import os
import sys
from typing import Any, Callable, Dict

VERSION = 1

Json = Dict[str, Any]
Handlers = Dict[str, Callable[[Json], Json]]

# How much of an error's text travels.
_TEXT = 2000


def serve(handlers: Handlers) -> None:
    """Answer requests until `stop`, or until no one asks any more."""
    requests, replies = _take_over()
    for line in requests:
        request = json.loads(line.decode("ascii"))
        replies.write((json.dumps(answer(handlers, request)) + "\n").encode("ascii"))
        replies.flush()
        if request.get("do") == "stop":
            return


def _take_over() -> Any:
    """Return the two ends of the conversation, out of reach of everyone else in this process."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def answer(handlers: Handlers, request: Json) -> Json:
    """Return the reply to one request; whatever is raised is a reply too."""
    seq, name = request.get("seq"), request.get("do")
    if name == "stop":
        return {"seq": seq, "done": {}}
    if name not in handlers:
        known = ", ".join(sorted([*handlers, "stop"]))
        return {"seq": seq, "failed": {"type": "UnknownRequest", "message": f"{name!r}; expected one of {known}"}}
    try:
        return {"seq": seq, "done": handlers[name](request)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        sys.stderr.flush()
        return {"seq": seq, "failed": {"type": type(error).__name__, "message": str(error)[:_TEXT]}}
