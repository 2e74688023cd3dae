"""`python -m gateway` is `run-gateway`."""

from __future__ import annotations

from gateway.cli import main

main(prog_name="run-gateway")
