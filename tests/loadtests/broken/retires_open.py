"""Retention removes what is old, and not only what was closed long ago."""

from __future__ import annotations

from gateway.cli import main
from tests.loadtests.broken.log import break_log

break_log("lifecycle.sql", ("s.closed_at >= after AND s.closed_at < since", "s.created_at < since"))
main(prog_name="run-gateway")
