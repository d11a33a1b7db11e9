"""Golden files of a project's own: written under one version of torch or of it, verified under every later one.

A corpus is a folder with one folder per version, `PACKAGE-VERSION`. Each has artefacts and `manifest.json`: who wrote
them and by what recipe, the SHA-256 of each, what each must read back as, and, for a module, inputs and outputs. What
is verified is values: of each artefact, of the module that it is loaded into, and of what that computes.

Not compared: outputs bit by bit, since another release may sum in another order; see `TOLERANCE`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import compat
from compat.errors import CompatError
from matrix.corpus.neutral import describe
from matrix.examples import Example, ExampleError, from_factory
from matrix.spec import CheckpointSpec, UnknownNodeError, compare
from matrix.tensors import build
from matrix.tensors import describe as describe_live

MANIFEST: Final = "manifest.json"
SEED: Final = 0
# Outputs may differ by so much: relative and absolute.
TOLERANCE: Final = (1e-4, 1e-5)
_SCHEMA: Final = 1
_WEIGHTS: Final = "weights.pt"


class ProjectError(RuntimeError):
    """A corpus that cannot be written or read; the message says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong with a corpus.

    Attributes:
        kind: `changed`, `missing`, `unlisted`, `stale`, `unreadable`, `values` or `outputs`.
        where: the folder, and the artefact; message: what was seen, and what was expected.
    """

    kind: str
    where: str
    message: str


def generate(
    folder: Path,
    *,
    factory: str | None = None,
    script: Path | None = None,
    package: str = "torch",
    overwrite: bool = False,
) -> Path:
    """Write the golden files of what is installed now.

    Args:
        folder: the corpus.
        factory: `package.module:factory` of a module.
        script: or a program that is run with a folder to write artefacts into.
        package: whose version names the folder.
        overwrite: whether a folder that is there is replaced.

    Returns:
        The folder that was written.

    Raises:
        ProjectError: there is such a folder, the script fails or writes nothing that is a checkpoint.
        ExampleError: the factory is none.
    """
    target = folder / f"{package}-{_version(package)}"
    if target.exists() and not overwrite:
        raise ProjectError(f"{target} is there, and golden files do not change by themselves; --overwrite replaces it")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".corpus-", dir=folder) as place:
        made = Path(place) / target.name
        made.mkdir()
        recipe = _by_factory(made, factory) if factory is not None else _by_script(made, script)
        files = {name: _artefact(made / name) for name in _names(made)}
        if not files:
            raise ProjectError(f"{script} wrote nothing into the folder that it was given")
        manifest = {"schema": _SCHEMA, "package": package, "versions": _versions(package), "files": files, **recipe}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        made.replace(target)
    return target


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError as error:
        raise ProjectError(f"the package {package} is not installed, so its version is not known") from error


def _versions(package: str) -> dict[str, str]:
    return {name: _version(name) for name in sorted({"torch", package})} | {"python": platform.python_version()}


def _names(folder: Path) -> list[str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(folder)) for path in paths if path.name != MANIFEST)


def _artefact(path: Path) -> dict[str, Any]:
    try:
        with compat.open(path) as checkpoint:
            spec = describe(checkpoint).to_json()
    except CompatError as error:
        raise ProjectError(f"{path.name} is no checkpoint that can be verified: {error}") from error
    return {"sha256": _sum(path), "spec": spec}


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _by_factory(made: Path, factory: str) -> dict[str, Any]:
    import torch

    example, module = _module(factory)
    torch.save(module.state_dict(), made / _WEIGHTS)
    recipe: dict[str, Any] = {"factory": factory, "seed": SEED}
    if example.inputs:
        recipe["inputs"] = describe_live(list(example.inputs)).to_json()
        recipe["outputs"] = describe_live(_outputs(module, example.inputs)).to_json()
    return recipe


def _module(factory: str) -> tuple[Example, Any]:
    example = from_factory(factory, SEED)
    if example.fresh is None:
        raise ExampleError(f"{factory} makes no module")
    return example, example.fresh().eval()


def _outputs(module: Any, inputs: Sequence[Any]) -> list[Any]:
    import torch

    with torch.no_grad():
        found = module(*inputs)
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _by_script(made: Path, script: Path | None) -> dict[str, Any]:
    if script is None or not script.is_file():
        raise ProjectError(f"{script} is no script; give one, or a factory as package.module:factory")
    done = subprocess.run([sys.executable, str(script), str(made)], capture_output=True, text=True, check=False)  # noqa: S603 - the user's own script
    if done.returncode:
        last = "; ".join(done.stderr.strip().splitlines()[-3:])
        raise ProjectError(f"{script} ended with exit code {done.returncode}: {last}")
    return {"script": script.name, "script_sha256": _sum(script)}


def verify(folder: Path, released: Sequence[str] = ()) -> Iterator[Finding]:
    """Everything that is wrong with a corpus, under what is installed now.

    Args:
        folder: the corpus.
        released: versions whose golden files must be there, beside those of what is installed.

    Raises:
        ProjectError: the folder is no corpus.
    """
    folders = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not folders:
        raise ProjectError(f"{folder} holds no {MANIFEST} one level below; write one: matrix corpus generate")
    packages = set()
    for made in folders:
        manifest = _manifest(made)
        packages.add(str(manifest["package"]))
        yield from _verify_one(made, manifest)
    for package in sorted(packages):
        for version in dict.fromkeys((*released, _version(package))):
            if not (folder / f"{package}-{version}" / MANIFEST).is_file():
                message = (
                    f"there are no golden files of {package} {version}; write them under it: matrix corpus generate"
                )
                yield Finding(kind="stale", where=folder.name, message=message)


def _manifest(made: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((made / MANIFEST).read_text(encoding="utf-8"))
        if manifest["schema"] != _SCHEMA:
            raise ProjectError(f"{made.name}/{MANIFEST} has schema {manifest['schema']!r}; expected {_SCHEMA}")
        dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(f"{made.name}/{MANIFEST} cannot be read: {type(error).__name__}: {error}") from error
    return manifest


def _verify_one(made: Path, manifest: dict[str, Any]) -> Iterator[Finding]:
    listed = manifest["files"]
    for name in _names(made):
        if name not in listed:
            yield Finding(kind="unlisted", where=f"{made.name}/{name}", message=f"{MANIFEST} does not list it")
    whole = True
    for name, facts in listed.items():
        where = f"{made.name}/{name}"
        if not (made / name).is_file():
            yield Finding(kind="missing", where=where, message="it is listed and not there")
            whole = False
        elif _sum(made / name) != facts["sha256"]:
            yield Finding(kind="changed", where=where, message=f"its sum is not {facts['sha256'][:16]}… any more")
            whole = False
        else:
            yield from _values(made / name, where, facts["spec"])
    if whole and "factory" in manifest:
        yield from _loaded(made, manifest)


def _values(path: Path, where: str, spec: dict[str, Any]) -> Iterator[Finding]:
    try:
        truth = CheckpointSpec.from_json(spec)
        with compat.open(path) as checkpoint:
            found = compare(truth, describe(checkpoint))
    except (CompatError, KeyError, TypeError, ValueError, UnknownNodeError) as error:
        yield Finding(kind="unreadable", where=where, message=f"{type(error).__name__}: {error}")
        return
    if found:
        yield Finding(kind="values", where=where, message=f"{len(found)} differences; the first: {found[0]}")


def _loaded(made: Path, manifest: dict[str, Any]) -> Iterator[Finding]:
    """What goes wrong when today's torch loads the weights into today's module, and runs it."""
    import torch

    where = f"{made.name}/{_WEIGHTS}"
    try:
        _, module = _module(manifest["factory"])
        module.load_state_dict(torch.load(made / _WEIGHTS, weights_only=True))
        if "inputs" not in manifest:
            return
        inputs = build(CheckpointSpec.from_json(manifest["inputs"]))
        seen = _outputs(module, inputs)
        expected = build(CheckpointSpec.from_json(manifest["outputs"]))
        rtol, atol = TOLERANCE
        torch.testing.assert_close(seen, expected, rtol=rtol, atol=atol, equal_nan=True)
    except AssertionError as error:
        first = str(error).strip().splitlines()[0]
        yield Finding(kind="outputs", where=where, message=f"the module computes something else: {first}")
    except Exception as error:  # noqa: BLE001 - whatever the user's module or torch raises is the finding
        text = str(error).strip().splitlines()
        yield Finding(kind="unreadable", where=where, message=f"{type(error).__name__}: {text[0] if text else ''}")
