"""What runs inside the interpreter of another torch release and writes its golden files.

Python 3.6 syntax, standard library and torch only; features of torch are probed for, never inferred from its
version. `python -m matrix.corpus.writer FOLDER` writes the files of the torch that is installed.
"""
