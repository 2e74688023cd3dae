"""A commit that was given is not kept: a TTL and a lease count from the call of a transaction, not from its commit."""

from __future__ import annotations

from gateway.cli import main
from tests.loadtests.broken.log import break_log

break_log("transactional.sql", ("IF num_nonnulls(ttl, lease) > 0 THEN", "IF false THEN"))
main(prog_name="run-gateway")
