"""Nobody notices that another server has taken over: its new events get the offsets of those that it lacks."""

from __future__ import annotations

from unittest.mock import patch

from gateway.cli import main
from gateway.log.identity import Server
from tests.loadtests.broken.log import break_log

break_log("epochs.sql", ("(s.system, s.timeline) = (now_system, now_timeline) IS NOT TRUE THEN", "false THEN"))
patch.object(Server, "went_back", lambda *_: False).start()
main(prog_name="run-gateway")
