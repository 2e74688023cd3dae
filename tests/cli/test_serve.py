"""`run-gateway serve` as a process over its embedded database: how it begins, and above all how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from gateway.settings.listing import sections
from tests.cli.commands import command, end, environment, refuses, running
from tests.databases import Postgres
from tests.faults.network import distant
from tests.machines import Machine, free_port
from tests.tools.proxy import Proxy


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, str]:
    """The environment that puts the embedded database into the test's own folder."""
    return {"GATEWAY_DATA_DIR": str(tmp_path / "data")}


def _client(machine: Machine) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=machine.url, timeout=30)


async def test_serve_says_where_its_data_is_and_where_it_listens(folder: dict[str, str]) -> None:
    async with Machine.start(None, env=folder) as machine, _client(machine) as http:
        assert f"using an embedded Postgres in {folder['GATEWAY_DATA_DIR']}\n" in machine.log
        assert f"\nListening on http://127.0.0.1:{machine.port}\n" in f"\n{machine.log}"
        assert machine.port != 0
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/ready")).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_live_responses_cleanly_and_exits_with_0(
    folder: dict[str, str], number: signal.Signals
) -> None:
    async with Machine.start(None, env=folder) as machine, _client(machine) as http:
        await http.put("/runs/1", headers={"content-type": "application/json"}, content=b"[1]")
        async with http.stream("GET", "/runs/1?offset=-1&live=sse") as sse:
            chunks = sse.aiter_bytes()
            first = await anext(chunks)
            poll = asyncio.create_task(http.get("/runs/1?offset=now&live=long-poll"))
            while 'run_gateway_readers{mode="long_poll"} 1' not in (await http.get("/metrics")).text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            code = asyncio.create_task(machine.terminate(number))
            # Neither raises: a response that is cut off would be a RemoteProtocolError.
            assert b"event: data" in first + b"".join([chunk async for chunk in chunks])
            assert (await poll).status_code in (204, 503)
        assert await code == 0
        assert "Traceback" not in machine.log


async def test_a_second_ctrl_c_waits_for_nobody(folder: dict[str, str]) -> None:
    async with Machine.start(None, env=folder | {"GATEWAY_DRAIN_TIMEOUT": "3600"}) as machine:
        reader, writer = await asyncio.open_connection("127.0.0.1", machine.port)
        writer.write(b"PUT /runs/1 HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n")
        await reader.readline()  # it waits for the body now
        machine.send_signal(signal.SIGINT)
        await refuses(machine.port)
        assert await machine.terminate(signal.SIGINT) == 0
        writer.close()
        assert '"level": "warning"' not in machine.log


async def test_a_signal_while_it_starts_ends_it_with_0(folder: dict[str, str]) -> None:
    async with running("serve", PORT="0", **folder) as process:
        assert process.stdout is not None
        assert b"embedded Postgres" in await process.stdout.readline()
        process.terminate()
        ended = await end(process)
    assert (ended.code, ended.out) == (0, "")
    assert "Traceback" not in ended.err


async def test_after_a_kill_the_next_start_has_every_event(folder: dict[str, str]) -> None:
    async with Machine.start(None, env=folder) as machine, httpx.AsyncClient() as http:
        await http.put(f"{machine.url}/runs/1", headers={"content-type": "application/json"})
        await http.post(f"{machine.url}/runs/1", headers={"content-type": "application/json"}, content=b"[1,2]")
        port = machine.port
        await machine.kill()
        await machine.restart()
        assert machine.port == port
        assert (await http.get(f"{machine.url}/runs/1")).json() == [1, 2]


async def test_a_second_serve_on_the_same_folder_is_a_second_machine(folder: dict[str, str]) -> None:
    async with Machine.start(None, env=folder) as a, Machine.start(None, env=folder) as b:
        appended = await command("append", "1", "--url", a.url, "--create", "--close", stdin=b"1\n2\n")
        assert appended.code == 0
        assert await command("tail", "1", "--url", b.url) == (0, "1\n2\n", "")


