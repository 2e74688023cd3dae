"""`run_gateway`, the client, by the name that it has inside of the house. Its code is in `python/run_gateway`.

It is a package of its own, so that it needs nothing of the server's, and no `gateway.py` in somebody's folder hides it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Final

try:
    import run_gateway
except ModuleNotFoundError:  # a checkout that was not installed
    sys.path.append(str(Path(__file__).parent / "python"))
    import run_gateway
from run_gateway import *  # noqa: F403

__all__: list[str] = []
__all__ += run_gateway.__all__

MODULES: Final = ("address", "errors", "follow", "producer", "retry", "run", "session", "sse")
"""What could be imported by this name before: it still is, and is the same."""

for _name in MODULES:
    sys.modules[f"{__name__}.{_name}"] = import_module(f"run_gateway.{_name}")
