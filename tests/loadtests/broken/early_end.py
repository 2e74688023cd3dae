"""Law 9 broken: a tail tells its followers the end while there is more to come."""

from __future__ import annotations

import dataclasses
from unittest.mock import patch

from gateway.cli import main
from gateway.fanout.tail import Tail
from gateway.protocol.batch import Batch

publish = Tail.publish


def publish_with_an_end(tail: Tail, batch: Batch, cursor: int, now: float, _: bytes = b"") -> None:
    publish(tail, dataclasses.replace(batch, closed=batch.closed or batch.end > 20), cursor, now)


patch.object(Tail, "publish", publish_with_an_end).start()
main(prog_name="run-gateway")
