"""A rejoin that does not look: what the agent server sends again is recorded as if it were new."""

from __future__ import annotations

from unittest.mock import patch

from gateway.cli import main
from gateway.relay.known import Overlap

patch.object(Overlap, "over", property(lambda _: True)).start()
main(prog_name="run-gateway")
