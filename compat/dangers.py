"""What an unrestricted unpickler would do with a name: nothing to fear, run code of some library, or do harm.

Naming is enough: to look a name up, pickle imports its module. So a name is judged whether it is called or not.

Sources: `Lib/pickle.py` (`find_class`), the modules of Python's own library that start programs, read or write
files, reach the network or run code they are given; torch's own callers of `torch.load(weights_only=False)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from compat.allowlist import ALLOWED
from compat.pickles.shadows import COMPUTED, Named

HARMLESS: Final = "none"
WARNING: Final = "warning"
ERROR: Final = "error"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is thought of one name.

    Attributes:
        severity: `none`, `warning` (code that nobody here knows would run) or `error` (known to do harm).
        reason: why, as the end of a sentence about the name.
    """

    severity: str
    reason: str


# Values and containers of Python and numpy, records of torch: making one runs nothing that the file chooses.
_HARMLESS: Final = """
    builtins.int builtins.float builtins.bool builtins.str builtins.bytes builtins.list builtins.tuple builtins.dict
    builtins.frozenset builtins.slice builtins.range builtins.object builtins.Ellipsis builtins.NotImplemented
    collections.defaultdict collections.deque copyreg._reconstructor copyreg.__newobj__
    datetime.date datetime.datetime datetime.time datetime.timedelta datetime.timezone
    decimal.Decimal fractions.Fraction uuid.UUID argparse.Namespace types.SimpleNamespace
    pathlib.Path pathlib.PosixPath pathlib.PurePath pathlib.PurePosixPath pathlib.PureWindowsPath pathlib.WindowsPath
    numpy.dtype numpy.ndarray numpy.core.multiarray._reconstruct numpy.core.multiarray.scalar
    numpy.core.numeric._frombuffer numpy._core.multiarray._reconstruct numpy._core.multiarray.scalar
    numpy._core.numeric._frombuffer
    torch.channels_last torch.channels_last_3d torch.contiguous_format torch.preserve_format
    torch.nn.parameter.Buffer torch.nn.parameter.UninitializedBuffer torch.nn.parameter.UninitializedParameter
    torch.storage._TypedStorage torch.storage._UntypedStorage torch.storage._LegacyStorage torch.UntypedStorage
    torch.autograd.variable.Variable torch._utils._rebuild_sparse_csr_tensor torch._utils._rebuild_nested_tensor
    torch._utils._rebuild_xla_tensor torch._tensor._rebuild_from_type torch.strided
    torch.distributed._shard.sharded_tensor.metadata.TensorProperties
    torch.distributed._shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING io.BytesIO _io.BytesIO
"""
# Whole modules of torch that hold plain records and nothing else; `torch.jit._pickle` marks types.
_HARMLESS_MODULES: Final = (
    "torch.distributed.checkpoint.metadata",
    "torch.distributed._shard.checkpoint.metadata",
    "torch.jit._pickle",
)
_HARMLESS_NAMES: Final = frozenset(_HARMLESS.split())
# How `torch.distributed.checkpoint` says where its items lie.
_STORAGE_INFO: Final = ("torch.distributed.checkpoint.filesystem.", "torch.distributed._shard.checkpoint.filesystem.")

