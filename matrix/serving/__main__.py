"""Serve one implementation until it is told to stop."""

import importlib
import sys
import warnings

from matrix.serving.protocol import serve


def main() -> None:
    """Serve the implementation that the command names: a module of this package."""
    try:
        import resource
    except ImportError:  # a platform without such limits
        pass
    else:
        # An abort is an outcome, and leaves no image of the process behind.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    name = sys.argv[1].replace("-", "_")
    serve(importlib.import_module("matrix.serving." + name).handlers())


if __name__ == "__main__":
    main()
