# -*- coding: utf-8 -*-
"""Write the golden files of a torch under Python 2.7: `python2.7 matrix/corpus/python2.py FOLDER`.

For Python 2.7 alone, and therefore a file of its own: it describes what it writes in the JSON form of
`matrix/peer.py`, which needs Python 3. A `str` is described as text, as torch's own readers take it.
"""

from __future__ import print_function

import base64
import ctypes
import datetime as dt
import hashlib
import json
import os
import pickle
import platform
import struct
import sys
from collections import OrderedDict

import torch
from torch import nn

PROTOCOLS = (0, 1, 2)


class Net(nn.Module):
    """What is pickled whole. As a class of `__main__` it is nothing that a reader can import."""

    def __init__(self):
        super(Net, self).__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 4)])
        self.head = nn.Linear(4, 4)
        self.head.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        """Return the head's output."""
        x = self.norm(self.conv(x)).mean(3).mean(2)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Describer(object):
    """Describes a state as `peer.describe` does, as far as this file's states go."""

    def __init__(self):
        self.storages = []
        self.index = {}

    def node(self, value):
        """Return the node of a value."""
        kind = type(value)
        if value is None:
            return {"t": "none"}
        if kind is bool:
            return {"t": "bool", "v": value}
        if kind in (int, long):  # noqa: F821 - Python 2
            small = -(1 << 63) <= value < 1 << 63
            return {"t": "int", "v": str(int(value)) if small else hex(value).rstrip("L")}
        if kind is float:
            return {"t": "float", "v": packed(value)}
        if kind is complex:
            return {"t": "complex", "v": [packed(value.real), packed(value.imag)]}
        if kind is str:
            return text(value)
        if kind is unicode:  # noqa: F821 - Python 2
            return {"t": "str", "v": value}
        if kind in (list, tuple):
            return {"t": kind.__name__, "v": [self.node(item) for item in value]}
        if kind is set:
            items = [self.node(item) for item in value]
            return {"t": "set", "v": sorted(items, key=lambda item: json.dumps(item, sort_keys=True))}
        if kind in (dict, OrderedDict):
            return self.mapping(value)
        if kind.__module__ == "numpy":
            return self.numpy(value)
        if kind is torch.Size:
            return {"t": "size", "v": list(value)}
        if kind is torch.dtype:
            return {"t": "dtype", "v": str(value)[len("torch.") :]}
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        raise TypeError("no node for a " + kind.__name__)

    def mapping(self, value):
        """Return the node of a dict."""
        made = {"t": "dict" if type(value) is dict else "odict"}
        made["v"] = [[self.node(key), self.node(item)] for key, item in value.items()]
        if hasattr(value, "_metadata"):
            made["metadata"] = self.node(value._metadata)
        return made

    def numpy(self, value):
        """Return the dict that `writer/plain.py` spells an array or a scalar as."""
        is_array = hasattr(value, "flags") and type(value).__name__ == "ndarray"
        rows = [("(kind)", "numpy array" if is_array else "numpy scalar")]
        facts = [("dtype", value.dtype.str)]
        facts += [("shape", tuple(value.shape)), ("order", "C")] if is_array else []
        nodes = [[self.node(name), self.node(item)] for name, item in rows + facts]
        content = [self.node("bytes"), {"t": "bytes", "v": base64.b64encode(value.tobytes())}]
        nodes.insert(1 if is_array else 2, content)
        return {"t": "dict", "v": nodes}

    def tensor(self, value):
        """Return the node of a tensor."""
        storage = value.storage()
        if storage._cdata not in self.index:
            size = storage.size() * storage.element_size()
            data = ctypes.string_at(storage.data_ptr(), size) if size else b""
            self.index[storage._cdata] = len(self.storages)
            self.storages.append({"data": base64.b64encode(data), "device": "cpu"})
        made = {"t": "tensor", "dtype": str(value.dtype)[len("torch.") :], "shape": list(value.size())}
        made.update({"stride": list(value.stride()), "storage_offset": value.storage_offset()})
        made.update({"storage": self.index[storage._cdata], "requires_grad": value.requires_grad})
        made["kind"] = "parameter" if type(value) is nn.Parameter else "tensor"
        made.update({"conj": False, "neg": False})
        return made


def text(value):
    """Return the node of a `str`: text, and bytes that are none survive as lone surrogates."""
    try:
        return {"t": "str", "v": value.decode("utf-8")}
    except UnicodeDecodeError:
        escaped = u"".join(unichr(0xDC00 + byte) if byte & 0x80 else chr(byte) for byte in bytearray(value))  # noqa: F821
        return {"t": "str", "x": escaped.encode("utf-8").encode("hex")}


def saved(*values):
    """Return those values of torch that this torch pickles."""
    kept = []
    for value in values:
        try:
            pickle.dumps(value, 0)
            kept.append(value)
        except (pickle.PicklingError, TypeError):
            pass
    return kept


def packed(value):
    """Return a float's bits."""
    return struct.pack(">d", value).encode("hex")


def describe(state):
    """Return the spec of a state."""
    describer = Describer()
    tree = describer.node(state)
    return {"version": 1, "storages": describer.storages, "tree": tree}


