"""What other programs' binary files are, where a mark at the front does not say it: tested by their structure.

Sources of the layouts: CPython's `Lib/pickletools.py`; TensorFlow's `saved_model.proto`, `graph.proto` and
`tensorflow/core/lib/io/format.h` (the table's mark); coremltools' `Model.proto`; the MessagePack specification and
`flax/serialization.py` (`_MsgpackExtType`).
"""

from __future__ import annotations

import pickle
import pickletools
import re
from collections.abc import Iterator
from io import BytesIO
from typing import Final

from compat.errors import CompatError, brief
from compat.formats._looks import Look, file_name
from compat.protobuf import BYTES, VARINT, Field, Reader
from compat.sources import Source

_TABLE_MARK: Final = (0xDB4775248B80FB57).to_bytes(8, "little")
_TENSORFLOW: Final = "TensorFlow reads it; compat does not."
_MAX_FIELDS: Final = 10_000
_MAX_STEPS: Final = 64
_FEW_OPCODES: Final = 3
_SKLEARN: Final = "A model of scikit-learn, saved by pickle or joblib. "


def foreign_look(source: Source) -> Look | None:
    """What the file of another program is; None where it is of none of those known here."""
    for recognise in (_tensorflow_table, _tensorflow_data, _protobuf, _flax, _pickle):
        look = recognise(source)
        if look is not None:
            return look
    return None


def _tensorflow_table(source: Source) -> Look | None:
    size = len(_TABLE_MARK)
    if source.size < 48 or bytes(source.read(source.size - size, size)) != _TABLE_MARK:  # noqa: PLR2004 - a footer
        return None
    return Look("a TensorFlow checkpoint's table (.index, or .ckpt of TensorFlow 1)", _TENSORFLOW)


def _tensorflow_data(source: Source) -> Look | None:
    # These bytes have no mark at all; this once, there is nothing but the name.
    if not re.search(r"\.data-\d{5}-of-\d{5}$", source.name):
        return None
    return Look("by its name the data of a TensorFlow checkpoint", _TENSORFLOW)


def _protobuf(source: Source) -> Look | None:
    """A message whose fields tile the whole file, as only few of each kind do."""
    if source.head[:1] not in (b"\x08", b"\x0a"):
        return None
    seen: dict[int, Field] = {}
    try:
        for count, field in enumerate(Reader(source).fields(0, source.size)):
            if count > _MAX_FIELDS:
                return None
            seen.setdefault(field.number, field)
        if set(seen) == {1, 2} and seen[1].wire == VARINT and seen[1].value == 1 and seen[2].wire == BYTES:
            return Look(
                "a TensorFlow SavedModel's graph (saved_model.pb)", f"{_TENSORFLOW} Its variables lie beside it."
            )
        if 1 in seen and seen[1].wire == VARINT and any(n >= 200 and f.wire == BYTES for n, f in seen.items()):  # noqa: PLR2004 - Model.proto
            return Look("a Core ML model", "coremltools reads it; compat does not.")
        if 1 in seen and seen[1].wire == BYTES and _is_node(Reader(source), seen[1]):
            return Look("a frozen TensorFlow graph (GraphDef)", _TENSORFLOW)
    except CompatError:
        return None
    return None


def _is_node(reader: Reader, node: Field) -> bool:
    """Whether a message is a GraphDef's node: a name, an operation, and little else."""
    fields = {field.number: field for field in reader.fields(node.start, node.end)}
    if not {1, 2} <= set(fields) <= {1, 2, 3, 4, 5, 6, 7} or fields[1].wire != BYTES or fields[2].wire != BYTES:
        return False
    return bool(re.fullmatch(r"[A-Z_][A-Za-z0-9_>]{0,80}", reader.text(fields[2])))


def _flax(source: Source) -> Look | None:
    """A MessagePack map that leads, key by key, to an array as flax packs one."""
    if _reaches_array(source.head):
        return Look("a Flax checkpoint (MessagePack)", "flax.serialization.msgpack_restore reads it; compat does not.")
    return None


def _reaches_array(head: bytes) -> bool:
    at = 0
    for _ in range(_MAX_STEPS):
        code = head[at : at + 1]
        if b"\x81" <= code <= b"\x8f":
            at += 1
        elif code in (b"\xde", b"\xdf"):
            at += 3 if code == b"\xde" else 5
        elif at and code in (b"\xc7", b"\xc8", b"\xc9"):
            width = {b"\xc7": 1, b"\xc8": 2, b"\xc9": 4}[code]
            # Extension type 1, which holds an array of shape, dtype and bytes.
            return head[at + 1 + width : at + 3 + width] == b"\x01\x93"
        else:
            return False
        key = re.match(rb"[\xa1-\xbf]|\xd9[\x01-\xff]", head[at : at + 2])
        if key is None:
            return False
        size = key[0][-1] & 0x1F if len(key[0]) == 1 else key[0][-1]
        name = head[at + len(key[0]) : at + len(key[0]) + size]
        if not name.isascii() or not name.decode("ascii").isprintable():
            return False
        at += len(key[0]) + size
    return False


def text_pickle(source: Source) -> Look | None:
    """A pickle of protocol 0, which is text."""
    return None if source.head.startswith(b"\x80") else _pickle(source)


def _pickle(source: Source) -> Look | None:
    opcodes = list(_opcodes(source.head))
    if not opcodes:
        return None
    names = [name for name, _ in opcodes]
    protocol = source.head[1] if names[0] == "PROTO" else 0
    if protocol > pickle.HIGHEST_PROTOCOL:
        return None
    # Older streams have no mark: they are letters, and must make sense to their end.
    if len(opcodes) < _FEW_OPCODES if names[0] == "PROTO" else names[-1] != "STOP":
        return None
    found = list(_globals(opcodes))
    if any(not re.fullmatch(r"[\w.<>]+", name) for name in found):
        return None
    if any(name.startswith("torch.distributed.checkpoint.") for name in found):
        return Look("the description of a torch.distributed.checkpoint folder", "Open the folder that it lies in.")
    named = f", whose first name is {brief(found[0])}" if found else ""
    roots = {name.partition(".")[0] for name in found}
    return Look(
        f"a pickle (protocol {protocol}) that torch.save did not write{named}",
        f"{_SKLEARN if roots & {'sklearn', 'joblib'} else ''}Unpickling executes what it says: look at it with "
        f"`compat scan {file_name(source)}` first. If you trust it, load it with what wrote it, and save its tensors.",
    )


def _opcodes(head: bytes) -> Iterator[tuple[str, object]]:
    """The opcodes at the front with their arguments, as far as they are whole; nothing where one makes no sense."""
    found: list[tuple[str, object]] = []
    try:
        found += ((opcode.name, argument) for opcode, argument, _ in pickletools.genops(BytesIO(head)))
    except Exception as error:  # noqa: BLE001 - whatever bytes make of it: it is not known to be a pickle
        if "unknown" in str(error) or not isinstance(error, (ValueError, EOFError)):
            return
    if found and (found[0][0] == "PROTO" or re.match(rb"[(c}\]]", head)):
        yield from found


def _globals(opcodes: list[tuple[str, object]]) -> Iterator[str]:
    texts: list[str] = []
    for name, argument in opcodes:
        if name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif name == "STACK_GLOBAL" and len(texts) > 1:
            yield f"{texts[-2]}.{texts[-1]}"
        elif isinstance(argument, str):
            texts.append(argument)
