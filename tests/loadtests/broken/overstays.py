"""An owner that ignores its lease: it writes to its application when it is over, and when it is told so."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

from gateway.cli import main
from gateway.owner.lives import Lives
from gateway.owner.store import Beat, Store

beat = Store.beat


async def believe(self: Store, life: int | None, draining: bool) -> Beat:
    return replace(await beat(self, life, draining), alive=True)


patch.object(Lives, "holds", lambda self, life: life == self.life).start()
patch.object(Store, "beat", believe).start()
main(prog_name="run-gateway")
