"""A recording as its clients get it, also where somebody else has written into its run."""

from __future__ import annotations

from gateway.protocol.batch import Batch
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
