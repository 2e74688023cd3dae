"""The log is the frames that were received whole, in their order and once, whatever fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.feed import Feed
from gateway.log.appends import Appended, Settle
from gateway.protocol.append import AppendRequest
from gateway.protocol.errors import NotSent, StreamClosed, StreamSeqConflict, TooManyPending, Unavailable
from gateway.relay import recorder
from gateway.relay.asking import Answer, Listener
from gateway.relay.framing import Framer, silent
from gateway.relay.reading import Reading
from gateway.relay.recorder import Counts, Recorder
from gateway.relay.rounds import Rounds
from gateway.relay.rows import read_row
from gateway.relay.store import Store

ROW = read_row({"name": "x", "start": "POST /x", "lost": "data: lost", "stopped": "data: stopped"}, "row")
FATES = ["applied", "applied, unknown", "not applied, unknown", "not sent", "too many"]
PIECES = st.lists(st.sampled_from([b"data: a", b"data: bb\n\n", b": c\n\n", b"\n", b"\r\n", b"x" * 40, b"\n\n"]))


class FakeLog:
    """A log of one stream, each of whose appends has a fate. It tells outcomes when it is asked to."""

    def __init__(self, fates: list[str]) -> None:
        self.events: list[bytes] = []
        self.closed = False
        self.told: list[Callable[[], None]] = []
        self._fates = fates
        self._number = ""

    def submit(self, request: AppendRequest, settle: Settle) -> None:
        fate = self._fates.pop() if self._fates else "applied"
        if fate == "too many":
            raise TooManyPending
        outcome: Any = NotSent()
        if fate != "not sent":
            outcome = self._apply(request, lose=fate.startswith("not applied"))
            if fate.endswith("unknown"):
                outcome = Unavailable()
        self.told.append(lambda: settle(outcome))

    def submit_together(self, requests: Sequence[tuple[AppendRequest, Settle]]) -> None:
        for request, settle in requests:
            try:
                self.submit(request, settle)
            except TooManyPending as error:
                settle(error)

    def take(self, generation: int) -> None:
        """Another Machine takes the recording over."""
        self._number = f"{generation * recorder.GENERATION:016}"

    def _apply(self, request: AppendRequest, *, lose: bool) -> Any:
        if lose:
            return None
        if self.closed:
            return StreamClosed(0)
        assert request.stream_seq is not None
        if request.stream_seq <= self._number:
            return StreamSeqConflict()
        self._number = request.stream_seq
        self.events += request.events
        self.closed = request.close
        return Appended(len(self.events), False, request.close)


class FakeStore:
    """Ends the log of a recording that is lost."""

    def __init__(self, log: FakeLog) -> None:
        self._log = log

    async def lose(self, path: str, reason: str, generation: int) -> None:
        self._log.events.append(ROW.lost_frame.encode())
        self._log.closed = True


class FakeAnswer:
    """An answer that says whether it may go on."""

    def __init__(self) -> None:
        self.waits = False
        self.closed = False

    def listen(self, _: Listener) -> None: ...

    def read_with(self, _: Reading) -> None: ...

    def wait(self) -> None:
        self.waits = True

    def go_on(self) -> None:
        self.waits = False

    def close(self) -> None:
        self.closed = True


async def turns() -> None:
    """Lets the loop turn, as it does before a round."""
    for _ in range(3):
        await asyncio.sleep(0)


async def record(pieces: list[bytes], fates: list[str], turns: list[bool], end: str) -> tuple[FakeLog, FakeAnswer]:
    """A recording of these bytes. `turns`: after which of them the log tells an outcome."""
    log, answer, done = FakeLog(fates), FakeAnswer(), asyncio.Event()
    one = Recorder(
        "runs/x", 1, ROW, log, Rounds(log.submit_together), cast(Store, FakeStore(log)), Feed(), Counts(),
        most=1 << 20, lease=10, done=lambda _: done.set(),
    )  # fmt: skip
    one.record(cast(Answer, answer))
    for piece, turn in zip(pieces, turns, strict=True):
        one.data(piece)
        if turn and log.told:
            log.told.pop(0)()
            await asyncio.sleep(0)
    if end == "stopped":
        one.stop()
    else:
        one.ended(None if end == "whole" else "cut")
    while not done.is_set():
        while log.told:
            log.told.pop(0)()
        await asyncio.sleep(0)
    return log, answer


@settings(max_examples=300)
@given(st.data())
def test_the_log_is_the_frames_that_came_whole(data: st.DataObject) -> None:
    pieces = data.draw(PIECES)
    fates = data.draw(st.lists(st.sampled_from(FATES), max_size=20))
    turns = data.draw(st.lists(st.booleans(), min_size=len(pieces), max_size=len(pieces)))
    end = data.draw(st.sampled_from(["whole", "cut", "stopped"]))
    before, recorder.AGAIN = recorder.AGAIN, (0.0,)  # type: ignore[misc]
    try:
        log, _ = asyncio.run(record(pieces, fates, turns, end))
    finally:
        recorder.AGAIN = before  # type: ignore[misc]
    framer = Framer("sse")
    expected = [frame for frame in framer.feed(b"".join(pieces)) if not silent(frame)]
    if end == "whole" and framer.rest:
        expected.append(framer.rest)
    if end == "cut":
        expected.append(b"data: lost\n\n")
    if end == "stopped":
        expected.append(b"data: stopped\n\n")
    assert log.events == expected
    assert log.closed


async def test_an_upstream_has_to_wait_while_its_appends_do() -> None:
    log, answer = FakeLog([]), FakeAnswer()
    one = Recorder(
        "runs/x", 1, ROW, log, Rounds(log.submit_together), cast(Store, FakeStore(log)), Feed(), Counts(),
        most=1 << 20, lease=10, done=lambda _: None,
    )  # fmt: skip
    one.record(cast(Answer, answer))
    for _ in range(20):
        one.data(b"data: " + b"x" * 20_000 + b"\n\n")
    assert answer.waits
    await turns()
    assert len(log.told) == 1  # of what has come in one turn
    log.told.pop()()
    assert not answer.waits
    for _ in range(20):
        one.data(b"data: " + b"x" * 20_000 + b"\n\n")
    await turns()
    one.data(b"data: y\n\n")
    await turns()
    assert len(log.told) == 1  # what comes while it is under way waits for it
    log.told.pop()()
    await turns()
    log.told.pop()()
    assert len(log.events) == 41


async def test_a_recording_does_not_end_before_its_head_is_noted() -> None:
    log = FakeLog([])
    one = Recorder(
        "runs/x", 1, ROW, log, Rounds(log.submit_together), cast(Store, FakeStore(log)), Feed(), Counts(),
        most=1 << 20, lease=10, done=lambda _: None,
    )  # fmt: skip
    one.noting = True
    one.record(cast(Answer, FakeAnswer()))
    one.data(b"data: a\n\n")
    one.ended(None)
    await turns()
    log.told.pop()()
    await turns()
    assert not log.told
    assert log.events == [b"data: a\n\n"]
    assert not log.closed
    one.noted()
    await turns()
    log.told.pop()()
    assert log.closed
    assert one.over


async def test_a_frame_that_is_too_large_ends_the_recording() -> None:
    log, answer, done = FakeLog([]), FakeAnswer(), asyncio.Event()
    one = Recorder(
        "runs/x", 1, ROW, log, Rounds(log.submit_together), cast(Store, FakeStore(log)), Feed(), Counts(),
        most=100, lease=10, done=lambda _: done.set(),
    )  # fmt: skip
    one.record(cast(Answer, answer))
    one.data(b"data: a\n\ndata: " + b"x" * 100)
    assert answer.closed
    await turns()
    log.told.pop()()
    await done.wait()
    assert log.events == [b"data: a\n\n", b"data: lost\n\n"]
