"""Every error that compat raises on purpose: one root, typed facts, and a next step.

A message always says what was seen, what was expected, and what to do next. The facts it is made of stay
on the exception as fields, so that a program can act on them without parsing text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final


class CompatError(Exception):
    """A checkpoint, a target or a request that compat cannot serve.

    Attributes:
        source: the file or object concerned, as the user named it; None where there is none.
        seen: what was found.
        expected: what would have been right.
        hint: the next step for the user.
    """

    code: ClassVar[str] = "compat-error"

    def __init__(
        self, seen: str, *, source: object = None, expected: str | None = None, hint: str | None = None
    ) -> None:
        self.source = None if source is None else str(source)
        self.seen = seen
        self.expected = expected
        self.hint = hint
        super().__init__(seen)

    def __str__(self) -> str:
        text = self.seen if self.source is None else f"{self.source}: {self.seen}"
        if self.expected:
            text += f"; expected {self.expected}"
        return f"{text}. {self.hint}" if self.hint else text

    def to_json(self) -> dict[str, Any]:
        """The error as a JSON object: its code, its message and the fields behind it."""
        facts = {name: value for name, value in vars(self).items() if value is not None}
        return {"error": self.code, "message": str(self), **facts}


class UnknownFormat(CompatError):  # noqa: N818 - the public names are those of the field, as in design.md
    """The content is none of the known formats."""

    code = "unknown-format"


class Corrupt(CompatError):  # noqa: N818
    """The content claims to be a known format and breaks its rules.

    Attributes:
        offset: the byte offset of the first broken rule, where one is known.
    """

    code = "corrupt"

    def __init__(
        self,
        seen: str,
        *,
        source: object = None,
        offset: int | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.offset = offset
        super().__init__(seen, source=source, expected=expected, hint=hint)

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.offset is None else f"{text} (at byte {self.offset})"


class Unsupported(CompatError):  # noqa: N818
    """The request is well formed, but this format, device or build cannot hold it.

    Attributes:
        feature: the stable name of what is not supported, as in `Capabilities` and `allow_loss`.
        paths: the places in the checkpoint that need the feature, at most a few.
    """

    code = "unsupported"

    def __init__(
        self,
        seen: str,
        *,
        feature: str,
        paths: Iterable[str] = (),
        source: object = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.feature = feature
        self.paths = list(paths)
        super().__init__(seen, source=source, expected=expected, hint=hint)


_MODULE_HINT: Final = "compat.load_state_dict gives the weights of the pickled module at {}, without its class."


class UnsafeGlobals(CompatError):  # noqa: N818
    """The file names classes or functions that only unpickling could turn into objects.

    Attributes:
        globals: each global's full name and the paths that hold it.
        module: where a whole pickled module lies, whose weights can be recovered; None where there is none.
    """

    code = "unsafe-globals"

    def __init__(self, found: dict[str, list[str]], *, source: object = None, module: str | None = None) -> None:
        self.globals = found
        # The place of a whole pickled module among them: its weights can be had.
        self.module = module
        named = "; ".join(f"{name} at {', '.join(paths[:3])}" for name, paths in list(found.items())[:5])
        more = "" if len(found) <= 5 else f"; and {len(found) - 5} more"  # noqa: PLR2004
        super().__init__(
            f"holds objects of classes that compat does not import: {named}{more}",
            source=source,
            expected="tensors and plain values",
            hint=("" if module is None else f"{_MODULE_HINT.format(module)} ")
            + 'Pass on_unknown="keep" to get them as inert Opaque records, or, if you trust the file, '
            "weights_only=False to let torch import and call them; `compat scan` says what that would execute.",
        )


class MissingClass(CompatError):  # noqa: N818
    """A file that is unpickled, as was asked for, names a class or function that is not where it was.

    Attributes:
        name: the full name in the file.
        near: where else there is one of that name, among what is imported.
    """

    code = "missing-class"

    def __init__(self, name: str, *, looked: str, reason: str, near: list[str], source: object = None) -> None:
        self.name = name
        self.near = near
        target = near[0] if near else "package.module.Name"
        found = f"There is {' and '.join(near)}. " if near else "It may have moved. "
        super().__init__(
            f"names {name}, looked for {looked}: {reason}",
            source=source,
            expected="a class that can be imported under the name it had when the file was saved",
            hint=f"{found}Say where it is now: renamed={{{name!r}: {target!r}}}; or take the weights without the "
            "class: compat.load_state_dict.",
        )


class KeyCollision(CompatError):  # noqa: N818
    """Two keys would become one.

    Attributes:
        keys: for each key of the result that is claimed twice, the keys that claim it.
    """

    code = "key-collision"

    def __init__(self, collisions: dict[str, list[str]], *, source: object = None, hint: str = "") -> None:
        self.keys = collisions
        key, claimants = next(iter(collisions.items()))
        more = "" if len(collisions) == 1 else f" (and {len(collisions) - 1} more)"
        super().__init__(
            f"{', '.join(map(repr, claimants))} would all become {key!r}{more}",
            source=source,
            expected="every key to stay distinct",
            hint=hint or "Nothing was changed. Rename one of them first.",
        )


class Mismatch(CompatError):  # noqa: N818
    """Two things that had to be equal are not, for instance a converted file and its source."""

    code = "mismatch"


class MissingDependency(CompatError):  # noqa: N818
    """A library that this call needs is not installed.

    Attributes:
        package: the distribution to install.
    """

    code = "missing-dependency"

    def __init__(self, package: str, *, needed_for: str, install: str | None = None) -> None:
        self.package = package
        super().__init__(
            f"{needed_for} needs {package}, which is not installed",
            hint=f"Install it with: {install or f'python -m pip install {package}'}",
        )


class TargetExists(CompatError):  # noqa: N818
    """The target is already there and was not to be overwritten."""

    code = "target-exists"

    def __init__(self, target: object) -> None:
        super().__init__(
            "already exists and was left untouched",
            source=target,
            hint="Pass overwrite=True (--overwrite) to replace it, or choose another name.",
        )


class Unreadable(CompatError):  # noqa: N818
    """The source or the target cannot be opened: missing, a directory, no permission, no space."""

    code = "unreadable"


_SHOWN_ITEMS: Final = 4
_SHOWN_LEVELS: Final = 3
_SHOWN_BITS: Final = 256


def brief(value: Any, length: int = 80, levels: int = _SHOWN_LEVELS) -> str:
    """What a message shows of a value from a file, whatever that is.

    The `repr` of a tuple that holds another twice, which holds another twice…, would never end.
    """
    if isinstance(value, (str, bytes, bytearray)):
        return repr(value[:length])[:length]
    if isinstance(value, (list, tuple)):
        if not levels:
            return "…"
        shown = [brief(item, length, levels - 1) for item in value[:_SHOWN_ITEMS]]
        shown += ["…"] * (len(value) > _SHOWN_ITEMS)
        text = ", ".join(shown) + "," * (len(value) == 1)
        return (f"[{text.removesuffix(',')}]" if isinstance(value, list) else f"({text})")[:length]
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= _SHOWN_BITS else f"an int of {value.bit_length():,} bits"
    return f"a {type(value).__name__}"


def counted(count: int, noun: str) -> str:
    """A number of things in words: `1 tensor`, `2,000 tensors`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
