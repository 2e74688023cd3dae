"""An answer that is gone on with is recorded once and in order, whatever is cut, killed or sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.feed import Feed
from gateway.protocol.batch import Batch, Page, Stream
from gateway.relay import recorder as recorders
from gateway.relay import rejoining
from gateway.relay.asking import Answer, Asking, Listener
from gateway.relay.contact import Contact
from gateway.relay.reading import Reading
from gateway.relay.recorder import Counts, Recorder
from gateway.relay.rejoining import Rejoining
from gateway.relay.rounds import Rounds
from gateway.relay.rows import read_row
from gateway.relay.store import Store
from tests.relay.test_recorder import FATES, FakeLog, FakeStore

ROW = read_row(
    {"name": "x", "start": "POST /x", "lost": "data: lost", "rejoin": {"ask": "GET /x", "by": "header:last-event-id"}},
    "row",
)
CONTACT = Contact("/x", None, [])


class FakeUpstream:
    """Sends an answer again from a little earlier than it is asked to, and each time cuts it at some byte."""

    def __init__(self, frames: list[bytes], earlier: list[int], cuts: list[int]) -> None:
        self.frames = frames
        self.asked = 0
        self._earlier = earlier
        self._cuts = cuts

    async def __call__(self, method: str, target: bytes, headers: Any, body: bytes) -> FakeAnswer:
        self.asked += 1
        last = next((int(value) for name, value in headers if name == b"last-event-id"), -1)
        begins = max(0, last + 1 - (self._earlier.pop() if self._earlier else 0))
        data = b": again\n\n" + b"".join(self.frames[begins:])
        return FakeAnswer(data[: self._cuts.pop()], cut=True) if self._cuts else FakeAnswer(data, cut=False)


class FakeAnswer:
    """These bytes, whole or cut."""

    status = 200
    headers = ((b"content-type", b"text/event-stream"),)

    def __init__(self, data: bytes, cut: bool) -> None:
        self.data = data
        self.cut = cut
        self._listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        first, self._listener = self._listener is None, listener
        if first:
            asyncio.get_running_loop().call_soon(self._play)

    def read_with(self, _: Reading) -> None: ...

    def _play(self) -> None:
        for at in range(0, len(self.data), 7):
            if self._listener is not None:
                self._listener.data(self.data[at : at + 7])
        if self._listener is not None:
            self._listener.ended("cut" if self.cut else None)

    def hold(self) -> None: ...
    def wait(self) -> None: ...
    def go_on(self) -> None: ...

    def close(self) -> None:
        self._listener = None


def _setter(event: asyncio.Event) -> Callable[[Recorder], None]:
    return lambda _: event.set()


async def survive(upstream: FakeUpstream, first: bytes, fates: list[str], kills: list[int]) -> FakeLog:
    """The log of an answer of which `first` came before a cut, and whose Machines are killed after so many turns."""
    log = FakeLog(fates)
    store = cast(Store, FakeStore(log))

    async def read(path: str, position: int) -> Page:
        events = log.events[position : position + 2]
        end = position + len(events)
        batch = Batch(position, end, b"".join(events), end == len(log.events), log.closed, list(map(len, events)))
        return Page(Stream(1, path, "text/event-stream", len(log.events), log.closed), batch)

    for generation in range(len(kills) + 1):
        done = asyncio.Event()
        one = Recorder(
            "runs/x", 1, ROW, log, Rounds(log.submit_together), store, Feed(), Counts(),
            most=1 << 20, lease=10, done=_setter(done), generation=generation,
        )  # fmt: skip
        Rejoining(cast(Asking, upstream), read, store, 1 << 20, 30).prepare(one, CONTACT)
        if generation == 0:
            one.record(cast(Answer, FakeAnswer(first, cut=True)))
        else:
            one.interrupted("killed")
        turns = 0
        while not done.is_set() and (generation == len(kills) or turns < kills[generation]):
            turns += 1
            while log.told:
                log.told.pop(0)()
            await asyncio.sleep(0)
        if not done.is_set():  # killed: what it has sent may still be applied, and nobody hears of it
            one.let_go()
            log.told.clear()
            log.take(generation + 1)
    return log


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_cut_and_kill_leaves_the_upstreams_frames(data: st.DataObject) -> None:
    frames = [b"id: %d\ndata: %d\n\n" % (n, n) for n in range(data.draw(st.integers(1, 8)))]
    whole = b"".join(frames)
    cut = st.integers(0, len(whole) + 10)
    upstream = FakeUpstream(
        frames, data.draw(st.lists(st.integers(0, 9), max_size=6)), data.draw(st.lists(cut, max_size=4))
    )
    fates = data.draw(st.lists(st.sampled_from(FATES), max_size=10))
    first, kills = whole[: data.draw(cut)], data.draw(st.lists(st.integers(0, 60), max_size=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorders, "AGAIN", (0.0,))
        patch.setattr(rejoining, "PAUSES", (0.0,))
        log = asyncio.run(survive(upstream, first, fates, kills))
    assert log.closed
    assert log.events == frames
