"""A machine that does with checkpoints what people do, in any order, and knows what must come of it.

It holds a module that is trained, and files that were made of it at some time. Whatever happens to the module,
to one file, or to a copy of a file: the module has the state that the machine keeps as bytes, and every file
reads back as what was saved.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

import compat
from matrix.modules import build_module
from matrix.modulespec import ModuleSpec
from matrix.nodes import DictNode, IntNode, ODictNode, StrNode
from matrix.projections import bare_state
from matrix.spec import CheckpointSpec, compare
from matrix.strategies import modules
from matrix.tensors import describe

# What not every format promises to keep: bytes that no tensor shows.
_IGNORED: Final = frozenset({"storage-bytes"})
# What loading into a module leaves as the module has it.
_IN_A_MODULE: Final = _IGNORED | {
    "aliasing",
    "key-order",
    "kind",
    "metadata",
    "requires-grad",
    "storage-offset",
    "stride",
    "type",
}


class Library(Protocol):
    """What the machine is driven with: compat, or something broken in its place."""

    save: Callable[..., Any]
    load: Callable[..., Any]
    convert: Callable[..., Any]
    add_prefix: Callable[..., Any]
    strip_prefix: Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a file must read back as, and its format."""

    spec: CheckpointSpec
    format: str


def machine_of(library: Library, suffixes: Mapping[str, str], summed: frozenset[str]) -> type[RuleBasedStateMachine]:
    """The machine that drives a library.

    Args:
        library: what does the work.
        suffixes: format → suffix of its files, for the formats to be tried.
        summed: the formats that have sums of their tensors' bytes.
    """
    formats = tuple(suffixes)

    class Checkpoints(RuleBasedStateMachine):
        """Any sequence of save, load, train, convert, prefix, strip, move and damage."""

        files: Any = Bundle("files")

        def __init__(self) -> None:
            super().__init__()
            self.folder = Path(tempfile.mkdtemp(prefix="matrix-"))
            self.count = 0
            self.held: dict[Path, Held] = {}
            self.module: torch.nn.Module | None = None

        def teardown(self) -> None:
            shutil.rmtree(self.folder)

        def place(self, format_: str) -> Path:
            self.count += 1
            folder = self.folder / str(self.count)
            folder.mkdir()
            return folder / f"file{suffixes[format_]}"

        def live(self) -> torch.nn.Module:
            if self.module is None:
                raise RuntimeError("no module was made yet")
            return self.module

        @initialize(spec=modules())
        def begin(self, spec: ModuleSpec) -> None:
            """Make a module."""
            self.module = build_module(spec)
            self.truth = describe(self.live().state_dict())

        @rule(seed=st.integers(0, 9))
        def train(self, seed: int) -> None:
            """Change the module; files must not follow."""
            with torch.no_grad():
                for parameter in self.live().parameters():
                    parameter.add_(torch.tensor(seed + 1, dtype=parameter.dtype))
            self.truth = describe(self.live().state_dict())

        @rule(target=files, format_=st.sampled_from(formats))
        def save(self, format_: str) -> Path:
            """Save the module's state."""
            path = self.place(format_)
            library.save(self.live().state_dict(), path, format=format_)
            self.held[path] = Held(spec=self.truth, format=format_)
            return path

        @rule(target=files, path=files, format_=st.sampled_from(formats))
        def convert(self, path: Path, format_: str) -> Path:
            """Convert a file."""
            target = self.place(format_)
            library.convert(path, target, to=format_)
            self.held[target] = Held(spec=self.held[path].spec, format=format_)
            return target

        @rule(target=files, path=files, prefix=st.sampled_from(("module.", "_orig_mod.", "module._orig_mod.")))
        def wrap(self, path: Path, prefix: str) -> Path:
            """Save a file's state again with a prefix, as a wrapped module would."""
            target = self.place(formats[0])
            library.save(library.add_prefix(library.load(path), prefix), target, format=formats[0])
            self.held[target] = Held(spec=wrapped(self.held[path].spec, prefix), format=formats[0])
            return target

        @rule(path=files)
        def resume(self, path: Path) -> None:
            """Load a file into the module, whatever its keys begin with."""
            self.live().load_state_dict(library.strip_prefix(library.load(path)))
            expected, self.truth = bare_state(self.held[path].spec), describe(self.live().state_dict())
            if expected is not None:
                assert_same(expected, self.truth, _IN_A_MODULE)

        @rule(target=files, path=consumes(files))
        def move(self, path: Path) -> Path:
            """Move a file, with all that belongs to it."""
            self.count += 1
            folder = self.folder / str(self.count)
            path.parent.rename(folder)
            self.held[folder / path.name] = self.held.pop(path)
            return folder / path.name

        @rule(path=files, at=st.floats(0, 1, exclude_max=True), cut=st.booleans())
        def damage(self, path: Path, at: float, *, cut: bool) -> None:
            """Damage a copy of a file: it is refused, or reads as what it was."""
            folder = Path(shutil.copytree(path.parent, self.folder / "damaged"))
            try:
                _damage(folder, at, cut=cut)
                loaded = library.load(folder / path.name)
            except compat.CompatError:
                return
            finally:
                shutil.rmtree(folder)
            # A changed bit of a tensor shows only where the format has sums.
            if cut or self.held[path].format in summed:
                assert_same(self.held[path].spec, describe(loaded), _IGNORED)

        @rule(path=files)
        def read(self, path: Path) -> None:
            """A file reads back as what was saved, whatever happened since."""
            assert_same(self.held[path].spec, describe(library.load(path)), _IGNORED)

        @invariant()
        def the_module_is_what_it_was(self) -> None:
            """Nothing that is done with files changes the module."""
            if self.module is not None:
                assert_same(self.truth, describe(self.module.state_dict()), frozenset())

    return Checkpoints


def wrapped(spec: CheckpointSpec, prefix: str) -> CheckpointSpec:
    """The state of a wrapped module: a prefix on its keys, and an entry in `_metadata` for each wrapper."""
    spec = spec.rename_keys(lambda key: prefix + key)
    tree = spec.tree
    if not isinstance(tree, ODictNode) or not isinstance(tree.metadata, DictNode):
        return spec
    steps = prefix.rstrip(".").split(".")
    version = DictNode(items=((StrNode(value="version"), IntNode(value=1)),))
    added = tuple((StrNode(value=".".join(steps[:depth])), version) for depth in range(len(steps)))
    return replace(spec, tree=replace(tree, metadata=replace(tree.metadata, items=added + tree.metadata.items)))


def assert_same(expected: CheckpointSpec, seen: CheckpointSpec, ignored: frozenset[str]) -> None:
    """Fail with the first difference."""
    differences = compare(expected, seen, ignore=ignored)
    assert not differences, str(differences[0])  # noqa: S101 - how a machine of Hypothesis fails


def _damage(folder: Path, at: float, *, cut: bool) -> None:
    """Cut the largest file of a folder, or change a bit of it."""
    victim = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    position = int(len(content) * at)
    if cut:
        del content[position:]
    else:
        content[position] ^= 0x40
    victim.write_bytes(content)
