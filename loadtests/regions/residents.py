"""Who lives in a region: writes a run at its Machine, reads everybody's run there, and takes the time.

`python -m loadtests.regions.residents` takes its orders as JSON and prints what it has measured; see Orders, Measured.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field

import httpx

from loadtests.people.continuity import Lines, Watch
from loadtests.regions.network import enter

TIMEOUT = httpx.Timeout(20.0)
QUIET = "-quiet"  # in the name of a run beside each of them, that nobody follows
MADE = 20  # runs that each region makes at the end
RETRY = 0.1  # seconds until somebody looks again for a run that is not there yet


@dataclass(frozen=True)
class Orders:
    """`runs` are those of all regions by name; `readers` follow each of them."""

    region: str
    pid: int
    url: str
    runs: dict[str, str]
    seconds: float
    pace: float
    readers: int


@dataclass
class Measured:
    """Milliseconds. The first requests are those of a Machine that has just started."""

    first_append: float = 0.0
    first_read: float = 0.0
    appends: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    deliveries: dict[str, list[float]] = field(default_factory=dict)  # by the region that wrote
    quiet: dict[str, list[float]] = field(default_factory=dict)  # reads of runs that nobody follows, by what is read
    lists: list[float] = field(default_factory=list)  # right after a run was made here, which is in it
    events: int = 0


class Residents:
    """One writer, its reads in between, and the readers of all runs."""

    def __init__(self, orders: Orders, http: httpx.AsyncClient) -> None:
        self.measured = Measured()
        self._orders = orders
        self._http = http
        self._run = orders.runs[orders.region]
        self._offsets = ["-1"]
        self._n = 0

    async def live(self) -> None:
        """From the creation of the region's run until everybody has read all runs to their end."""
        await self._request("PUT")
        await self._request("PUT", run=f"{self._run}{QUIET}")
        self.measured.first_append = await self._append()
        self.measured.first_read = await self._read()
        async with asyncio.TaskGroup() as tasks:
            for region in self._orders.runs:
                for _ in range(self._orders.readers):
                    tasks.create_task(self._follow(region))
            await self._work()

    async def _work(self) -> None:
        end = time.monotonic() + self._orders.seconds
        while time.monotonic() < end:
            self.measured.appends.append(await self._append())
            await self._request("POST", f'{{"n":{self._n}}}', run=f"{self._run}{QUIET}")
            self.measured.reads.append(await self._read())
            await self._look(random.choice(list(self._orders.runs.values())))
            await asyncio.sleep(random.expovariate(self._orders.pace))
        for _ in range(MADE):  # only now, as all lists take longer while runs begin
            await self._make_and_list()
        await self._append(last=True)

    async def _look(self, run: str) -> None:
        """As people do who come for a moment: a run that nobody follows here is opened, and gone on with; its record,
        and the list.
        """
        quiet = f"{run}{QUIET}"
        offset = await self._open("first page", quiet, "-1")
        if offset is not None:
            await self._open("resume", quiet, offset)
            await self._get("record", f"{self._orders.url}/runs/{quiet}?meta")
            await self._get("list", f"{self._orders.url}/runs?limit=20")

    async def _make_and_list(self) -> None:
        """Makes a run, which the list has to have: what takes the time is the list."""
        made = await self._http.post(f"{self._orders.url}/runs", json={})
        assert made.status_code == 201, made.text
        began = time.perf_counter()
        response = await self._http.get(f"{self._orders.url}/runs?limit=100")
        assert response.status_code == 200, response.text
        self.measured.lists.append(1000 * (time.perf_counter() - began))
        assert made.json()["runId"] in [run["runId"] for run in response.json()["runs"]], "it was acknowledged"

    async def _open(self, what: str, run: str, offset: str) -> str | None:
        """Takes the time until the first frame is there. Returns the offset in it; None: there is no such run yet."""
        began = time.perf_counter()
        query = {"offset": offset, "live": "sse"}
        async with self._http.stream("GET", self._url(run), params=query) as response:
            if response.status_code == 404:
                return None
            assert response.status_code == 200, response.status_code
            async for line in response.aiter_lines():
                if line.startswith("data:") and "streamNextOffset" in line:
                    self.measured.quiet.setdefault(what, []).append(1000 * (time.perf_counter() - began))
                    next_offset: str = json.loads(line.removeprefix("data:"))["streamNextOffset"]
                    return next_offset
        raise AssertionError("an event stream begins with where it stands")

    async def _get(self, what: str, url: str) -> None:
        began = time.perf_counter()
        response = await self._http.get(url)
        assert response.status_code == 200, response.text
        self.measured.quiet.setdefault(what, []).append(1000 * (time.perf_counter() - began))

    async def _append(self, *, last: bool = False) -> float:
        event = {"run": self._run, "n": self._n, "at": time.time(), "end": last}
        self._n += 1
        began = time.perf_counter()
        response = await self._request("POST", json.dumps(event), {"stream-closed": "true"} if last else {})
        self._offsets.append(response.headers["stream-next-offset"])
        return 1000 * (time.perf_counter() - began)

    async def _read(self) -> float:
        began = time.perf_counter()
        response = await self._http.get(self._url(self._run), params={"offset": random.choice(self._offsets)})
        assert response.status_code == 200, response.text
        return 1000 * (time.perf_counter() - began)

    async def _request(
        self, method: str, body: str = "", headers: dict[str, str] | None = None, run: str | None = None
    ) -> httpx.Response:
        told = {"content-type": "application/json", **(headers or {})}
        response = await self._http.request(method, self._url(run or self._run), content=body.encode(), headers=told)
        assert response.status_code in (200, 201, 204), response.text
        return response

    async def _follow(self, region: str) -> None:
        """Counts what was sent after it came. Raises Broken for anything but the whole run, once, in order."""
        watch = Watch(self._orders.runs[region])
        times = self.measured.deliveries.setdefault(region, [])
        while not watch.closed:
            query = {"offset": watch.offset, "live": "sse"}
            async with self._http.stream("GET", self._url(watch.run), params=query) as response:
                if response.status_code == 404:
                    await asyncio.sleep(RETRY)
                    continue
                assert response.status_code == 200, response.status_code
                came, lines, rest = time.time(), Lines(), b""
                async for piece in response.aiter_raw():
                    *ended, rest = (rest + piece).split(b"\n")
                    for batch in filter(None, map(lines.take, ended)):
                        watch.take(batch)
                        now = time.time()
                        times += [1000 * (now - event["at"]) for event in batch.events if event["at"] > came]
        self.measured.events += watch.read

    def _url(self, run: str) -> str:
        return f"{self._orders.url}/runs/{run}"


async def _main(orders: Orders) -> None:
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=httpx.Limits(max_connections=None), trust_env=False) as http:
        residents = Residents(orders, http)
        await residents.live()
    print(json.dumps(asdict(residents.measured)))


if __name__ == "__main__":
    orders = Orders(**json.loads(sys.argv[1]))
    enter(orders.pid)
    asyncio.run(_main(orders))