def states():
    """Return what is saved, by name."""
    net = Net()
    with torch.no_grad():
        for place, (_, value) in enumerate(sorted(net.state_dict().items())):
            if value.dtype == torch.float32:
                value.copy_((torch.arange(float(value.numel())) * 0.375 + 0.625 + place).view(tuple(value.size())))
    base = torch.arange(12.0).view(3, 4)
    views = {
        "base": base,
        u"turned": base.t(),
        "row": base[1],
        "hiding": torch.arange(9)[3:5],
        "scalar": torch.tensor(2.5),
    }
    views["parameter"] = nn.Parameter(base[2])
    text = {"bytes": "abc", "utf-8": "caf\xc3\xa9", u"unicode": u"caf\xe9 \U0001f600", 5: "int key", 6 << 40: "long key"}
    plain = {"text": text, "long": 2**70, "small long": long(3), "nested": [(1, [2.5, {}]), {1, 2}]}  # noqa: F821
    plain.update({"none": None, "flag": True, "complex": 1 - 2j, "torch": saved(torch.Size([1, 2]), torch.float16)})
    dtypes = {}
    for name in ("float64", "float32", "int64", "int32", "int16", "int8", "uint8", "float16", "bool"):
        if hasattr(getattr(torch, name, None), "is_floating_point"):
            dtypes[name] = torch.tensor([1, 0, 1]).to(getattr(torch, name))
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    trained = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    made = [
        ("state", net.state_dict()),
        ("views", views),
        ("extras", plain),
        ("dtypes", dtypes),
        ("checkpoint", trained),
        ("raw-text", {"raw": "\x80\xff", "tensor": torch.ones(1)}),
    ]
    return net, made + arrays()


def arrays():
    """Return numpy arrays and a scalar, whose bytes Python 2 pickles as text."""
    try:
        import numpy as np
    except ImportError:
        return []
    values = {"array": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "scalar": np.float64(0.1)}
    return [("arrays", dict(values, long=np.array([-1, 200]), tensor=torch.ones(1)))]


def save(state, path, wanted, **options):
    """Save in the container that is wanted."""
    try:
        torch.save(state, path, _use_new_zipfile_serialization=wanted == "zip", **options)
    except TypeError:
        if wanted == "zip":
            raise ValueError("this torch has no such container")
        torch.save(state, path, **options)


def write(folder):
    """Write the files; return the index."""
    net, made = states()
    files, specs, absent = OrderedDict(), OrderedDict(), OrderedDict()

    def add(name, state, wanted, holds, spec, **options):
        path = os.path.join(folder, name)
        try:
            save(state, path, wanted, **options)
        except Exception as error:
            absent[name] = "{}: {}".format(type(error).__name__, str(error)[:160])
            if os.path.exists(path):
                os.remove(path)
            return
        files[name] = {"format": "torch-" + wanted, "holds": holds, "spec": spec}

    for name, state in made:
        specs[name] = describe(state)
        for wanted in ("zip", "legacy"):
            add("{}.{}.pt".format(name, wanted), state, wanted, "tree", name)
            for protocol in PROTOCOLS if name in ("extras", "views") else ():
                file = "{}-protocol{}.{}.pt".format(name, protocol, wanted)
                add(file, state, wanted, "tree", name, pickle_protocol=protocol)
    specs["module"] = describe(net.state_dict())
    for wanted in ("zip", "legacy"):
        add("module.{}.pt".format(wanted), net, wanted, "module", "module")
    return files, absent, specs


def finish(folder, files, absent, specs):
    """Write the index and the provenance."""
    rows = ["{", '"version": 1,', '"torch": "{}",'.format(torch.__version__)]
    for title, table in (("files", files), ("absent", absent), ("specs", specs)):
        lines = [
            "{}: {}".format(json.dumps(name), json.dumps(row, separators=(",", ":"))) for name, row in table.items()
        ]
        rows.append('"{}": {{\n{}\n}}{}'.format(title, ",\n".join(lines), "," if title != "specs" else ""))
    with open(os.path.join(folder, "index.json"), "wb") as file:
        file.write("\n".join(rows) + "\n}" + "\n")
    facts = [("torch", torch.__version__), ("python", platform.python_version())]
    try:
        import numpy as np

        facts.append(("numpy", np.__version__))
    except ImportError:
        facts.append(("numpy", "not installed"))
    facts.append(("platform", "{} {} {}".format(platform.system(), platform.machine(), " ".join(platform.libc_ver()))))
    facts.append(("date", dt.date.today().isoformat()))
    facts.append(("command", "python2.7 matrix/corpus/python2.py matrix/corpus/" + os.path.basename(folder)))
    with open(os.path.join(folder, "PROVENANCE"), "wb") as file:
        file.writelines("{}: {}\n".format(*fact) for fact in facts)
        file.write("\nsha256:\n")
        for name in sorted(os.listdir(folder)):
            if name != "PROVENANCE":
                with open(os.path.join(folder, name), "rb") as one:
                    file.write("{}  {}\n".format(hashlib.sha256(one.read()).hexdigest(), name))


def main():
    """Write everything into the folder that the command names."""
    folder = os.path.abspath(sys.argv[1])
    os.makedirs(folder)
    files, absent, specs = write(folder)
    finish(folder, files, absent, specs)
    for name, reason in absent.items():
        print("absent", name, reason)
    print("wrote", len(files), "files")


if __name__ == "__main__":
    main()
