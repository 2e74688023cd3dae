"""Which queries are answered from rows, and how."""

from __future__ import annotations

import pytest

from gateway.flue.conversations.wire import FIRST_PAGE, Asked, View, events, of_updates, parse
from gateway.protocol.batch import Batch

HEAD = "0000000000000000_0000000000000035"


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", Asked(View.HISTORY)),
        ("view=history", Asked(View.HISTORY)),
        (FIRST_PAGE.decode(), Asked(View.UPDATES, 0)),
        (f"offset={HEAD}&view=updates", Asked(View.UPDATES, 36)),
        (f"view=updates&offset={HEAD}&live=long-poll", Asked(View.LONG_POLL, 36)),
        (f"view=updates&offset={HEAD}&live=sse", Asked(View.SSE, 36)),
    ],
)
def test_what_is_surely_asked_is_known(query: str, asked: Asked) -> None:
    assert parse(query.encode()) == asked


@pytest.mark.parametrize(
    "query",
    [
        *("view=foo", "view=", "view", "view=history&offset=-1", "view=history&live=sse", "token=1", "&&"),
        *("view=updates", "view=updates&offset=now", "view=updates&offset=0_5", "view=updates&offset=-1&tail=2"),
        *(f"view=updates&offset=1{HEAD[1:]}", f"view=updates&offset={HEAD}0", f"view=updates&offset={HEAD}&live=foo"),
        *("view=updates&offset=-1&offset=-1", "view=updates&view=updates&offset=-1", "view=updates&offset=-1&live="),
        *("view=updates&offset=-1&cursor=7", "view=updates&offset=-1&é"),
    ],
)
def test_all_else_is_for_the_app(query: str) -> None:
    assert parse(query.encode()) is None


def test_events_have_flues_bytes() -> None:
    assert events(Batch(3, 5, b'{"type":"a"}\n,\n', True, False)) == (
        b'event: data\ndata:[{"type":"a"}]\n\n'
        b'event: control\ndata:{"streamNextOffset":"0000000000000000_0000000000000004","upToDate":true}\n\n'
    )
    assert events(Batch(0, 1, b"\n", False, False)) == (
        b'event: control\ndata:{"streamNextOffset":"0000000000000000_0000000000000000"}\n\n'
    )


def test_a_page_that_is_not_the_last_does_not_say_so() -> None:
    assert of_updates(Batch(0, 100, b"", False, False))[-1][0] == b"stream-next-offset"
