"""Shows what the replica has, though this Machine knows of more."""

from __future__ import annotations

from unittest.mock import patch

from gateway.cli import main
from gateway.log.watermarks import Watermarks

for name in ("exceed", "exceed_record", "exceed_list"):
    patch.object(Watermarks, name, lambda *_: False).start()
main(prog_name="run-gateway")
