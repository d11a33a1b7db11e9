"""Write the golden files of the torch that runs this: `python -m matrix.corpus.writer FOLDER`.

FOLDER gets the files, `index.json` (what each file holds, as the spec it must read back as, and what this torch
could not write, with its reason) and PROVENANCE (what wrote them, and the sum of each).
"""

import datetime as dt
import hashlib
import importlib
import json
import os
import platform
import shutil
import sys
import warnings
from collections import OrderedDict
from typing import Any, Callable, Dict

from matrix import peer
from matrix.corpus.writer import archives, folders, others
from matrix.corpus.writer.plain import as_kept, plain
from matrix.corpus.writer.release import torch
from matrix.corpus.writer.saving import load_zoo, save
from matrix.corpus.writer.states import LOSSY, STATES
from matrix.corpus.writer.trying import fate

# Pickled again in every protocol, and in every container.
PROTOCOLS = (0, 1, 2, 3, 4, 5)
_REASON = 160


class Folder:
    """The folder of one release: its files, the specs they must read back as, and what could not be written."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.zoo = load_zoo()
        self.files: Dict[str, Dict[str, Any]] = OrderedDict()
        self.specs: Dict[str, Any] = OrderedDict()
        self.absent: Dict[str, str] = OrderedDict()

    def spec(self, name: str, state: Any) -> None:
        """Describe what files hold, before a writer can change it."""
        self.specs[name] = peer.describe(as_kept(plain(state)))

    def add(self, name: str, spec: str, holds: str, write: Callable[[str], Any], **facts: Any) -> None:
        """Write one file or folder with `write(path)`; what it raises is the reason why there is none."""
        path = os.path.join(self.path, name)
        try:
            form = write(path)
        except Exception as error:  # whatever a release raises where it cannot
            self.refuse(name, error)
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.exists(path):
                os.remove(path)
            return
        self.files[name] = dict({"format": form, "holds": holds, "spec": spec}, **facts)
        if holds == "tree":
            self.files[name]["writer_reads"] = self.read_back(name, spec)

    def read_back(self, name: str, spec: str) -> str:
        """Say what the release that wrote a file makes of it; what it lost in writing is no part of the truth."""
        path = os.path.join(self.path, name)
        try:
            try:
                state = torch.load(path, weights_only=False)
            except TypeError:  # before torch 1.13
                state = torch.load(path)
            seen = peer.describe(plain(state))
        except Exception as error:  # some dtypes are written and cannot be read
            return "{}: {:.{}}".format(type(error).__name__, str(error), _REASON)
        if seen == self.specs[spec]:
            return "the same"
        if spec in LOSSY:
            self.files[name]["spec"] = name
            self.specs[name] = seen
        return "something else"

    def refuse(self, name: str, error: Exception) -> None:
        """Note why there is no such file."""
        lines = str(error).strip().splitlines() or [""]
        self.absent[name] = "{}: {:.{}}".format(type(error).__name__, lines[0], _REASON)


def add_states(folder: Folder) -> None:
    """Write every state in every container, and one of them in every pickle protocol."""
    for name, make in STATES.items():
        try:
            state = make(folder.zoo)
            folder.spec(name, state)
        except Exception as error:  # whatever a release raises where it cannot
            folder.refuse(name, error)
            continue
        ended = fate(state)
        if ended.startswith("signal"):
            folder.refuse(name, OSError(f"torch.save ends its process by {ended}"))
            continue
        for wanted in ("torch-zip", "torch-legacy"):
            add_state(folder, name, wanted, state)
            for protocol in PROTOCOLS if name == "mixed" else ():
                add_state(folder, name, wanted, state, f"-protocol{protocol}", pickle_protocol=protocol)


def add_state(folder: Folder, name: str, wanted: str, state: Any, suffix: str = "", **options: Any) -> None:
    """Write one state in one container."""
    file = "{}{}.{}.pt".format(name, suffix, wanted.replace("torch-", ""))
    folder.add(file, name, "tree", lambda path: save(state, path, wanted, **options))


def add_modules(folder: Folder) -> None:
    """Write whole modules, whose truth is their state_dict."""
    zoo = folder.zoo
    modules = OrderedDict([("module", zoo.fill(zoo.Net()).eval()), ("sequence", zoo.sequence())])
    modules["parallel"] = torch.nn.DataParallel(zoo.fill(zoo.Net()))
    for name, module in modules.items():
        folder.spec(name, module.state_dict())
        whole = {"epoch": 1, "model": module} if name == "parallel" else module
        facts = {"key": "model"} if name == "parallel" else {}
        for wanted in ("torch-zip", "torch-legacy"):
            file = "{}.{}.pt".format(name, wanted.replace("torch-", ""))
            if wanted == "torch-legacy" and name != "module" and name + ".zip.pt" in folder.files:
                continue  # where it is not the default: these files hold the source text of every class
            folder.add(file, name, "module", lambda path: save(whole, path, wanted), **facts)


def entries(folder: Folder) -> Dict[str, str]:
    """Return the SHA-256 of every file below the folder but PROVENANCE."""
    sums = {}
    for place, _, names in os.walk(folder.path):
        for name in names:
            path = os.path.join(place, name)
            with open(path, "rb") as file:
                sums[os.path.relpath(path, folder.path).replace(os.sep, "/")] = hashlib.sha256(file.read()).hexdigest()
    sums.pop("PROVENANCE", None)
    return sums


def version_of(name: str) -> str:
    """Return the version of a package, or that it is not there."""
    try:
        try:
            from importlib.metadata import version
        except ImportError:  # Python before 3.8
            return str(importlib.import_module(name).__version__)
        return version(name)
    except ImportError:
        return "not installed"


def finish(folder: Folder) -> None:
    """Write the index and the provenance."""
    used = {facts["spec"] for facts in folder.files.values()}
    for name in set(folder.specs) - used:
        del folder.specs[name]
    index = ["{", '"version": 1,', f'"torch": "{torch.__version__}",']
    for title, table in (("files", folder.files), ("absent", folder.absent), ("specs", folder.specs)):
        rows = [
            "{}: {}".format(json.dumps(name), json.dumps(row, separators=(",", ":"))) for name, row in table.items()
        ]
        index.append('"{}": {{\n{}\n}}{}'.format(title, ",\n".join(rows), "," if title != "specs" else ""))
    text = "\n".join([*index, "}"]) + "\n"
    json.loads(text)
    with open(os.path.join(folder.path, "index.json"), "w") as file:
        file.write(text)
    facts = OrderedDict([("torch", torch.__version__), ("python", platform.python_version())])
    facts.update((name, version_of(name)) for name in others.PACKAGES)
    libc = " ".join(platform.libc_ver())
    facts["platform"] = f"{platform.system()} {platform.machine()} {libc}"
    facts["date"] = dt.date.today().isoformat()
    facts["command"] = f"python -m matrix.corpus.writer matrix/corpus/{os.path.basename(folder.path)}"
    with open(os.path.join(folder.path, "PROVENANCE"), "w") as file:
        file.writelines("{}: {}\n".format(*fact) for fact in facts.items())
        file.write("\nsha256:\n")
        file.writelines(f"{total}  {name}\n" for name, total in sorted(entries(folder).items()))


def main() -> None:
    """Write everything into the folder that the command names, which must not be there yet."""
    folder = Folder(os.path.abspath(sys.argv[1]))
    os.makedirs(folder.path)
    warnings.simplefilter("ignore")
    add_states(folder)
    add_modules(folder)
    for room in (archives, others, folders):
        room.add(folder)
    finish(folder)
    for name, reason in folder.absent.items():
        print("absent", name, reason)
    for name, facts in folder.files.items():
        if facts.get("writer_reads", "the same") != "the same":
            print("odd", name, facts["writer_reads"])
    print("wrote", len(folder.files), "files")


if __name__ == "__main__":
    main()
