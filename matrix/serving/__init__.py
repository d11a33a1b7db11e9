"""What runs inside the interpreter of a peer and answers requests: `python -m matrix.serving IMPLEMENTATION`.

Python 3.6 syntax; the standard library and the implementation only. Nothing is inferred from a version: what an
implementation has is probed for, and told by `hello`.
"""
