"""Objects of a pickle stream that look foreign and have a neutral form after all.

- numpy's arrays, scalars and dtypes (see `compat.arrays`).
- Variables and Parameters as torch 0.1 to 0.3 wrote them: an object that is given its data and a state.
- tensors that are an object of their class, such as `torch.FloatTensor`, which is given a storage.
- objects that pickle protocols 0 and 1 make by a helper of `copyreg`: the class behind the helper is what counts.

Sources: `torch/autograd/variable.py` of torch 0.1 to 0.3 (`__reduce_ex__`, `__setstate__`), today's
`torch/_tensor.py` (`__setstate__`, "legacy serialization"), CPython's `Lib/copyreg.py`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from compat import arrays
from compat.checkpoint import Opaque, TensorRecord
from compat.pickles.reader import StandIn
from compat.tensorcalls import rebuild_tensor

_VARIABLES: Final = {
    "torch.autograd.variable.Variable": "tensor",
    "torch.nn.parameter.Parameter": "parameter",
}
_OLD_STATE: Final = 5
_TENSOR: Final = re.compile(r"torch\.(cuda\.)?(Double|Float|Half|Long|Int|Short|Char|Byte)?Tensor")


def neutral_form(node: Opaque) -> Any:
    """The value that an object stands for; None where it stays opaque.

    Raises:
        Corrupt: it is of a known kind, and its parts do not fit each other.
    """
    if node.name in _VARIABLES:
        return _variable(node)
    if _TENSOR.fullmatch(node.name):
        return _tensor(node)
    return arrays.from_opaque(node)


def _variable(node: Opaque) -> TensorRecord | None:
    """(data) and (requires_grad, volatile, hooks); earlier () and (data, creator, hooks, requires_grad, volatile)."""
    state, args = node.state, node.args
    if not _is_plain(node):
        return None
    if len(state) == _OLD_STATE:
        data, requires_grad = state[0], state[3]
    elif len(state) == 3 and args:  # noqa: PLR2004 - as above
        data, requires_grad = args[0], state[0]
    else:
        return None
    if not isinstance(data, TensorRecord) or not isinstance(requires_grad, bool):
        return None
    return replace(data, kind=_VARIABLES[str(node.name)], requires_grad=requires_grad)


def _tensor(node: Opaque) -> TensorRecord | None:
    """() and (storage, offset, size, stride)."""
    if not _is_plain(node) or node.args or len(node.state) != 4:  # noqa: PLR2004 - as above
        return None
    return rebuild_tensor(*node.state)


def _is_plain(node: Opaque) -> bool:
    """Whether an object was made by its class's name, given a state, and nothing else."""
    return isinstance(node.state, tuple) and not (node.callee or node.kwargs or node.items or node.pairs)


def without_helper(node: Opaque) -> Opaque:
    """The object as protocol 2 would describe it, where a helper of `copyreg` makes it; else the object itself."""
    made = _helped(node)
    if made is None:
        return node
    made.state, made.items, made.pairs = node.state, node.items, node.pairs
    return made


def _helped(node: Opaque) -> Opaque | None:
    args = node.args
    if node.made_by != "call" or node.callee is not None or node.kwargs or not args:
        return None
    kind = args[0]
    if not (isinstance(kind, type) and issubclass(kind, StandIn)):
        return None
    if node.name == "copyreg._reconstructor" and len(args) == 3:  # noqa: PLR2004 - class, base, state of the base
        is_plain = getattr(args[1], "global_name", "") == "builtins.object" and args[2] is None
        return Opaque(kind.global_name) if is_plain else None
    if node.name == "copyreg.__newobj__":
        return Opaque(kind.global_name, args[1:])
    return None
