"""Pull-wake goes deaf: a wake that could not be written counts as one, and nobody is woken again."""

from __future__ import annotations

from gateway.cli import main
from tests.loadtests.broken.log import break_log

break_log(
    "subscriptions.sql", ("IF lost_event IS NOT NULL THEN", "IF false THEN"), ("AND NOT run_gateway.is_untold(s)", "")
)
main(prog_name="run-gateway")
