"""Appends of many writers in one request: each gets its own outcome, whatever becomes of the request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from run_gateway import Backoff, GaveUp, NoSuchStream, Producer, Session
from run_gateway.together import BYTES, MOST, Together

Answer = Callable[[list[tuple[dict[str, Any], Any]]], httpx.Response]


def appends_of(request: httpx.Request) -> list[tuple[dict[str, Any], Any]]:
    lines = request.content.decode().split("\n")
    assert lines.pop() == ""
    return [(json.loads(head), json.loads(body or "null")) for head, body in zip(lines[::2], lines[1::2], strict=True)]


def outcomes(*lines: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, text="".join(f"{json.dumps(line)}\n" for line in lines))


def all_taken(appends: list[tuple[dict[str, Any], Any]]) -> httpx.Response:
    taken = [{"status": 200, "streamNextOffset": "0_1", "producerSeq": head["producerSeq"]} for head, _ in appends]
    return outcomes(*[{"append": n} | outcome for n, outcome in reversed(list(enumerate(taken)))])


class Gateway:
    """Answers requests for many appends as it is told, and each other one with 200."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.together: list[list[tuple[dict[str, Any], Any]]] = []
        self.alone: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v1/appends":
            self.alone.append(request)
            return httpx.Response(200, headers={"stream-next-offset": "0_1"})
        appends = appends_of(request)
        self.together.append(appends)
        answer = self.answers.pop(0) if self.answers else all_taken
        if isinstance(answer, Exception):
            raise answer
        return answer(appends)


@asynccontextmanager
async def session(gateway: Gateway, patience: float = 30) -> AsyncIterator[Session]:
    """A session in which others write, too."""
    async with httpx.AsyncClient(transport=httpx.MockTransport(gateway)) as http:
        held = Session(http, backoff=lambda: Backoff(first=0.0), patience=patience)
        held.shared.writers = 2
        yield held


async def at_once(*work: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*work, return_exceptions=True)


def producers(http: Session, count: int) -> list[Producer]:
    return [Producer(http, f"http://h/runs/{n}", f"p{n}") for n in range(count)]


async def test_what_comes_up_together_goes_together() -> None:
    gateway = Gateway()
    async with session(gateway) as http:
        told = await at_once(
            *[producer.append([b'{"n":%d}' % n, b"2"]) for n, producer in enumerate(producers(http, 5))]
        )
    assert told == ["0_1"] * 5
    assert len(gateway.together) == 1 and not gateway.alone
    for n, (head, events) in enumerate(gateway.together[0]):
        assert (head["stream"], head["producerId"], head["producerSeq"]) == (f"runs/{n}", f"p{n}", 0)
        assert events == [{"n": n}, 2]


async def test_an_outcome_is_for_its_own_writer_alone() -> None:
    def mixed(appends: list[tuple[dict[str, Any], Any]]) -> httpx.Response:
        refused = {"type": "stream_not_found", "message": "There is no such stream.", "details": None}
        return outcomes(
            {"append": 1, "status": 404, "error": refused},
            {"append": 2, "status": 503, "error": refused | {"type": "unavailable"}},
            {"append": 0, "status": 200, "streamNextOffset": "0_7", "runCancelRequested": True},
        )

    gateway = Gateway(mixed)
    async with session(gateway) as http:
        three = producers(http, 3)
        told = await at_once(*[producer.append([b"1"]) for producer in three])
    assert told[0] == "0_7" and three[0].cancel_requested and not three[2].cancel_requested
    assert isinstance(told[1], NoSuchStream) and "There is no such stream." in str(told[1])
    assert told[2] == "0_1", "tried again"
    assert [[head["stream"] for head, _ in request] for request in gateway.together[1:]] == [["runs/2"]]


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ReadError("cut"),
        lambda appends: outcomes({"append": 0, "status": 200, "streamNextOffset": "0_1"}),
        lambda appends: httpx.Response(200, text="<html>"),
        lambda appends: httpx.Response(503, headers={"retry-after": "0"}),
    ],
)
async def test_an_answer_that_is_lost_is_asked_for_again(fault: Answer | Exception) -> None:
    gateway = Gateway(fault)
    async with session(gateway) as http:
        assert await at_once(*[producer.append([b"1"]) for producer in producers(http, 3)]) == ["0_1"] * 3
    first, *later = gateway.together
    again = {head["stream"]: head for request in later for head, _ in request}
    assert all(head == again[head["stream"]] for head, _ in first if head["stream"] in again), "the very same numbers"
    assert len(first) == 3 and len(again) >= 2 and not gateway.alone


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_gateway_that_does_not_know_it_is_asked_once(status: int) -> None:
    gateway = Gateway(lambda appends: httpx.Response(status))
    async with session(gateway) as http:
        two = producers(http, 2)
        for _ in range(3):
            assert await at_once(*[producer.append([b"1"]) for producer in two]) == ["0_1"] * 2
    assert len(gateway.together) == 1 and len(gateway.alone) == 6


