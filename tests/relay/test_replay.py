"""A recording as its clients get it, also where somebody else has written into its run."""

from __future__ import annotations

from gateway.protocol.batch import Batch
from gateway.protocol.frames import SHARED
from gateway.relay.replay import Encoder, split

ONE, TWO = b"data: 1\n\n", b"data: 2\n\n"


def test_each_event_is_a_frame_and_the_last_may_be_several() -> None:
    assert split("sse", Batch(0, 2, ONE + TWO, True, False)) == [ONE, TWO]
    assert split("sse", Batch(0, 2, ONE + TWO + TWO, True, False)) == [ONE, TWO + TWO]
    assert split("sse", Batch(0, 2, ONE + TWO, True, False, [len(ONE), len(TWO)])) == [ONE, TWO]


def test_what_is_no_frame_is_given_as_it_is_and_raises_nothing() -> None:
    strange = Batch(3, 6, ONE + b"abc", True, False)
    assert split("sse", strange) == [strange.body]
    assert Encoder("sse", "r", b"")(strange) == b"id: r.6\n" + strange.body


def test_a_large_frame_is_a_part_of_its_own_wherever_one_begins() -> None:
    """So that it is kept once, however many clients wait for it, who came back at different places."""
    large = b"data: %b\n\n" % (b"x" * SHARED)
    for run in (None, "r"):
        own = set[bytes]()
        for small in (0, 1, 2, 7):
            body = ONE * small + large + TWO
            for lengths in (None, [*[len(ONE)] * small, len(large), len(TWO)]):
                batch = Batch(7 - small, 9, body, True, False, lengths)
                encode = Encoder("sse", run, b"")
                parts = encode.parts(batch)
                own.update(part for part in parts if len(part) >= SHARED)
                assert b"".join(parts) == encode(batch)
                assert run is not None or encode(batch) == body
        assert len(own) == 1
