"""`run-gateway tail` as a process."""

from __future__ import annotations

import signal

import pytest

from tests.cli.commands import command, end, running
from tests.client.scripted import Fault, offset, scripted
from tests.databases import Postgres
from tests.machines import Machine


async def test_tail_prints_each_event_on_a_line_and_ends_with_the_run() -> None:
    async with scripted({"a": 1}, [2], closed=True) as stream:
        assert await command("tail", "17", "--url", stream.url) == (0, '{"a": 1}\n[2]\n', "")
    assert [request.method for request in stream.requests] == ["HEAD", "GET"]
    assert stream.requests[1].target == "/runs/17?offset=-1&live=sse"


async def test_tail_resumes_after_cuts_and_refusals_silently() -> None:
    troubles = [Fault(status=503), Fault(cut=0), Fault(), Fault(cut=250), Fault(cut=0), Fault(status=502)]
    async with scripted(1, 2, 3, closed=True, faults=troubles) as stream:
        ended = await command("tail", "17", "--url", stream.url)
    assert (ended.code, ended.out) == (0, "1\n2\n3\n")


async def test_tail_begins_where_it_is_told_and_can_print_offsets() -> None:
    async with scripted(1, 2, closed=True) as stream:
        ended = await command("tail", "17", "--url", stream.url, "--from", offset(1), "--verbose")
    assert ended.out == "2\n"
    assert ended.err == f"run-gateway: offset {offset(2)}\nrun-gateway: offset {offset(2)} (closed)\n"


async def test_tail_follows_any_stream_by_its_path() -> None:
    async with scripted("hello", closed=True) as stream:
        await command("tail", "/v1/stream/a/b", "--url", stream.url)
    assert stream.requests[1].target == "/v1/stream/a/b?offset=-1&live=sse"


async def test_tail_writes_bytes_as_they_are() -> None:
    octets = ("HTTP/1.1 200 OK", "content-type: application/octet-stream", "content-length: 0")
    async with scripted("AQID", "BA==", closed=True, faults=[Fault(status=200, headers=octets[1:2])]) as stream:
        stream.binary = True
        assert (await command("tail", "/v1/stream/bytes", "--url", stream.url)).out == "\1\2\3\4"


@pytest.mark.parametrize(("status", "words"), [(404, "404 Scripted"), (410, "410 Scripted")])
async def test_tail_of_what_does_not_exist_is_one_line_and_code_1(status: int, words: str) -> None:
    async with scripted(faults=[Fault(status=status)] * 2) as stream:
        ended = await command("tail", "17", "--url", stream.url)
    assert ended == (1, "", f"run-gateway: {stream.url}/runs/17: {words}\n")


async def test_tail_is_ended_by_ctrl_c_with_130() -> None:
    async with scripted(1) as stream, running("tail", "17", "--url", stream.url) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"1\n"
        process.send_signal(signal.SIGINT)
        assert await end(process) == (130, "", "")


async def test_tail_prints_an_event_while_the_run_goes_on() -> None:
    async with scripted() as stream, running("tail", "17", "--url", stream.url) as process:
        assert process.stdout is not None
        for number in range(3):
            await stream.change(number)
            assert await process.stdout.readline() == b"%d\n" % number
        await stream.change(close=True)
        assert (await end(process)).code == 0


async def test_an_address_that_is_none_is_misuse() -> None:
    ended = await command("tail", "17", "--url", "localhost:8080")
    assert ended.code == 2
    assert "must begin with http:// or https://" in ended.err


async def test_a_token_is_shown_to_a_gateway_that_asks_who_comes(postgres: Postgres) -> None:
    key = "a-key-of-sixteen-letters"
    env = {"AUTH": "keys", "GATEWAY_KEYS": f"agent:read,write:{key}"}
    async with postgres.database() as url, Machine.start(url, env=env) as machine:
        append = ("append", "1", "--url", machine.url, "--create", "--close")
        refused = await command(*append, stdin=b"1\n")
        assert (refused.code, "401 A credential is required." in refused.err) == (1, True)
        assert (await command(*append, stdin=b"1\n2\n", RUN_GATEWAY_TOKEN=key)).code == 0
        assert (await command("tail", "1", "--url", machine.url, RUN_GATEWAY_TOKEN=key)).out == "1\n2\n"
        assert (await command("tail", "1", "--url", machine.url, "--token", key)).out == "1\n2\n"
        refused = await command("tail", "1", "--url", machine.url)
        assert refused.err == (
            f"run-gateway: {machine.url}/runs/1: 401 A credential is required. It goes into the header"
            " Authorization: Bearer. (--token, or the variable RUN_GATEWAY_TOKEN)\n"
        )
        wrong = await command("tail", "1", "--url", machine.url, RUN_GATEWAY_TOKEN="a-wrong-key-of-letters")
        assert (wrong.code, "a-wrong-key-of-letters" in wrong.err) == (1, False)
