"""How tensors that share storage, have strides or hide in a tree lie in a format of named dense arrays.

Other readers of such a file must find every value they can: each distinct view is written densely, in logical
order, with conjugation and negation applied. What that loses is carried beside it and restored exactly:
which names share a storage, where in it they lie, and the tree that held them.
"""

from compat.layout._planning import Array, Layout, Limits, array_names, plan
from compat.layout._restoring import Found, restore
from compat.layout._rules import flip_signs

__all__ = ["Array", "Found", "Layout", "Limits", "array_names", "flip_signs", "plan", "restore"]
