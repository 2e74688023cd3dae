"""One tenant's subscriptions, transactions, names and endpoints are never another tenant's trouble."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from gateway.subscriptions.resolver import Resolver
from tests.log.rig import connected
from tests.servers import PATIENCE, serving
from tests.subscriptions.tools import Received, Receiver, eventually, says

JSON = {"content-type": "application/json"}
KEYS = " ".join(f"{name}:read,write,control:{name[0] * 40}" for name in ("mallory@acme", "bob@globex"))
MALLORY, BOB = ({"authorization": "Bearer " + letter * 40} for letter in "mb")
SUBSCRIPTIONS = "/v1/stream/__ds/subscriptions"
SETTINGS: dict[str, Any] = {"auth": "keys", "keys": KEYS, "max_subscription_changes": 1000}


def pull(pattern: str = "**") -> dict[str, Any]:
    return {"type": "pull-wake", "pattern": pattern, "wake_stream": "wake"}


def hook(url: str) -> dict[str, Any]:
    return {"type": "webhook", "pattern": "**", "webhook": {"url": url}}


async def test_an_idle_transaction_and_a_put_stop_nobody(database_url: str) -> None:
    with serving(database_url, "direct", **SETTINGS) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http, connected(database_url) as idle:
            transaction = idle.transaction()
            await transaction.start()
            await idle.execute("SELECT run_gateway.create(E'acme\\x1fopen')")
            for number in range(3):
                made = await http.put(f"{SUBSCRIPTIONS}/s{number}", headers=MALLORY, json=pull())
                assert made.status_code == 201, made.text
                for who in (MALLORY, BOB):
                    created = await http.put(f"/v1/stream/x{number}", headers=JSON | who, content=b"[1]")
                    assert created.status_code == 201
            await transaction.commit()

            async def linked() -> bool:
                paths = [link["path"] for link in (await read(http, "s0"))["streams"]]
                return sorted(paths) == ["open", "x0", "x1", "x2"]

            await eventually(linked)


async def read(http: httpx.AsyncClient, id: str) -> Any:
    return (await http.get(f"{SUBSCRIPTIONS}/{id}", headers=MALLORY)).json()


async def test_streams_are_made_while_a_pattern_links_all_of_a_tenant(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.subscriptions.store._LINK_ROWS", 20)
    async with connected(database_url) as connection:
        await connection.execute("SELECT run_gateway.create(E'acme\\x1fold/' || n) FROM generate_series(1, 2000) n")
    with serving(database_url, "direct", **SETTINGS) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http:
            linking = [
                asyncio.create_task(http.put(f"{SUBSCRIPTIONS}/s{n}", headers=MALLORY, json=pull())) for n in range(4)
            ]
            beside = 0
            while not all(task.done() for task in linking):
                for who in (MALLORY, BOB):
                    made = await http.put(f"/v1/stream/new/{beside}", headers=JSON | who, content=b"[1]")
                    assert made.status_code == 201
                beside += 1
            assert [(await task).status_code for task in linking] == [201] * 4
            assert beside >= 2
            cursors = {link["path"]: link["acked_offset"] for link in (await read(http, "s3"))["streams"]}
            assert {path for path in cursors if path.startswith("old/")} == {f"old/{n}" for n in range(1, 2001)}
            assert {path for path in cursors if path.startswith("new/")} == {f"new/{n}" for n in range(beside)}


async def test_changes_a_second_are_each_tenants_own(database_url: str) -> None:
    with serving(database_url, "direct", auth="keys", keys=KEYS, max_subscription_changes=3) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http:
            answers = [await http.delete(f"{SUBSCRIPTIONS}/none", headers=MALLORY) for _ in range(30)]
            refused = [answer for answer in answers if answer.status_code == 429]
            assert refused and len(refused) <= 27
            assert {answer.json()["error"]["code"] for answer in refused} == {"TOO_MANY_CHANGES"}
            assert all(1 <= int(answer.headers["retry-after"]) <= 3 for answer in refused)
            assert (await http.put(f"{SUBSCRIPTIONS}/s", headers=BOB, json=pull())).status_code == 201


async def test_subscriptions_beyond_the_limit_are_refused(database_url: str) -> None:
    with serving(database_url, "direct", **SETTINGS, max_subscriptions_per_tenant=2) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http:
            made = [await http.put(f"{SUBSCRIPTIONS}/s{n}", headers=MALLORY, json=pull()) for n in (1, 2, 3, 1)]
            assert [answer.status_code for answer in made] == [201, 201, 409, 200]
            assert made[2].json()["error"]["code"] == "TOO_MANY_SUBSCRIPTIONS"
            assert (await http.put(f"{SUBSCRIPTIONS}/s", headers=BOB, json=pull())).status_code == 201


async def test_a_wake_stream_that_takes_no_wakes_is_refused_over_http(database_url: str) -> None:
    with serving(database_url, "direct", **SETTINGS) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http:
            await http.put("/v1/stream/wake", headers={"content-type": "text/plain"} | MALLORY)
            made = await http.put(f"{SUBSCRIPTIONS}/s", headers=MALLORY, json=pull())
            assert (made.status_code, made.json()["error"]["code"]) == (409, "WAKE_STREAM_REJECTED")


async def test_a_token_is_judged_before_a_body_is_read(database_url: str) -> None:
    with serving(database_url, "direct", **SETTINGS, request_timeout=2 * PATIENCE) as gateway:
        for action in ("callback", "ack", "release"):
            for shown in ("", "Authorization: Bearer forged\r\n"):
                head = f"POST {SUBSCRIPTIONS}/s/{action} HTTP/1.1\r\nHost: h\r\n{shown}Content-Length: 1000\r\n\r\n"
                async with asyncio.timeout(PATIENCE):
                    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                    writer.write(head.encode() + b"{")
                    assert await reader.readline() == b"HTTP/1.1 401 Unauthorized\r\n", "the rest has not come"
                    writer.close()
                    await writer.wait_closed()


async def test_a_name_that_is_no_name_is_a_bad_request(database_url: str) -> None:
    with serving(database_url, "direct", **SETTINGS) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http:
            for url in ("https://xn--a/", "https://xn--a.example/", "https://192.0.0.192/"):
                made = await http.put(f"{SUBSCRIPTIONS}/s", headers=MALLORY, json=hook(url))
                assert (made.status_code, made.json()["error"]["code"]) == (400, "WEBHOOK_URL_REJECTED")


async def test_unresolvable_names_delay_no_other_tenants_webhook(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, asked = threading.Event(), set[str]()

    def look_up(host: str) -> Sequence[str]:
        asked.add(host)
        if host.startswith("silent"):
            release.wait(PATIENCE)
            raise OSError("no such host")
        return ["127.0.0.1"]

    monkeypatch.setattr("gateway.subscriptions.webhooks.Resolver", lambda: Resolver(look_up, timeout=PATIENCE))
    async with Receiver() as receiver:
        try:
            with serving(database_url, "direct", **SETTINGS, allow_local_webhooks=True) as gateway:
                async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http:
                    for number in range(40):
                        body = hook(f"https://silent{number}.example/")
                        assert (
                            await http.put(f"{SUBSCRIPTIONS}/s{number}", headers=MALLORY, json=body)
                        ).status_code == 201
                    await http.put("/v1/stream/x", headers=JSON | MALLORY, content=b"[1]")
                    await eventually(lambda: len(asked) == 4)  # of the tenant's names, each in a thread that hangs
                    await http.put(
                        f"{SUBSCRIPTIONS}/s", headers=BOB, json=hook(receiver.url.replace("127.0.0.1", "localhost"))
                    )
                    await http.put("/v1/stream/x", headers=JSON | BOB, content=b"[1]")
                    await eventually(lambda: receiver.received)
                    assert len(asked) == 5 and "localhost" in asked
                    release.set()
        finally:
            release.set()


async def test_endpoints_that_hang_hold_up_no_other_tenants_webhook(database_url: str) -> None:
    hanging = 0

    async def answer(received: Received) -> bytes:
        nonlocal hanging
        if received.body["subscription_id"] == "honest":
            return await says(b'{"done":true}')(received)
        hanging += 1
        return await asyncio.Future[bytes]()

    async with Receiver() as receiver:
        receiver.answer = answer
        with serving(database_url, "direct", **SETTINGS, allow_local_webhooks=True) as gateway:
            async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http:
                for number in range(70):
                    await http.put(f"{SUBSCRIPTIONS}/s{number}", headers=MALLORY, json=hook(receiver.url))
                await http.put("/v1/stream/x", headers=JSON | MALLORY, content=b"[1]")
                await eventually(lambda: hanging == 16)
                await http.put(f"{SUBSCRIPTIONS}/honest", headers=BOB, json=hook(receiver.url))
                for number in range(5):
                    await http.put(f"/v1/stream/x{number}", headers=JSON | BOB, content=b"[1]")

                    async def done() -> bool:
                        document = (await http.get(f"{SUBSCRIPTIONS}/honest", headers=BOB)).json()
                        return all(link["acked_offset"] != "-1" for link in document["streams"])

                    await eventually(done)
                attempts = gateway.app._subscriptions.attempts
                assert attempts["done"] >= 1
