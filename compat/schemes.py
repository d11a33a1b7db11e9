"""Names of checkpoints that are no paths: one registry that says what a scheme stands for.

A scheme leads from a name to where the bytes are: a URL, a path, or another name. `http://`, `https://` and every
protocol that fsspec knows (`s3://`, `gs://`, `memory://`…) are read as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Final

from compat.errors import MissingDependency, Unreadable, brief

Resolver = Callable[[str], str]

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_MAX_STEPS: Final = 8

_RESOLVERS: dict[str, Resolver] = {}


def register_scheme(prefix: str, resolver: Resolver) -> None:
    """Say what names with a prefix stand for; of several prefixes that fit, the longest decides.

    Args:
        prefix: what the names begin with, such as `open-mmlab://`.
        resolver: gets the whole name, and gives a path, a URL, or another name.
    """
    if not _URL.match(prefix):
        raise ValueError(f"{prefix!r} is no scheme; expected letters and ://, as in models://")
    _RESOLVERS[prefix] = resolver


def is_url(name: str) -> bool:
    """Whether a text is a name with a scheme; a Windows path with its drive is none."""
    return _URL.match(name) is not None


def resolve(name: str) -> str:
    """The path or URL that a name stands for.

    Raises:
        Unreadable: names lead to each other without end, or the resolver fails.
    """
    seen = name
    for _ in range(_MAX_STEPS):
        prefix = max((p for p in _RESOLVERS if seen.startswith(p)), key=len, default=None)
        if prefix is None:
            return seen
        try:
            found = _RESOLVERS[prefix](seen)
        except (LookupError, ValueError, AttributeError) as error:
            raise Unreadable(f"is not known to {prefix}: {error!s:.200}", source=name) from error
        if not isinstance(found, str) or found == seen:
            raise Unreadable(f"leads to {brief(found)}", source=name, expected="a path or a URL")
        seen = found
    raise Unreadable(f"leads from name to name, last to {brief(seen)}", source=name)


def _torchvision(name: str) -> str:
    """`torchvision://resnet18`, or `torchvision://resnet18.IMAGENET1K_V1` for other weights than the default."""
    try:
        models = import_module("torchvision.models")
    except ImportError as error:
        raise MissingDependency("torchvision", needed_for=name) from error
    model, _, which = name.partition("://")[2].partition(".")
    weights = models.get_model_weights(model)
    return str((weights[which] if which else weights.DEFAULT).url)


def _hub(name: str) -> str:
    """`hf://owner/repository/path/in/it`, with `@revision` behind the repository where it is not main."""
    found = re.fullmatch(r"hf://([^/]+)/([^/@]+)(?:@([^/]+))?/(.+)", name)
    if found is None:
        raise ValueError("expected hf://owner/repository/path or hf://owner/repository@revision/path")
    owner, repository, revision, path = found.groups()
    return f"https://huggingface.co/{owner}/{repository}/resolve/{revision or 'main'}/{path}"


register_scheme("file://", lambda name: re.sub(r"^/([A-Za-z]:)", r"\1", name.removeprefix("file://")))
register_scheme("torchvision://", _torchvision)
register_scheme("hf://", _hub)
