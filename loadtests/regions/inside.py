"""`run-gateway` in a region: enters the network namespace of the process REGION_PID, and is itself from then on."""

from __future__ import annotations

import os

from gateway.cli import main
from loadtests.regions.network import enter

enter(int(os.environ["REGION_PID"]))
main(prog_name="run-gateway")
