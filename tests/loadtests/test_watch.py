"""The load's own check of continuity: what passes it was whole, and what was not whole does not pass."""

from __future__ import annotations

import pytest

from loadtests.people.continuity import Batch, Broken, Ids, Watch, batches

TWO = (
    b'id: 0_2\nevent: data\ndata:[{"run":"r","n":0},{"run":"r","n":1}]\n\n'
    b'id: 0_2\nevent: control\ndata:{"streamNextOffset":"0_2","streamCursor":"7","upToDate":true}\n\n'
)
END = (
    b'event: data\r\ndata: [{"run":"r","n":2,"end":true}]\r\n\r\n'
    b'event: control\r\ndata: {"streamNextOffset":"0_3","streamClosed":true}\r\n\r\n'
)


def batch(*numbers: int, run: str = "r", closed: bool = False, end: bool = False) -> Batch:
    return Batch(
        [{"run": run, "n": n, "end": end} for n in numbers], f"0_{numbers[-1] if numbers else 0}", None, closed
    )


def test_data_counts_with_its_control() -> None:
    (read,) = batches(TWO.splitlines(keepends=True))
    assert [event["n"] for event in read.events] == [0, 1]
    assert (read.offset, read.cursor, read.closed) == ("0_2", "7", False)


def test_data_whose_control_was_lost_does_not_count() -> None:
    assert list(batches(TWO.splitlines(keepends=True)[:-1])) == []


def test_a_browser_counts_each_event_and_resumes_at_its_id() -> None:
    parse = Ids()
    data, control = filter(None, map(parse.take, TWO.splitlines(keepends=True)))
    assert ([event["n"] for event in data.events], data.offset, data.closed) == ([0, 1], "0_2", False)
    assert (control.events, control.offset, control.closed) == ([], "0_2", False)
    assert [parse.take(line) for line in END.splitlines(keepends=True)][-1] == Batch([], "0_2", None, True)


def test_comments_controls_alone_and_crlf_are_read() -> None:
    stream = b': heartbeat\n\nevent: control\ndata:{"streamNextOffset":"0_2"}\n\n' + END
    first, second = batches(stream.splitlines(keepends=True))
    assert (first.events, first.offset) == ([], "0_2")
    assert second.closed and second.events[0]["end"]


def test_a_run_that_is_whole_passes_over_several_visits() -> None:
    watch = Watch("r")
    watch.take(batch(0, 1))
    watch.take(batch())
    watch.take(batch(2, end=True, closed=True))
    assert watch.closed and watch.read == 3


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param([batch(0), batch(2)], id="skipped"),
        pytest.param([batch(0), batch(0)], id="repeated"),
        pytest.param([batch(1)], id="not-from-the-start"),
        pytest.param([batch(0, run="s")], id="another-run"),
        pytest.param([batch(0), batch(closed=True)], id="closed-before-the-end"),
        pytest.param([batch(closed=True)], id="closed-and-nothing-seen"),
        pytest.param([batch(0, end=True, closed=True), batch(1)], id="after-the-end"),
    ],
)
def test_a_run_that_is_not_whole_does_not_pass(wrong: list[Batch]) -> None:
    watch = Watch("r")
    *right, last = wrong
    for each in right:
        watch.take(each)
    with pytest.raises(Broken):
        watch.take(last)
