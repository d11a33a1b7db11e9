"""Golden files by torch's neighbours, where they are installed beside it."""

import importlib
import os
from collections import OrderedDict
from typing import Any, Dict

from matrix.corpus.writer.release import torch

PACKAGES = ("numpy", "safetensors", "huggingface_hub", "gguf", "onnx", "onnxscript")


def add(folder: Any) -> None:
    """Write everything of this room."""
    add_npz(folder)
    add_safetensors(folder)
    add_shards(folder)
    add_gguf(folder)


def _arrays() -> Any:
    import numpy as np

    made: Dict[str, Any] = OrderedDict()
    made["float"] = np.arange(6, dtype=np.float32).reshape(2, 3) / 8
    made["turned"] = made["float"].T
    made["half"] = np.array([0.5, -2.0], np.float16)
    made["long"] = np.array([[1], [-2]])
    made["complex"] = np.array([1 - 2j])
    made["flags"] = np.array([True, False])
    made["scalar"] = np.array(2.5)
    made["empty"] = np.zeros((0, 2), np.uint8)
    return made


def _is_known(array: Any) -> bool:
    """Say whether this torch has the dtype, to tell the truth with."""
    try:
        torch.from_numpy(array.copy())
    except TypeError:
        return False
    return True


def add_npz(folder: Any) -> None:
    """Write arrays in numpy's own archive, stored and deflated."""

    def write(path: str, compressed: bool) -> str:
        import numpy as np

        made = {name: array for name, array in _arrays().items() if _is_known(array)}
        folder.spec("arrays-npz", OrderedDict((name, torch.from_numpy(array.copy())) for name, array in made.items()))
        (np.savez_compressed if compressed else np.savez)(path, **made)
        return "npz"

    folder.add("arrays.npz", "arrays-npz", "arrays", lambda path: write(path, False))
    folder.add("arrays-deflated.npz", "arrays-npz", "arrays", lambda path: write(path, True))


def _weights(folder: Any) -> Any:
    state = OrderedDict(folder.zoo.fill(folder.zoo.Small()).state_dict())
    state["half"] = torch.tensor([0.5, -2.0]).half()
    state["brain"] = torch.tensor([0.5, -2.0]).to(torch.bfloat16)
    return state


def add_safetensors(folder: Any) -> None:
    """Write a state with the library of the format."""

    def write(path: str) -> str:
        from safetensors.torch import save_file

        state = _weights(folder)
        folder.spec("weights", state)
        save_file(state, path, metadata={"note": "by the library"})
        return "safetensors"

    folder.add("weights.safetensors", "weights", "tensors", write)


def add_shards(folder: Any) -> None:
    """Write a state as an index and its shards, both kinds."""

    def write(path: str, safe: bool) -> str:
        save_torch_state_dict = importlib.import_module("huggingface_hub").save_torch_state_dict

        os.makedirs(path)
        state = _weights(folder)
        folder.spec("weights", state)
        save_torch_state_dict(state, path, max_shard_size=64, safe_serialization=safe)
        return "safetensors-sharded" if safe else "torch-sharded"

    folder.add("shards-safetensors", "weights", "tensors", lambda path: write(path, True))
    folder.add("shards-torch", "weights", "tensors", lambda path: write(path, False))


def add_gguf(folder: Any) -> None:
    """Write plain and quantised tensors with the package of the format."""

    def write(path: str) -> str:
        import numpy as np

        gguf: Any = importlib.import_module("gguf")
        values = np.arange(64, dtype=np.float32).reshape(2, 32) / 16
        writer = gguf.GGUFWriter(path, "golden")
        writer.add_uint32("golden.count", 3)
        plain: Dict[str, Any] = OrderedDict()
        plain.update({"single": values, "half": values[:1].astype(np.float16)})
        for name, array in plain.items():
            writer.add_tensor(name, array)
        blocks = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("blocks", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        truth = OrderedDict((name, torch.from_numpy(array.copy())) for name, array in plain.items())
        truth["blocks"] = torch.from_numpy(blocks.copy())
        truth["blocks"].ggml_type, truth["blocks"].ggml_shape = "Q8_0", [2, 32]
        folder.spec("gguf", truth)
        return "gguf"

    folder.add("weights.gguf", "gguf", "tensors", write)
