"""One run whose last event is certain to be lost by a takeover, and readers of every mode who had it.

Law: whoever comes back with its offset is told by 410 how far the log went back, at whichever Machine, however many
other events have come in its place; and whoever reads from the beginning is given exactly what is there.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import httpx

from loadtests.people.continuity import START
from loadtests.survival.clients import AGAIN, PASSING, PATIENCE

_TYPE = {"content-type": "application/json"}
_GONE = 410
_IN_PLACE = 3  # events that come in place of what is lost: more than that


class Probe:
    """Its steps, in order. `wrong` is called with each violation."""

    def __init__(self, http: httpx.AsyncClient, doors: Sequence[str], wrong: Callable[[str], None]) -> None:
        self._http = http
        self._doors = doors
        self._wrong = wrong
        self._path = f"/runs/probe-{secrets.token_hex(6)}"
        self._common = ""  # the offset up to which both servers agree
        self._lost = ""  # the one after the event that is lost

    async def begin(self) -> None:
        """Writes what is not to be lost."""
        await self._ask(self._doors, "PUT", headers=_TYPE)
        self._common = await self._append("before", 0, "kept")

    async def lose(self) -> None:
        """Writes what no standby must have, and reads it at every Machine."""
        self._lost = await self._append("before", 1, "lost")
        for door in self._doors:
            page = await self._ask([door], "GET", params={"offset": self._common})
            if page.status_code != 200 or [event["n"] for event in page.json()] != ["lost"]:
                self._tell(f"what was acknowledged is answered {page.status_code} {page.text[:80]} before it is lost")

    async def judge(self) -> None:
        """Writes other events in its place, when another server has taken over, and comes back in every mode."""
        made = [f"new {number}" for number in range(_IN_PLACE)]
        for number, name in enumerate(made):
            await self._append("after", number, name)
        for door in self._doors:
            for mode, params, headers in self._ways():
                await self._come_back(door, mode, params, headers)
            names = await self._names(door)
            if names != ["kept", *made]:
                self._tell(f"a newcomer is given {names}")

    def _ways(self) -> list[tuple[str, Mapping[str, str], Mapping[str, str]]]:
        at = {"offset": self._lost}
        return [
            ("catch-up", at, {}),
            ("long-poll", at | {"live": "long-poll"}, {}),
            ("sse", at | {"live": "sse"}, {}),
            ("event-source", {"offset": START, "live": "sse"}, {"last-event-id": self._lost}),
        ]

    async def _come_back(self, door: str, mode: str, params: Mapping[str, str], headers: Mapping[str, str]) -> None:
        told = await self._ask([door], "GET", params=params, headers=headers)
        if told.status_code != _GONE:
            self._tell(f"a reader by {mode} comes back to what is lost, and is answered {told.status_code}")
        elif told.headers.get("stream-next-offset") != self._common:
            self._tell(f"a reader by {mode} is told to go back to {told.headers.get('stream-next-offset')}")

    async def _append(self, producer: str, seq: int, name: str) -> str:
        claim = {"producer-id": producer, "producer-epoch": "0", "producer-seq": str(seq)}
        body = json.dumps({"n": name}).encode()
        answer = await self._ask(self._doors, "POST", headers={**_TYPE, **claim}, content=body)
        if not answer.is_success:
            self._tell(f"an append is answered {answer.status_code}")
        offset: str = answer.headers.get("stream-next-offset", "")
        return offset

    async def _names(self, door: str) -> list[str]:
        names: list[str] = []
        offset, up_to_date = START, False
        while not up_to_date:
            page = await self._ask([door], "GET", params={"offset": offset})
            if page.status_code != 200:
                return [*names, f"{page.status_code}"]
            names += [event["n"] for event in page.json()]
            offset, up_to_date = page.headers["stream-next-offset"], "stream-up-to-date" in page.headers
        return names

    async def _ask(
        self, doors: Sequence[str], method: str, params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None, content: bytes = b"",
    ) -> httpx.Response:  # fmt: skip
        """The answer that is no "try again", of one door after the other. An event stream is not read."""
        while True:
            for door in doors:
                try:
                    async with self._http.stream(
                        method, door + self._path, params=params, headers=headers, content=content, timeout=PATIENCE
                    ) as response:
                        if "text/event-stream" not in response.headers.get("content-type", ""):
                            await response.aread()
                except httpx.RequestError:
                    continue
                if response.status_code not in PASSING:
                    return response
            await asyncio.sleep(AGAIN)

    def _tell(self, what: str) -> None:
        self._wrong(f"{self._path}: {what}")


@asynccontextmanager
async def open_probe(doors: Sequence[str], wrong: Callable[[str], None]) -> AsyncIterator[Probe]:
    """With a client of its own."""
    async with httpx.AsyncClient(trust_env=False) as http:
        yield Probe(http, doors, wrong)
