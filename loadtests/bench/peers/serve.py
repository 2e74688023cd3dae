"""`python -m loadtests.bench.peers.serve <module> <port>`: an ASGI application under the gateway's own settings."""

from __future__ import annotations

import sys

import uvicorn

if __name__ == "__main__":
    module, port = sys.argv[1:]
    uvicorn.run(
        f"loadtests.bench.peers.{module}:app", host="127.0.0.1", port=int(port), http="httptools", loop="uvloop",
        ws="none", access_log=False, log_level="warning", server_header=False, backlog=4096, timeout_keep_alive=600,
    )  # fmt: skip
