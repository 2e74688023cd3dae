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

MODULES: Final = {name: name for name in ("address", "errors", "producer", "retry", "run", "session", "sse")} | {
    "follow": "follower"
}
"""The names that could be imported from here before, and their names now: they still can be."""

for _name, _now in MODULES.items():
    sys.modules[f"{__name__}.{_name}"] = import_module(f"run_gateway.{_now}")
