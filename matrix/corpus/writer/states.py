"""The states that golden files hold, one function each. One that this torch cannot make raises.

Values do not come from torch's random numbers, so that releases write the same ones.
"""

import pickle
import struct
from collections import OrderedDict
from typing import Any, Callable, Dict, List

from matrix import peer
from matrix.corpus.writer.release import torch
from matrix.corpus.writer.trying import fate

State = Callable[[Any], Any]

_COMMON = (
    *("float64", "float32", "float16", "bfloat16", "complex64", "complex128"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)

# A NaN with a payload, -0.0, and one: the first bytes of every tensor of these dtypes.
_SPECIAL = {
    "float64": struct.pack("<QdQ", 0x7FF8DEADBEEF0001, -0.0, 0x3FF0000000000000),
    "float32": struct.pack("<IfI", 0x7FC12345, -0.0, 0x3F800000),
    "float16": struct.pack("<HHH", 0x7E12, 0x8000, 0x3C00),
    "bfloat16": struct.pack("<HHH", 0x7FC5, 0x8000, 0x3F80),
    "bool": bytes([1, 0, 1]),
}


def _of_dtypes(names: List[str]) -> Any:
    """Return a tensor of every dtype from its bytes, so that no conversion of torch takes part."""
    items: List[Any] = []
    storages: List[Any] = []
    for name in names:
        size = 3 * peer.ITEMSIZES[name]
        data = _SPECIAL.get(name, bytes((7 + 89 * at) % 256 for at in range(size)))
        node = {"t": "tensor", "dtype": name, "shape": [3], "stride": [1], "storage_offset": 0, "kind": "tensor"}
        node.update({"storage": len(storages), "requires_grad": False, "conj": False, "neg": False})
        items.append([{"t": "str", "v": name}, node])
        storages.append({"data": data, "device": "cpu"})
    return peer.build({"version": peer.VERSION, "storages": storages, "tree": {"t": "dict", "v": items}})


def dtypes(_: Any) -> Any:
    """Return the dtypes that every release of its time can read back."""
    return _of_dtypes([name for name in _COMMON if name in peer.available_dtypes()])


def rare_dtypes(_: Any) -> Any:
    """Return those that torch writes in its older format and cannot read back."""
    found = [name for name in peer.available_dtypes() if name not in _COMMON and _is_written(name)]
    if not found:
        raise ValueError("this torch has none")
    return _of_dtypes(found)


def _is_written(dtype: str) -> bool:
    """Say whether this torch saves tensors of a dtype that it has."""
    try:
        return fate(_of_dtypes([dtype])) == "saved"
    except RuntimeError:  # "unsupported Storage type", on its way to bytes
        return False


def state(zoo: Any) -> Any:
    """Return a state_dict with its `_metadata` and tied weights."""
    return zoo.fill(zoo.Net()).state_dict()


def _trained(kind: Any, zoo: Any, **options: Any) -> Any:
    model = zoo.fill(torch.nn.Linear(2, 2))
    optimizer = kind(model.parameters(), lr=0.125, **options)

    def loss() -> Any:
        optimizer.zero_grad()
        value = model(torch.ones(1, 2)).sum()
        value.backward()
        return value

    for _ in range(2):
        optimizer.step(loss)
    return optimizer


def optimizers(zoo: Any) -> Any:
    """Return the states of several optimizers after two steps."""
    kinds: Dict[str, Dict[str, Any]] = {}
    kinds.update({"SGD": {"momentum": 0.5}, "Adam": {"amsgrad": True}, "RMSprop": {"centered": True}})
    kinds.update({"Adagrad": {}, "LBFGS": {"history_size": 2}})
    return {name: _trained(getattr(torch.optim, name), zoo, **options).state_dict() for name, options in kinds.items()}


def checkpoint(zoo: Any) -> Any:
    """Return what a training run saves: model, optimizer, scheduler, random numbers and counters."""
    optimizer = _trained(torch.optim.Adam, zoo)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
    torch.manual_seed(3)
    return {
        "epoch": 3,
        "best": 0.875,
        "state_dict": state(zoo),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state(),
        "args": {"arch": "net", "lr": 0.125, "milestones": [30, 60], "resume": None},
    }


def views(_: Any) -> Any:
    """Return views of shared storages in every layout that strides can say."""
    base = torch.arange(24.0).view(2, 3, 4)
    images = torch.arange(16.0).view(1, 2, 2, 4)
    made = OrderedDict([("base", base), ("again", base), ("turned", base.transpose(0, 2)), ("row", base[1, 2])])
    made["steps"] = base[:, ::2, 1:]
    made["overlapping"] = torch.as_strided(base, (3, 4), (2, 1), 5)
    made["expanded"] = torch.tensor([1.0, 2.0]).view(2, 1).expand(2, 3)
    made["channels_last"] = images.permute(0, 3, 1, 2)
    made["hiding"] = torch.arange(10)[4:6]
    made["scalar"] = torch.tensor(2.5)
    made["empty"] = torch.zeros(0, 3)
    made["nothing"] = base[2:]
    return made


def parameters(_: Any) -> Any:
    """Return Parameters, tied ones, and tensors that require a gradient."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    made: Dict[str, Any] = {"weight": weight, "tied": weight, "part": weight.data[1:]}
    made["frozen"] = torch.nn.Parameter(torch.tensor([3.0]), requires_grad=False)
    made["leaf"] = torch.tensor([4.0], requires_grad=True)
    made["listed"] = [torch.nn.Parameter(torch.ones(1)), (torch.zeros(1),)]
    return made


def extras(_: Any) -> Any:
    """Return plain values of every kind, nested, beside a tensor."""
    numbers = [0, -1, 2**40, -(2**70), 2**3000, True, 0.5, -0.0, float("inf"), float("nan"), 1 - 2j]
    made: Dict[str, Any] = OrderedDict()
    made["numbers"] = numbers
    made["text"] = ["", "caf\u00e9 \U0001f600", "a\nb\\", "x" * 300]
    made["none"] = None
    made["bytes"] = [b"", b"\x00\xff\n", b"y" * 300]
    made["nested"] = {"a": {"b": (1, (2, [3, {}]), ()), "a.b": torch.ones(2)}, 5: "int key", (1, "t"): None}
    made["sets"] = [{1, 2, 3}, set(), frozenset(["a"])]
    made["torch"] = [torch.Size([2, 3]), torch.float16, torch.int64, torch.device("cpu")]
    for name in ("strided", "sparse_coo", "channels_last", "per_tensor_affine"):
        value = getattr(torch, name, None)
        made["torch"] += [value] if _is_saved(value) else []
    return made


def _is_saved(value: Any) -> bool:
    """Say whether this torch pickles a value of its own."""
    try:
        return value is not None and pickle.loads(pickle.dumps(value, 2)) == value
    except (TypeError, pickle.PickleError):
        return False


def mixed(zoo: Any) -> Any:
    """Return a little of everything, for what depends on how a file is pickled."""
    base = torch.arange(6.0).view(2, 3)
    return {
        "state": zoo.fill(torch.nn.Linear(2, 3)).state_dict(),
        "views": [base, base.t(), base[1]],
        "parameter": torch.nn.Parameter(base[0]),
        "long": torch.tensor([1, -2, 3]),
        "plain": [None, True, 2**70, 0.1, "\u00fc", b"\x00\x80", (1,), {"k": {1.5: [()]}}],
        "again": {"x" * 256: ["same"] * 2},
    }


def sparse(_: Any) -> Any:
    """Return sparse tensors of coordinates, coalesced or not."""
    indices, values = torch.tensor([[0, 1, 1], [2, 0, 0]]), torch.tensor([3.0, 4.0, 5.0])
    coo = torch.sparse_coo_tensor(indices, values, (2, 3))
    made = {"coo": coo, "coalesced": coo.coalesce(), "hybrid": torch.sparse_coo_tensor(indices[:1], torch.ones(3, 2))}
    made["empty"] = torch.sparse_coo_tensor(torch.zeros(2, 0).long(), torch.zeros(0), (2, 3))
    return made


def compressed(_: Any) -> Any:
    """Return sparse tensors of every compressed layout that this torch has."""
    made = {}
    dense = torch.tensor([[0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 3.0, 0.0]])
    for layout in ("csr", "csc", "bsr", "bsc"):
        try:
            convert = getattr(dense, "to_sparse_" + layout)
            tensor = convert((1, 2)) if layout.startswith("bs") else convert()
        except (AttributeError, RuntimeError):  # younger than this release
            continue
        if fate(tensor) == "saved":
            made[layout] = tensor
    if not made:
        raise ValueError("this torch has none")
    return made


def quantized(_: Any) -> Any:
    """Return quantized tensors, per tensor and per channel."""
    source = torch.tensor([[-1.0, 0.5, 2.0], [3.0, -2.5, 0.25]])
    made = {
        str(dtype).replace("torch.", ""): torch.quantize_per_tensor(
            source, 0.25, 3 if dtype == torch.quint8 else 0, dtype
        )
        for dtype in (torch.quint8, torch.qint8, torch.qint32)
    }
    made["turned"] = made["qint8"].t()
    scales, points = torch.tensor([0.1, 0.3], dtype=torch.float64), torch.tensor([1, 2])
    made["channels"] = torch.quantize_per_channel(source, scales, points, 0, torch.qint8)
    return made


def lazy_bits(_: Any) -> Any:
    """Return conjugated and negated views, which torch keeps as flags."""
    values = torch.view_as_complex(torch.tensor([[1.0, 2.0], [3.0, -4.0]]))
    made = {"plain": values, "conj": values.conj(), "neg": torch.view_as_complex(torch.ones(1, 2)).conj().imag}
    if not made["conj"].is_conj():
        raise ValueError("this torch conjugates at once")
    return made


def nested(_: Any) -> Any:
    """Return a nested tensor of the strided kind."""
    make = getattr(torch, "nested", None)
    parts = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])]
    return {"nested": torch.nested_tensor(parts) if make is None else make.nested_tensor(parts), "plain": parts[1]}


def jagged(_: Any) -> Any:
    """Return a nested tensor of the jagged kind."""
    parts = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])]
    return {"jagged": torch.nested.nested_tensor(parts, layout=torch.jagged)}


def attributes(_: Any) -> Any:
    """Return a tensor with Python attributes."""
    noted = torch.ones(2)
    noted.note = {"by": [1, torch.zeros(1)]}
    return {"noted": noted}


def subclass(zoo: Any) -> Any:
    """Return a tensor of a subclass, which is the same tensor to who has no such class."""
    kind = type("Tagged", (torch.Tensor,), {"__module__": "zoo"})
    zoo.Tagged = kind
    return {"tagged": torch.arange(3.0).as_subclass(kind)}


def buffers(_: Any) -> Any:
    """Return a buffer that is an object of its own."""
    return {"buffer": torch.nn.Buffer(torch.ones(2)), "passing": torch.nn.Buffer(torch.zeros(1), persistent=False)}


def arrays(_: Any) -> Any:
    """Return numpy arrays, scalars and dtypes beside tensors."""
    import numpy as np

    grid = np.arange(6, dtype=np.float32).reshape(2, 3)
    made: Dict[str, Any] = {}
    made.update({"array": grid, "turned": grid.T, "part": grid[:, ::2], "flags": np.array([True, False])})
    made.update({"complex": np.array([1 + 2j]), "empty": np.zeros((0, 2), np.int16), "zero": np.array(3)})
    made.update({"text": np.array(["a", "\u00fc"]), "scalar": np.float64(0.1), "count": np.int64(-5)})
    made.update({"flag": np.bool_(True), "dtype": np.dtype("int16"), "tensor": torch.ones(1)})
    return made


def storages(_: Any) -> Any:
    """Return bare storages, and a tensor over one of them."""
    base = torch.arange(4.0)
    typed = (getattr(base, "_typed_storage", None) or base.storage)()
    made = {"typed": typed, "tensor": base[1:], "long": torch.tensor([1, 2]).storage()}
    if hasattr(base, "untyped_storage"):
        made["untyped"] = torch.tensor([5, 6], dtype=torch.int16).untyped_storage()
    return made


def meta(_: Any) -> Any:
    """Return tensors without bytes."""
    made = torch.empty(2, 3, device="meta")
    return {"meta": made, "parameter": torch.nn.Parameter(torch.empty(2, device="meta")), "real": torch.ones(1)}


STATES = OrderedDict(
    (made.__name__, made)
    for made in (
        state, checkpoint, optimizers, dtypes, rare_dtypes, views, parameters, extras, mixed, sparse, compressed,
        quantized, lazy_bits, nested, jagged, attributes, subclass, buffers, arrays, storages, meta,
    )
)  # fmt: skip

# Older releases lose a part of these without saying so: what is left is what they read back themselves.
LOSSY = ("lazy_bits", "attributes")