async def test_tail_and_append_go_on_through_a_restart(folder: dict[str, str]) -> None:
    async with Machine.start(None, env=folder) as machine:
        await command("append", "1", "--url", machine.url, "--create", stdin=b"1\n")
        tail = asyncio.create_task(command("tail", "1", "--url", machine.url))
        await machine.kill()
        append = asyncio.create_task(command("append", "1", "--url", machine.url, "--close", stdin=b"2\n3\n"))
        await machine.restart()
        assert (await append).code == 0
        ended = await tail
        assert (ended.code, ended.out) == (0, "1\n2\n3\n")


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({"PORT": "65536"}, "PORT='65536' should be less than or equal to 65535"),
        ({"GATEWAY_HEARTBEAT": "soon"}, "GATEWAY_HEARTBEAT='soon' must be a number, or one with"),
    ],
)
async def test_a_bad_value_is_one_line_and_code_2(env: dict[str, str], line: str) -> None:
    ended = await command("serve", stdin=b"", **env)
    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(f"run-gateway: {re.escape(line)}.*\n", ended.err)


async def test_a_port_in_use_is_one_line_and_code_1() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = await command("serve", "--port", str(port))
    assert ended == (1, "", f"run-gateway: cannot listen on 127.0.0.1:{port}: Address already in use\n")


async def test_an_absent_database_is_one_line_without_the_password() -> None:
    url = f"postgres://user:secret@127.0.0.1:{free_port()}/runs"
    for name in ("serve", "migrate"):
        ended = await command(name, DATABASE_URL=url, PORT="0", GATEWAY_DATABASE_WAIT="0")
        assert (ended.code, ended.out) == (1, "")
        assert re.fullmatch(r"run-gateway: cannot reach the database runs at 127\.0\.0\.1:\d+: .*\n", ended.err)
        assert "secret" not in ended.err


async def test_a_database_that_starts_late_is_waited_for(database_url: str) -> None:
    port = free_port()
    async with distant(database_url) as (there, url):
        late = url.replace(f":{there.port}/", f":{port}/")
        async with running("serve", PORT="0", DATABASE_URL=late) as process:
            assert process.stdout is not None and process.stderr is not None
            assert b"Cannot reach the database" in await process.stderr.readline()
            async with Proxy(there.target, port=port):
                assert (await process.stdout.readline()).startswith(b"Listening on http://")
                process.terminate()
                ended = await end(process)
    assert ended.code == 0
    assert " answers." in ended.err


async def test_a_signal_ends_the_wait_for_a_database_with_0() -> None:
    url = f"postgres://127.0.0.1:{free_port()}/runs"
    async with running("serve", PORT="0", DATABASE_URL=url, GATEWAY_DATABASE_WAIT="3600") as process:
        assert process.stderr is not None
        assert b"trying for 3600 s" in await process.stderr.readline()
        process.terminate()
        assert await end(process) == (0, "", "")


async def test_a_database_that_there_is_not_is_not_waited_for(postgres: Postgres) -> None:
    ended = await command("serve", PORT="0", DATABASE_URL=postgres.dsn("nowhere"), GATEWAY_DATABASE_WAIT="3600")
    assert (ended.code, ended.out) == (1, "")
    assert re.fullmatch(r'run-gateway: cannot reach the database nowhere at .*: database "nowhere" .*\n', ended.err)


async def test_the_help_of_serve_lists_every_setting_with_its_default() -> None:
    ended = await command("serve", "--help")
    text = "".join(ended.out.split())  # lines are broken at hyphens, too
    for row in (row for section in sections() for row in section.rows):
        default = f"[default:{row.default}]" if row.default else ""
        assert row.variable + "".join(row.description.split()) + default in text


async def test_at_a_terminal_it_says_what_to_do_next(tmp_path: Path, database_url: str) -> None:
    (tmp_path / ".env").write_text("GATEWAY_MAX_READERS=5\n")
    main, terminal = os.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "serve", "--port", "0", stdout=terminal, stderr=asyncio.subprocess.PIPE,
        cwd=tmp_path, env=environment(DATABASE_URL=database_url),
    )  # fmt: skip
    os.close(terminal)
    try:
        said = ""
        while "Follow it" not in said:
            said += (await asyncio.to_thread(os.read, main, 4096)).decode()
        process.terminate()
        assert process.stderr is not None
        logged = (await process.stderr.read()).decode()
        assert await process.wait() == 0
    finally:
        os.close(main)
        if process.returncode is None:
            process.kill()
            await process.wait()
    (url,) = re.findall(r"Listening on (\S+)", said)
    assert f"See runs as they go on: {url}/ui" in said
    assert "The file .env is not read, and has GATEWAY_MAX_READERS" in logged
