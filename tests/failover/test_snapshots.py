"""A snapshot of a volume is put back: the server is the same, on the same timeline, and at an earlier moment."""

from __future__ import annotations

import asyncio

import httpx

from gateway.log.migrations import migrate
from tests.failover.servers import servers
from tests.faults.scene import gateway

PATIENCE = 120
JSON = {"content-type": "application/json"}


def producer(seq: int) -> dict[str, str]:
    return {"producer-id": "p", "producer-epoch": "0", "producer-seq": str(seq)}


async def post(http: httpx.AsyncClient, path: str, event: bytes, **headers: str) -> httpx.Response:
    """The answer once it is another one than "try again"."""
    while True:
        response = await http.post(path, headers={**JSON, **headers}, content=event)
        if response.status_code != 503:
            return response
        await asyncio.sleep(0.1)


async def test_machines_notice_that_a_server_went_back() -> None:
    async with asyncio.timeout(PATIENCE), servers() as all_of_them:
        server = await all_of_them.primary()
        await migrate(server.url)
        async with (
            gateway(server.url, heartbeat=1) as running,
            gateway(server.url, heartbeat=1) as other,
            httpx.AsyncClient(base_url=running.url, timeout=60) as http,
        ):
            assert (await http.put("/runs/a", headers=JSON)).status_code == 201
            assert (await http.put("/runs/b", headers=JSON)).status_code == 201
            assert (await post(http, "/runs/b", b'{"n":1}', **producer(0))).status_code == 200
            common = (await post(http, "/runs/a", b'{"n":1}')).headers["stream-next-offset"]
            await server.keep_snapshot()
            lost = (await post(http, "/runs/a", b'{"n":"lost"}')).headers["stream-next-offset"]
            assert lost.split("_")[0] == common.split("_")[0], "a restart is no failover"
            assert (await post(http, "/runs/b", b'{"n":"lost"}', **producer(1))).status_code == 200
            databases = [running.app._database, other.app._database]
            seen = await server.fetchval("SELECT run_gateway.written()")
            while not all(each.server is not None and each.server.written >= seen for each in databases):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

            await server.go_back()
            new = (await post(http, "/runs/a", b'{"n":2}')).headers["stream-next-offset"]
            assert new > lost > common and new.split("_")[0] > lost.split("_")[0]
            gone = await http.get("/runs/a", params={"offset": lost})
            assert gone.status_code == 410 and gone.headers["stream-next-offset"] == common
            assert (await http.get("/runs/a", params={"offset": common})).json() == [{"n": 2}]
            # A producer is told what it has to send again, and what was taken is taken once.
            gap = await post(http, "/runs/b", b'{"n":3}', **producer(2))
            assert (gap.status_code, gap.headers["producer-expected-seq"]) == (409, "1")
            for _ in range(2):
                again = await post(http, "/runs/b", b'{"n":2}', **producer(1))
                assert again.status_code in (200, 204)
            page = await http.get("/runs/b")
            rest = await http.get("/runs/b", params={"offset": page.headers["stream-next-offset"]})
            assert page.json() + rest.json() == [{"n": 1}, {"n": 2}], "a page is of one epoch"
            while not all(each.switches for each in databases):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert [each.switches for each in databases] == [1, 1], "one of them begins it, for all"
