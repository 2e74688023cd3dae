"""`fold=`: whoever comes late reads a chat as its messages, and follows it as it comes; over real sockets."""

from __future__ import annotations

import json

from tests.event_source import read
from tests.http.answers import JSON, at, refusal
from tests.servers import Client, following, payloads


def tokens(message: str, words: str) -> list[dict[str, str]]:
    return [{"type": "token", "id": message, "text": word + " "} for word in words.split()]


async def chat(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    for message, words in (("m1", "how are you"), ("m2", "I am fine")):
        for event in tokens(message, words):
            await client("POST", path, headers=JSON, json=event)


MESSAGES = [
    {"type": "token", "id": "m1", "text": "how are you "},
    {"type": "token", "id": "m2", "text": "I am fine "},
]


async def test_a_plain_read_has_the_messages_and_the_same_offsets(client: Client, path: str) -> None:
    await chat(client, path)
    answer = await client("GET", f"{path}?offset=-1&fold=type,id:text")
    assert answer.json() == MESSAGES
    assert answer.headers["stream-next-offset"] == at(6)
    rest = await client("GET", f"{path}?offset={at(4)}&fold=type,id:text")
    assert rest.json() == [{"type": "token", "id": "m2", "text": "am fine "}]
    assert len((await client("GET", f"{path}?offset=-1")).json()) == 6, "only who asks for it"


async def test_a_follower_is_caught_up_folded_and_then_as_it_comes(client: Client, path: str) -> None:
    await chat(client, path)
    async with following(client, f"{path}?offset=-1&live=sse&fold=type,id:text") as follow:
        await follow.until(lambda reading: payloads(reading) == MESSAGES)
        for event in tokens("m2", "and you"):
            await client("POST", path, headers=JSON, json=event)
        reading = await follow.until(lambda reading: len(payloads(reading)) == 4)
    assert payloads(reading)[2:] == tokens("m2", "and you")
    assert reading.last_event_id == at(8)


async def test_a_long_poll_and_many_streams_fold_as_well(client: Client, path: str) -> None:
    await chat(client, path)
    answer = await client("GET", f"{path}?offset=-1&live=long-poll&fold=type,id:text")
    assert answer.json() == MESSAGES
    await client("POST", path, headers=JSON | {"stream-closed": "true"})
    name = path.removeprefix("/v1/stream/")
    many = await client("GET", f"/v1/stream?live=sse&stream={name}&fold=type,id:text")
    (part,) = json.loads(b"".join(line[5:] for line in many.content.split(b"\n") if line.startswith(b"data:")))
    assert part["events"] == MESSAGES and part["streamNextOffset"] == at(6)


async def test_messages_without_a_name_come_one_by_one(client: Client, path: str) -> None:
    await chat(client, path)
    await client("POST", path, headers=JSON | {"stream-closed": "true"})
    answer = await client("GET", f"{path}?offset=-1&live=sse&named=false&fold=type,id:text")
    events = [(event.last_event_id, json.loads(event.data)) for event in read(answer.content).events]
    assert events[:2] == list(zip((at(3), at(6)), MESSAGES, strict=True))


async def test_what_cannot_be_folded_is_refused(client: Client, path: str) -> None:
    await client("PUT", path, headers={"content-type": "text/plain"}, content="a")
    for query in ("fold=type:text", "fold=x", "offset=-1&live=sse&fold=type:text", "fold=a:b&fold=a:b"):
        assert refusal(await client("GET", f"{path}?{query}")) == (400, "invalid_request")
