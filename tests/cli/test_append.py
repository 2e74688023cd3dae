"""`run-gateway append` as a process."""

from __future__ import annotations

import json

import pytest

from tests.cli.commands import command, end, running
from tests.client.scripted import Fault, offset, scripted


async def test_append_makes_an_event_of_each_line() -> None:
    async with scripted() as stream:
        ended = await command("append", "17", "--url", stream.url, stdin=b'{"a":1}\n\n[1,2]\r\n"last"')
    assert ended == (0, f"{offset(3)}\n", "")
    assert stream.events == [{"a": 1}, [1, 2], "last"]
    assert {request.target for request in stream.requests} == {"/runs/17"}


async def test_append_creates_and_closes_when_it_is_told_to() -> None:
    async with scripted() as stream:
        stream.exists = False
        ended = await command("append", "17", "--url", stream.url, "--create", "--close", stdin=b"1\n")
    assert (ended.code, stream.events, stream.closed) == (0, [1], True)
    assert [request.method for request in stream.requests] == ["PUT", "POST", "POST"]


async def test_lines_at_hand_are_one_batch_and_later_ones_go_at_once() -> None:
    async with scripted() as stream, running("append", "17", "--url", stream.url) as process:
        assert process.stdin is not None
        process.stdin.write(b"1\n2\n3\n")
        await process.stdin.drain()
        async with stream.changed:
            await stream.changed.wait_for(lambda: stream.events == [1, 2, 3])
        assert [request.body for request in stream.requests] == [b"[1,2,3]"]
        process.stdin.write(b"4\n5")
        async with stream.changed:
            await stream.changed.wait_for(lambda: stream.events == [1, 2, 3, 4])
        assert (await end(process)).code == 0
    assert stream.events == [1, 2, 3, 4, 5]


async def test_every_line_is_applied_once_though_answers_are_lost() -> None:
    lines = [{"line": number, "pad": "x" * 100} for number in range(20_000)]
    troubles = [Fault(cut=0), Fault(status=503), Fault(), Fault(status=503, ignored=True), Fault(cut=20), Fault(cut=0)]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    async with scripted(faults=troubles) as stream:
        ended = await command("append", "17", "--url", stream.url, stdin=text.encode())
    assert (ended.code, ended.out) == (0, f"{offset(20_000)}\n")
    assert stream.events == lines


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"a":', "Expecting value at column 6"),
        (b"NaN", "NaN is not JSON"),
        (b"1e999", "A number is larger than a double"),
    ],
)
async def test_a_line_is_judged_as_the_gateway_judges_it(line: bytes, words: str) -> None:
    half = rb'{"a":"\ud83d"}'
    async with scripted() as stream:
        ended = await command("append", "17", "--url", stream.url, stdin=half + b"\n" + line)
    assert ended.err.startswith(f"run-gateway: line 2 is not JSON: {words}")
    assert [request.body for request in stream.requests] == [b"[%b]" % half]


async def test_a_line_that_is_not_json_is_named_after_those_before_it() -> None:
    async with scripted() as stream:
        ended = await command("append", "17", "--url", stream.url, "--close", stdin=b'1\n\n{"a":\n2\n')
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("run-gateway: line 3 is not JSON: ")
    assert ended.err.count("\n") == 1
    assert (stream.events, stream.closed) == ([1], False)


async def test_the_same_id_again_adds_and_does_not_repeat() -> None:
    async with scripted() as stream:
        for number in (b"1", b"2"):
            assert (await command("append", "17", "--url", stream.url, "--producer-id", "me", stdin=number)).code == 0
    assert stream.events == [1, 2]
    assert list(stream.producers) == ["me"]


async def test_empty_stdin_appends_nothing_and_prints_the_offset() -> None:
    async with scripted(1, 2) as stream:
        assert await command("append", "17", "--url", stream.url) == (0, f"{offset(2)}\n", "")
    assert [request.method for request in stream.requests] == ["HEAD"]


async def test_a_closed_run_is_one_line_and_code_1() -> None:
    async with scripted(closed=True) as stream:
        ended = await command("append", "17", "--url", stream.url, stdin=b"1\n")
    assert ended == (1, "", f"run-gateway: {stream.url}/runs/17: 409 Scripted: it is closed\n")


async def test_a_run_that_does_not_exist_is_one_line_with_the_remedy() -> None:
    async with scripted() as stream:
        stream.exists = False
        ended = await command("append", "17", "--url", stream.url, stdin=b"1\n")
    assert ended == (1, "", f"run-gateway: {stream.url}/runs/17: 404 Scripted (--create makes it)\n")


async def test_an_id_that_no_header_can_hold_is_misuse() -> None:
    assert (await command("append", "17", "--producer-id", "é")).code == 2
