"""The work of conversations, as the application itself tells it at paths that a row names."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Final
from urllib.parse import urlsplit

import httpcore

from gateway.http.upstream import CONNECT_TIMEOUT, BadGateway
from gateway.owner.rows import Row, Work, filled

MOMENT: Final = 5.0  # seconds for which writes wait, at most, while the application is asked what is idle
TIMEOUT: Final = 10.0  # seconds for an answer
AT_ONCE: Final = 16  # questions


class Asked:
    """The application, asked at the paths of a row. `origin`: where it is."""

    def __init__(self, row: Row, origin: str, pool: httpcore.AsyncConnectionPool) -> None:
        url = urlsplit(origin)
        self._row = row
        self._pool = pool
        self._place = (url.scheme.encode(), (url.hostname or "").encode("idna"), url.port)
        self._host = url.netloc.rpartition("@")[2].encode()
        self._room = asyncio.Semaphore(AT_ONCE)

    async def busy(self, ids: Sequence[bytes]) -> Collection[bytes]:
        """The conversations for which the path `busy` answers 200, or 5xx, or nothing for a MOMENT. One for which it
        fails keeps none of the others. Raises BadGateway.
        """
        path = self._row.busy
        assert path is not None, "a row without one has no work"
        asking = {id: asyncio.ensure_future(self._ask(filled(path, id))) for id in ids}
        try:
            await asyncio.wait(asking.values(), timeout=MOMENT)
            return [id for id, each in asking.items() if not each.done() or _works(each.result())]
        finally:
            for each in asking.values():
                each.cancel()
            await asyncio.gather(*asking.values(), return_exceptions=True)

    async def revive(self, ids: Sequence[bytes]) -> None:
        """Asks for the path `wake` of each. Raises BadGateway."""
        if self._row.wake is not None:
            answers = await asyncio.gather(*(self._ask(filled(self._row.wake, id)) for id in ids))
            if any(status >= 500 for status in answers):
                raise BadGateway

    async def _ask(self, target: bytes) -> int:
        """The answer's status, as soon as its head is there. Raises BadGateway for none."""
        scheme, host, port = self._place
        url = httpcore.URL(scheme=scheme, host=host, port=port, target=target)
        timeouts = {"connect": CONNECT_TIMEOUT, "read": TIMEOUT, "write": TIMEOUT}
        headers, more = [(b"host", self._host)], {"timeout": timeouts}
        try:
            async with self._room, self._pool.stream("GET", url, headers=headers, extensions=more) as answer:
                return answer.status
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise BadGateway from error


def _works(status: int) -> bool:
    return status == 200 or status >= 500


def work_of(row: Row, origin: str, pool: httpcore.AsyncConnectionPool) -> Work | None:
    """The port to a row's work; None: its open requests are all that is known."""
    if row.work is not None:
        return row.work
    return None if row.busy is None else Asked(row, origin, pool)
