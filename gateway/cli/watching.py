"""`run-gateway runs --follow`: the list of runs, and then each change of it, through lost connections and restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx

from gateway.client import Session, Trouble, refusal

_PASSING: Final = (429, 503)
HEALTHY: Final = 1.0  # seconds of a connection that has worked


async def watch(http: Session, url: str, asked: dict[str, str]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yields what happened to a run, and its record: `listed` for those that were there. Never ends.

    Raises ClientError for what no patience helps.
    """
    last, backoff = "", http.backoff()
    clock = asyncio.get_running_loop().time
    while True:
        began, reason = clock(), ""
        headers = {"last-event-id": last} if last else {}
        try:
            query = asked | {"live": "sse"}
            async with http.http.stream("GET", url, params=query, headers=headers) as response:
                if response.status_code in _PASSING:
                    reason = f"{url}: {response.status_code}"
                elif response.status_code != 200:
                    await response.aread()
                    raise refusal(response)
                else:
                    async for id, data in _events(response):
                        last = id or last
                        for what, record in _told(data):
                            yield what, record
        except httpx.RequestError as error:
            reason = f"{url}: {error or type(error).__name__}"
        if clock() - began >= HEALTHY:
            backoff.reset()
        if reason or clock() - began < HEALTHY:
            wait = backoff.next()
            http.on_trouble(Trouble(reason or f"{url}: ended", backoff.failures, wait))
            await asyncio.sleep(wait)


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    """The id and the data of each event that came whole. The gateway ends lines with LF."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            lines = [line.partition(b":") for line in block.split(b"\n")]
            data = b"\n".join(value for name, _, value in lines if name == b"data").decode()
            yield next((value.strip().decode() for name, _, value in lines if name == b"id"), ""), data


def _told(data: str) -> list[tuple[str, dict[str, Any]]]:
    if not data:
        return []
    told = json.loads(data)
    listed = [("listed", record) for record in reversed(told.get("list", []))]
    return listed + [(each["change"], each["run"]) for each in told.get("changes", [])]
