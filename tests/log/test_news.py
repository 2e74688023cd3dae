"""What Machines tell each other of appends: of several streams in one notification, where all of them read that."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.feed import Feed
from gateway.log.appends import NEWS, Entry, Waiting, arguments
from gateway.log.database import Database
from gateway.log.listener import Listener
from gateway.log.payload import parse_all
from gateway.protocol.append import AppendRequest
from gateway.protocol.batch import News
from tests.log.rig import connected, opened
from tests.servers import PATIENCE

SSE = "text/event-stream"
POSTGRES_TAKES = 7_999
BODIES = [b"data: 1\n\n", "data: ä€😀\n7\nruns/x\n\n".encode(), b"data: " + b"x" * 3_000 + b"\n\n"]


@asynccontextmanager
async def heard(url: str) -> AsyncIterator[list[str]]:
    """The notifications that Machines are given."""
    said: list[str] = []
    async with connected(url) as listening:
        channel = await listening.fetchval("SELECT name FROM run_gateway.channel")
        await listening.add_listener(channel, lambda *message: said.append(str(message[-1])))
        yield said


async def until(said: list[str], count: int) -> list[News]:
    async with asyncio.timeout(PATIENCE):
        while len(news := [each for payload in said for each in parse_all(payload)]) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return news


async def test_appends_of_one_batch_are_told_in_few_notifications(database_url: str) -> None:
    paths = [f"runs/{n}-ä" for n in range(9)]
    async with opened(database_url, machine="=m", together=True, lanes=1) as log, heard(database_url) as said:
        for path in paths:
            await log.create(path, SSE)
        said.clear()
        appends = [log.append(path, BODIES[n % 3], type=SSE, close=n == 8) for n, path in enumerate(paths)]
        await asyncio.gather(log.append(paths[0], b"data: 0\n\n", type=SSE), *appends)
        news = {(each.path, each.first): each for each in await until(said, len(paths) + 1)}
    assert len(said) <= 4
    assert all(len(payload.encode()) <= POSTGRES_TAKES and payload.startswith("=m\n") for payload in said)
    assert news[paths[0], 1].body == b"data: 0\n\n"
    for n, path in enumerate(paths):
        each = news[path, 2 if n == 0 else 1]
        assert (each.body, each.closed, each.last) == (BODIES[n % 3], n == 8, each.first)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 1_000), st.integers(0, 9_000)), min_size=1, max_size=40),
    letter=st.sampled_from(["x", "ä"]),
)
def test_no_notification_is_larger_than_postgres_takes(sizes: list[tuple[int, int]], letter: str) -> None:
    entries = {}
    for n, (path, body) in enumerate(sizes):
        request = AppendRequest(f"{n}{letter * path}", SSE, [b"x" * body])
        entries[request.path] = Entry(Waiting(request, lambda _: None, 0.0))
    given = arguments(entries, told=True, together=True, pack=False)
    bodies, numbers = given[11], given[-1]
    assert isinstance(bodies, list) and isinstance(numbers, list)
    assert numbers == sorted(numbers)
    said: dict[int, int] = {}
    for name, body, number in zip(entries, bodies, numbers, strict=True):
        one = f"{name}\n{2**62}\n{2**62}\nclosed\n{body or ''}".encode()
        said[number] = said.get(number, 0) + len(f"{len(one)}\n") + len(one)
    assert all(size + len("=12345678\n*\n") <= POSTGRES_TAKES for size in said.values())
    for number, size in said.items():  # one more would not have fitted
        following = [n for n, each in enumerate(numbers) if each == number + 1][:1]
        assert not following or size + 60 + sizes[following[0]][0] * 2 + sizes[following[0]][1] > NEWS - 60 * len(sizes)


def test_what_is_no_news_is_none() -> None:
    one = "m\n*\n18\nruns/a\n1\n2\nopen\nx"
    assert parse_all(one) == [News("runs/a", 1, 2, body=b"x")]
    for cut in range(len("m\n*\n"), len(one)):
        assert parse_all(one[:cut]) in ([], [News("runs/a", 1, 2)], [News("runs/a", 1, 2, body=b"")])
    assert parse_all("m\n*\nten\nx") == parse_all("m\n*\n9999999\nx") == []


class Others:
    """A listener that has listened for long enough, and what others say to it."""

    def __init__(self) -> None:
        self.news: list[News] = []
        feed = Feed()
        feed.heard.subscribe(self.news.append)
        database = Database("postgres:///none", pool_size=1, statement_timeout=1)
        self.listener = Listener([], database, machine="me", heartbeat=60, feed=feed)
        self.listener.news = "listen"
        self.listener.others._complete_at = 0.0
        self.listener._begin_greeting = lambda: None  # type: ignore[method-assign]

    def say(self, payload: str) -> None:
        self.listener._hear(None, 1, "channel", payload)


@pytest.mark.parametrize("lists", ["", "lists "])
def test_several_are_told_together_where_all_read_that(lists: str) -> None:
    others = Others()
    assert others.listener.others.together
    others.say(f"=new\n\n0\n0\nping {lists}several 12")
    assert others.listener.others.together
    others.say(f"=old\n\n0\n0\nping {lists}12")
    assert not others.listener.others.together
    assert others.listener.others.listing == bool(lists)
    others.say(f"=old\n\n0\n0\nping {lists}several 12")
    assert others.listener.others.together


def test_an_event_that_looks_like_a_sign_of_life_is_none() -> None:
    others = Others()
    body = "data: a\n\n0\n0\nping x\n\n"
    others.say(f"=m\nruns/a\n1\n2\nopen\n{body}")
    others.say(f"=m\n*\n{len(body) + 16}\nruns/a\n3\n4\nopen\n{body}")
    assert [each.body for each in others.news] == [body.encode()] * 2
    assert not others.listener.others._known


def test_readers_of_several_streams_are_sent_one_news_together() -> None:
    others = Others()
    told: list[list[str]] = []

    @contextmanager
    def together() -> Iterator[None]:
        before = len(others.news)
        yield
        told.append([each.path for each in others.news[before:]])

    others.listener._feed.together = together
    one, two = (f"runs/{name}\n1\n2\nopen\nx" for name in "ab")
    others.say(f"=m\n*\n{len(one)}\n{one}{len(two)}\n{two}")
    assert told == [["runs/a", "runs/b"]]
    others.say(f"=m\n{one}")
    assert [each.path for each in others.news] == ["runs/a", "runs/b", "runs/a"]
    assert all(each.heard for each in others.news)


async def test_a_listener_ends_though_its_echo_has_just_come() -> None:
    listener = Others().listener
    pinged = asyncio.Event()

    async def ping() -> None:
        pinged.set()

    listener._ping = ping  # type: ignore[method-assign]
    asking = asyncio.create_task(listener._echoes(None))  # type: ignore[arg-type]  # no server is asked
    await pinged.wait()
    await asyncio.sleep(0)
    listener._echo.set()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_greeting_goes_on_while_nobody_else_holds_it() -> None:
    """The loop holds tasks weakly, and what such a task waits for may be held by the task alone."""
    others = Others()
    listener = others.listener
    del listener._begin_greeting

    async def ping() -> None:
        await asyncio.get_running_loop().create_future()

    listener._ping = ping  # type: ignore[method-assign]
    others.say("=new\n\n0\n0\nping several 12")
    await asyncio.sleep(0)
    gc.collect()
    assert [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}] == ["greeting"]
    await listener.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}
