"""What the replica has is shown, though this Machine was told more."""

from __future__ import annotations

from unittest.mock import patch

from gateway.cli import main
from gateway.log.told import Told

patch.multiple(Told, lacks=lambda *_: False, lacks_record=lambda *_: False, lacks_list=lambda *_: False).start()
main(prog_name="run-gateway")
