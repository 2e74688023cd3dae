"""A transaction that is longer than its run's lease ends its own run: the lease alone counts from the call."""

from __future__ import annotations

from gateway.cli import main
from tests.loadtests.broken.log import break_log

break_log("transactional.sql", (", lease_until = run_gateway.leased_until(s.lease)", ""))
main(prog_name="run-gateway")
