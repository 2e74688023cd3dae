"""An idempotent producer: whatever happens to requests and answers, every batch is in the log once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run_gateway import (
    Backoff,
    Fenced,
    GaveUp,
    NoSuchStream,
    Producer,
    Refused,
    Session,
    StreamClosed,
    client,
)
from tests.client.scripted import Fault, offset, scripted


@asynccontextmanager
async def session(patience: float = 30.0) -> AsyncIterator[Session]:
    """A session that does not wait."""
    async with client() as http:
        yield Session(http, backoff=lambda: Backoff(first=0.0), patience=patience)


faults = st.builds(
    Fault,
    ignored=st.booleans(),
    status=st.sampled_from([503, 503, 502, 500]),
    cut=st.none() | st.integers(0, 40),
) | st.builds(Fault, cut=st.none() | st.integers(0, 120))


@settings(max_examples=60)
@given(st.lists(faults, max_size=12), st.sampled_from([None, "me"]))
def test_whatever_happens_every_batch_is_there_once(troubles: list[Fault], producer_id: str | None) -> None:
    async def produce() -> None:
        async with scripted(faults=troubles) as stream, session() as http:
            producer = Producer(http, stream.url, producer_id)
            for number in range(3):
                await producer.append([b"%d" % number, b'"x"'])
            assert await producer.close() == offset(6)
        assert (stream.events, stream.closed) == ([0, "x", 1, "x", 2, "x"], True)

    asyncio.run(produce())


async def test_a_batch_is_one_request_with_the_next_number() -> None:
    async with scripted() as stream, session() as http:
        producer = Producer(http, stream.url)
        assert await producer.append([b"1", b"[2]"]) == offset(2)
        assert await producer.append([b"3"], close=True) == offset(3)
    assert [request.body for request in stream.requests] == [b"[1,[2]]", b"[3]"]
    assert [request.headers["producer-seq"] for request in stream.requests] == ["0", "1"]
    assert {request.headers["producer-epoch"] for request in stream.requests} == {"0"}
    assert (stream.events, stream.closed) == ([1, [2], 3], True)


async def test_a_long_batch_is_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("run_gateway.producer.MOST", 2)
    async with scripted() as stream, session() as http:
        producer = Producer(http, stream.url)
        await producer.append([b"1", b"2", b"3"])
        assert await producer.append([b"4", b"5", b"6", b"7"], close=True) == offset(7)
    assert [request.body for request in stream.requests] == [b"[1,2]", b"[3]", b"[4,5]", b"[6,7]"]
    assert ["stream-closed" in request.headers for request in stream.requests] == [False, False, False, True]


async def test_two_producers_without_an_id_are_not_taken_for_one() -> None:
    async with scripted() as stream, session() as http:
        await Producer(http, stream.url).append([b"1"])
        await Producer(http, stream.url).append([b"1"])
    assert stream.events == [1, 1]


async def test_an_id_that_is_used_again_is_not_taken_for_a_repetition() -> None:
    async with scripted() as stream, session() as http:
        for epoch_and_seq in [(0, 0), (0, 5), (7, 0)]:
            stream.producers["me"] = epoch_and_seq
            await Producer(http, stream.url, "me").append([b"1"])
    assert stream.events == [1, 1, 1]


async def test_an_id_with_a_later_epoch_is_claimed_with_the_next() -> None:
    async with scripted() as stream, session() as http:
        stream.producers["me"] = (2**52, 3)
        await Producer(http, stream.url, "me").append([b"1"])
    assert stream.producers["me"] == (2**52 + 1, 0)


async def test_a_producer_that_was_replaced_stops() -> None:
    async with scripted() as stream, session() as http:
        replaced = Producer(http, stream.url, "me")
        await replaced.append([b"1"])
        stream.producers["me"] = (2**52, 0)
        with pytest.raises(Fenced, match="taken over the id 'me'"):
            await replaced.append([b"2"])
    assert stream.events == [1]


async def test_a_producer_whose_lease_ran_out_is_told_so() -> None:
    lost = Fault(status=403, ignored=True, headers=("producer-epoch: 0", "stream-closed: true"))
    async with scripted(faults=[lost]) as stream, session() as http:
        with pytest.raises(StreamClosed, match="403"):
            await Producer(http, stream.url, "me").append([b"1"])
    assert (stream.events, len(stream.requests)) == ([], 1)


async def test_a_producer_whose_first_batch_is_in_doubt_claims_nothing() -> None:
    # Its batch was applied, the answer lost, and then somebody took over: to claim now would apply it twice.
    faults = [Fault(cut=0), Fault(status=403, headers=("producer-epoch: 9000000000000",))]
    async with scripted(faults=faults) as stream, session() as http:
        with pytest.raises(Fenced):
            await Producer(http, stream.url, "me").append([b"1"])
    assert stream.events == [1]


async def test_two_producers_in_one_epoch_are_noticed() -> None:
    async with scripted() as stream, session() as http:
        producer = Producer(http, stream.url)
        await producer.append([b"1"])
        (name,) = stream.producers
        stream.producers[name] = (0, 5)
        with pytest.raises(Fenced, match="at the same time"):
            await producer.append([b"2"])


async def test_a_server_that_has_lost_count_is_not_argued_with() -> None:
    async with scripted() as stream, session() as http:
        producer = Producer(http, stream.url)
        await producer.append([b"1"])
        stream.producers.clear()
        with pytest.raises(Refused, match="lost count"):
            await producer.append([b"2"])


async def test_a_stream_that_is_missing_or_closed_is_the_end() -> None:
    async with scripted(closed=True) as stream, session() as http:
        with pytest.raises(StreamClosed, match="it is closed"):
            await Producer(http, stream.url).append([b"1"])
        stream.exists = False
        with pytest.raises(NoSuchStream):
            await Producer(http, stream.url).append([b"1"])
        assert await Producer(http, stream.url).create() == offset(0)


async def test_patience_ends_and_says_what_is_not_known() -> None:
    async with scripted(faults=[Fault(status=503)] * 10_000) as stream, session(patience=0.05) as http:
        with pytest.raises(GaveUp, match=r"503 Scripted; gave up POST after 0.05 seconds; whether it took effect"):
            await Producer(http, stream.url).append([b"1"])