# Names by what they do. A name without a dot stands for a whole module and everything below it.
_HARMFUL: Final = {
    "runs programs": """
        os posix nt subprocess _posixsubprocess pty commands popen2 multiprocessing webbrowser antigravity
        uuid._get_command_stdout platform.popen _pyrepl pydoc.pipepager pydoc.tempfilepager
        distutils.spawn setuptools distutils.file_util ensurepip venv pip _osx_support _aix_support idlelib
        torch.utils.cpp_extension torch.utils.collect_env torch.distributed.run torch.distributed.launch
        torch.distributed.launcher torch.distributed.elastic numpy.f2py numpy.distutils numpy.testing test.support
    """,
    "runs code it is given": """
        builtins.eval builtins.exec builtins.execfile builtins.compile builtins.__import__ builtins.breakpoint
        builtins.apply builtins.input builtins.raw_input builtins.map builtins.filter builtins.reduce
        builtins.__build_class__ code codeop bdb pdb trace timeit profile cProfile doctest runpy importlib imp pkgutil
        zipimport _frozen_importlib _frozen_importlib_external site ctypes _ctypes cffi sys gc types.FunctionType
        types.CodeType types.LambdaType types.MethodType cloudpickle dill asyncio threading _thread concurrent signal
        atexit sched lib2to3 logging.config joblib.parallel pandas.eval numexpr sympy.sympify torch._dynamo
        torch._inductor torch.fx torch.package torch.utils._config_module torch.jit.load torch.ops torch.classes
        torch.jit.unsupported_tensor_ops torch.hub
    """,
    "reaches into objects or builds calls": """
        builtins.getattr builtins.setattr builtins.delattr builtins.globals builtins.locals builtins.vars
        operator _operator functools.partial functools.partialmethod functools.reduce functools.singledispatch
        functools._make_key _functools itertools.starmap itertools.accumulate inspect types.DynamicClassAttribute
        copyreg.add_extension copyreg.pickle copyreg.constructor
    """,
    "unpickles again, without limits": """
        pickle _pickle cPickle shelve marshal jsonpickle joblib torch.load torch.serialization.load
        torch.serialization._load torch.serialization._legacy_load torch.storage._load_from_bytes torch.hub.load
        torch.distributed.checkpoint.format_utils torch.distributed.checkpoint.state_dict_loader
        numpy.load numpy.lib.npyio numpy.core.multiarray.fromfile yaml pandas.read_pickle pandas.io.pickle
        torch.multiprocessing sklearn.externals.joblib torch.utils.data.datapipes.utils.decoder
    """,
    "decodes what it is given, names and code included": "codecs _codecs encodings base64 zlib gzip bz2 lzma",
    "reads or writes files": """
        builtins.open builtins.file io _io _pyio shutil tempfile fileinput glob linecache mmap zipfile tarfile sqlite3
        dbm py_compile compileall numpy.fromfile numpy.save numpy.savetxt numpy.savez numpy.memmap numpy.loadtxt
        numpy.genfromtxt torch.save torch.from_file torch.serialization.save
    """,
    "reaches the network": """
        socket _socket ssl http httplib urllib urllib2 urllib3 requests httpx aiohttp ftplib telnetlib smtplib poplib
        imaplib nntplib xmlrpc socketserver asyncore asynchat paramiko fsspec huggingface_hub
    """,
}
# Modules without any below them, whose names other people give to their packages too.
_ALONE: Final = frozenset(
    ("code", "trace", "profile", "site", "signal", "sched", "glob", "inspect", "test", "operator")
)
_DANGERS: Final = {name: what for what, names in _HARMFUL.items() for name in names.split()}


def judge(named: Named, *, inside: str = "") -> Judgement:
    """What an unrestricted unpickler would do with a name.

    Args:
        named: the name and how it is used.
        inside: the format of the file, where it changes what a name stands for.
    """
    name = str(named.name)
    if COMPUTED in name:
        return Judgement(ERROR, "is computed while unpickling, so that no reader can tell what it stands for")
    if "changed" in named.uses:
        return Judgement(ERROR, "is given a state itself, which changes it for the whole program")
    if inside == "torchscript" and name.startswith("__torch__."):
        return Judgement(HARMLESS, "is defined by the archive's own TorchScript code, which is no Python")
    if name in ALLOWED or name in _HARMLESS_NAMES or _is_record(named):
        return Judgement(HARMLESS, "only makes values")
    danger = _danger(named)
    if danger:
        return Judgement(ERROR, danger)
    if named.name.module == "copyreg._extension_registry":
        return Judgement(WARNING, "is a number that the reading program has a meaning for")
    verb = "imported, called and given a state" if {"called", "built"} <= named.uses else "imported and called"
    return Judgement(WARNING, f"would be {verb if named.uses else 'imported'}")


def _is_record(named: Named) -> bool:
    name, module = str(named.name), named.name.module
    if named.dotted:
        return False
    if module.startswith(("numpy.dtypes", "numpy.dtype[")) and name.endswith("DType"):
        return True
    return module in _HARMLESS_MODULES or name.startswith(tuple(f"{place}_StorageInfo" for place in _STORAGE_INFO))


def _danger(named: Named) -> str:
    """What a name is known to do; also for a name that leads there through another module's attributes."""
    parts = str(named.name).split(".")
    for start in range(len(parts) - 1 if named.dotted else 1):
        for end in range(len(parts), start, -1):
            place = ".".join(parts[start:end])
            # A last part alone is a name of its own, not the module that is called so.
            if place not in _DANGERS or (start > 0 and end == start + 1 == len(parts)):
                continue
            if place not in _ALONE or start > 0 or place == named.name.module:
                return _DANGERS[place]
    return ""