async def test_what_is_refused_whole_is_sent_by_itself() -> None:
    gateway = Gateway(lambda appends: httpx.Response(413))
    async with session(gateway) as http:
        assert await at_once(*[producer.append([b"1"]) for producer in producers(http, 2)]) == ["0_1"] * 2
        assert len(gateway.alone) == 2
        await at_once(*[producer.append([b"1"]) for producer in producers(http, 2)])
    assert len(gateway.together) == 2 and len(gateway.alone) == 2


async def test_a_request_is_bounded() -> None:
    gateway = Gateway()
    async with session(gateway) as http:
        await at_once(*[producer.append([b"1"]) for producer in producers(http, MOST + 1)])
        assert [len(request) for request in gateway.together] == [MOST, 1]
        large = b'"%b"' % (b"x" * (BYTES // 2))
        await at_once(*[producer.append([large]) for producer in producers(http, 5)])
        assert [len(request) for request in gateway.together[2:]] == [2, 2, 1]
        await at_once(*[producer.append([b"1"] * 800) for producer in producers(http, 20)])
    assert [len(request) for request in gateway.together[5:]] == [7, 7, 6], "5,600 events, which any gateway takes"


async def test_patience_ends_for_each() -> None:
    gateway = Gateway(*[httpx.ConnectError("refused")] * 10_000)
    async with session(gateway, patience=0.05) as http:
        told = await at_once(*[producer.append([b"1"]) for producer in producers(http, 2)])
    assert [type(each) for each in told] == [GaveUp, GaveUp]


async def test_who_waits_no_longer_is_not_sent_for() -> None:
    gateway = Gateway()
    async with httpx.AsyncClient(transport=httpx.MockTransport(gateway)) as http:
        together = Together(http, "http://h")
        headers = {"producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}
        first, second = (asyncio.ensure_future(together.append(f"runs/{n}", headers, b"1")) for n in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).status == 200
        await together.close()
    assert [[head["stream"] for head, _ in request] for request in gateway.together] == [["runs/1"]]
    assert len(asyncio.all_tasks()) == 1


async def test_signs_of_life_go_along() -> None:
    beaten: Answer = lambda appends: outcomes(  # noqa: E731
        *[{"append": n, "status": 204, "runCancelRequested": True} for n, _ in enumerate(appends)]
    )
    gateway = Gateway(beaten)
    async with session(gateway) as http:
        two = producers(http, 2)
        assert await at_once(*[producer.heartbeat() for producer in two]) == [None, None]
    assert [(head["stream"], "producerSeq" in head, body) for head, body in gateway.together[0]] == [
        ("runs/0/heartbeat", False, None),
        ("runs/1/heartbeat", False, None),
    ]
    assert all(producer.cancel_requested for producer in two)


async def test_one_writer_alone_waits_for_nobody() -> None:
    gateway = Gateway()
    async with session(gateway) as http:
        http.shared.writers = 1
        assert await Producer(http, "http://h/runs/1").append([b"1"]) == "0_1"
    assert len(gateway.alone) == 1 and not gateway.together
