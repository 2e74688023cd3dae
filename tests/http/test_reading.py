"""GET without `live`, and long-poll (§5.6, §5.7, §8, §10.1), over real sockets."""

from __future__ import annotations

import asyncio

import pytest

from tests.http.answers import JSON, START, at, refusal
from tests.servers import Client, Running, client_of, until

TEXT = {"Content-Type": "text/plain; charset=latin-1"}


async def test_everything_is_read_from_the_start(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON, content='[{"a": 1.10}, "é"]')
    for query in ("", "?offset=-1", f"?offset={START}", "?offset=0_0"):
        answer = await client("GET", path + query)
        assert answer.content == '[{"a": 1.10},"é"]'.encode()
        assert answer.headers["stream-next-offset"] == at(2)
        assert answer.headers["stream-up-to-date"] == "true"
        assert "stream-closed" not in answer.headers
        assert "stream-cursor" not in answer.headers


async def test_the_content_type_is_echoed_to_the_letter(client: Client, path: str) -> None:
    await client("PUT", path, headers=TEXT, content=b"\xe9\r\n")
    answer = await client("GET", path)
    assert answer.headers["content-type"] == "text/plain; charset=latin-1"
    assert answer.content == b"\xe9\r\n"


async def test_a_read_goes_on_where_the_last_one_ended(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    for _ in range(5):
        await client("POST", path, headers=JSON, json=["x" * 500] * 30)
    offset, pages = "-1", 0
    events: list[str] = []
    while True:
        answer = await client("GET", f"{path}?offset={offset}")
        events += answer.json()
        pages += 1
        assert offset < answer.headers["stream-next-offset"]
        offset = answer.headers["stream-next-offset"]
        if "stream-up-to-date" in answer.headers:
            break
        assert len(answer.content) < 12_000
        assert "no-cache" not in answer.headers["cache-control"], "a page that is full never changes"
    assert events == ["x" * 500] * 150
    assert pages > 5
    assert offset == at(150)


async def test_at_the_end_of_a_closed_stream_is_an_empty_closed_answer(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON | {"Stream-Closed": "true"}, content="[1]")
    for query, body in (("", b"[1]"), (f"?offset={at(1)}", b"[]"), ("?offset=now", b"[]")):
        answer = await client("GET", path + query)
        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["stream-closed"] == answer.headers["stream-up-to-date"] == "true"
        assert answer.headers["stream-next-offset"] == at(1)


async def test_now_is_the_tail_and_never_kept(client: Client, path: str) -> None:
    await client("PUT", path, headers=TEXT, content=b"abc")
    answer = await client("GET", path + "?offset=now")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["stream-next-offset"] == at(1)
    assert answer.headers["stream-up-to-date"] == "true"
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers


async def test_what_the_client_has_is_not_sent_again_until_it_changes(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON, content="[1]")
    tag = (await client("GET", path)).headers["etag"]
    for value in (tag, f'"other", W/{tag}', "*"):
        same = await client("GET", path, headers={"If-None-Match": value})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert (await client("GET", path, headers={"If-None-Match": '"other"'})).status_code == 200
    await client("POST", path, headers={"Stream-Closed": "true"})
    closed = await client("GET", path, headers={"If-None-Match": tag})
    assert (closed.status_code, closed.headers["stream-closed"]) == (200, "true")
    assert closed.headers["etag"] != tag
    now = await client("GET", path + "?offset=now", headers={"If-None-Match": "*"})
    assert now.status_code == 200


async def test_a_stream_made_anew_has_other_etags(client: Client, path: str) -> None:
    tags = set()
    for _ in range(2):
        await client("PUT", path, headers=JSON, content="[1]")
        tags.add((await client("GET", path)).headers["etag"])
        await client("DELETE", path)
    assert len(tags) == 2


@pytest.mark.parametrize(
    "query",
    [
        "offset=",
        "offset=abc",
        "offset=-1&offset=-1",
        "offset=-1%0A",
        "live=sse",
        "live=long-poll",
        "live=",
        "live=never&offset=-1",
        "live=sse&live=sse&offset=-1",
        "cursor=1&cursor=1",
        "offset=-2",
        "offset=1,2",
        "&".join(f"p{n}=" for n in range(100)),
    ],
)
async def test_a_read_that_cannot_be_is_refused(client: Client, path: str, query: str) -> None:
    await client("PUT", path, headers=JSON)
    assert refusal(await client("GET", f"{path}?{query}")) == (400, "invalid_request")


async def test_what_is_not_there_is_said_in_every_mode(client: Client, path: str) -> None:
    for query in ("", "?offset=now", "?offset=-1&live=long-poll", "?offset=-1&live=sse"):
        answer = await client("GET", path + query)
        assert refusal(answer) == (404, "stream_not_found")
        assert answer.headers["x-content-type-options"] == "nosniff"


# tail=N


async def test_a_run_is_read_from_so_many_events_before_its_tail(client: Client, run: str) -> None:
    await client("PUT", run, headers=JSON, content="[1,2,3,4,5]")
    for query, expected in (("tail=2", [4, 5]), ("tail=1&offset=-1", [5]), ("tail=9", [1, 2, 3, 4, 5])):
        answer = await client("GET", f"{run}?{query}")
        assert answer.json() == expected
        assert answer.headers["stream-next-offset"] == at(5)
    polled = await client("GET", f"{run}?tail=2&offset=-1&live=long-poll")
    assert polled.json() == [4, 5]
    assert refusal(await client("GET", f"{run}?tail=2&live=long-poll")) == (400, "invalid_request")


@pytest.mark.parametrize(
    "query", ["tail=0", "tail=-1", "tail=x", "tail=", "tail=1&tail=1", "tail=1&offset=now", "tail=1.5"]
)
async def test_a_tail_that_cannot_be_is_refused(client: Client, run: str, query: str) -> None:
    await client("PUT", run, headers=JSON)
    assert refusal(await client("GET", f"{run}?{query}")) == (400, "invalid_request")


async def test_elsewhere_a_tail_means_nothing(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON, content="[1,2]")
    for query in ("tail=1", "tail=0", "tail=x"):
        assert (await client("GET", f"{path}?{query}")).json() == [1, 2]


async def test_the_etag_of_a_tail_is_that_of_what_it_held(client: Client, run: str) -> None:
    await client("PUT", run, headers=JSON, content="[1,2,3]")
    tag = (await client("GET", f"{run}?tail=1")).headers["etag"]
    assert (await client("GET", f"{run}?tail=1", headers={"If-None-Match": tag})).status_code == 304
    assert (await client("GET", f"{run}?tail=2", headers={"If-None-Match": tag})).status_code == 200
    await client("POST", run, headers=JSON, content="4")
    assert (await client("GET", f"{run}?tail=1", headers={"If-None-Match": tag})).json() == [4]


# Long-poll


async def test_a_long_poll_answers_at_once_with_what_is_there(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON, content="[1]")
    answer = await client("GET", f"{path}?offset=-1&live=long-poll")
    assert (answer.status_code, answer.json()) == (200, [1])
    assert answer.headers["stream-cursor"].isdigit()
    assert answer.headers["stream-next-offset"] == at(1)


async def test_a_long_poll_waits_for_what_comes(client: Client, gateways: dict[str, Running], path: str) -> None:
    await client("PUT", path, headers=JSON)
    for number, machine in enumerate(gateways.values(), 1):
        async with client_of(machine) as other:
            polling = asyncio.create_task(client("GET", f"{path}?offset=now&live=long-poll"))
            await until_polled(gateways, path)
            await other("POST", path, headers=JSON, content=f"[{number}]")
            answer = await polling
            assert (answer.status_code, answer.json()) == (200, [number])
            assert answer.headers["stream-next-offset"] == at(number)


async def until_polled(gateways: dict[str, Running], path: str) -> None:
    """Waits until a reader of this stream has nothing more to read."""
    name = path.removeprefix("/v1/stream/")

    def waits() -> bool:
        tails = [running.app._hub.tails.get(name) for running in gateways.values()]
        return any(tail is not None and tail.waiting for tail in tails)

    await until(waits)


async def test_a_long_poll_ends_without_data_where_its_reader_stands(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON, content="[1]")
    answer = await client("GET", f"{path}?offset={at(1)}&live=long-poll")
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["stream-next-offset"] == at(1)
    assert answer.headers["stream-up-to-date"] == "true"
    assert answer.headers["cache-control"] == "no-store"
    first = int(answer.headers["stream-cursor"])
    again = await client("GET", f"{path}?offset={at(1)}&live=long-poll&cursor={first}")
    assert int(again.headers["stream-cursor"]) > first


async def test_a_long_poll_at_the_end_of_a_closed_stream_does_not_wait(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON | {"Stream-Closed": "true"}, content="[1]")
    for offset in (at(1), "now"):
        answer = await client("GET", f"{path}?offset={offset}&live=long-poll")
        assert answer.status_code == 204
        assert answer.headers["stream-closed"] == answer.headers["stream-up-to-date"] == "true"
        assert answer.headers["stream-next-offset"] == at(1)
        assert "stream-cursor" not in answer.headers


async def test_a_long_poll_gets_the_last_event_as_the_stream_closes(
    client: Client, gateways: dict[str, Running], path: str
) -> None:
    await client("PUT", path, headers=JSON)
    poll = asyncio.create_task(client("GET", f"{path}?offset=now&live=long-poll"))
    await until_polled(gateways, path)
    await client("POST", path, headers=JSON | {"Stream-Closed": "true"}, content="[1]")
    answer = await poll
    assert (answer.status_code, answer.json(), answer.headers["stream-closed"]) == (200, [1], "true")
