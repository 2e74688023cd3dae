"""The manual's configurations of proxies, run as they stand there: EventSources outlive restarts and kills behind them.

An EventSource gives up for good on any answer but 200, so one 502 in the middle of a deploy is a page that stays dead.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.machines import Machine, free_port
from tests.manual import manual
from tests.node import Script, npm_ci, unavailable
from tests.traffic import Writer

CLIENTS = Path(__file__).parents[1] / "clients"
PAGES = 10
JSON = {"content-type": "application/json"}
NGINX = """daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; {account}
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {text}
}}
"""
# Caddy would ask for the administration's port, and for a folder of its own.
CADDY = """{{
    admin off
    storage file_system {folder}
    auto_https off
}}
{text}
"""


def program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    return found or unavailable(f"{name} is not installed")


def configuration(name: str, port: int, machines: list[Machine]) -> str:
    """What the manual says for this proxy, with our ports in it, and without the lines of Machines that are not."""
    text = re.search(rf"```{name}\n(.*?)```", manual("http"), re.DOTALL)
    assert text is not None
    there = text[1]
    for number, machine in enumerate(machines):
        there = there.replace(f"127.0.0.1:{8080 + number}", f"127.0.0.1:{machine.port}")
    if len(machines) == 1:
        there = re.sub(r"^.*server .*127\.0\.0\.1:8081.*\n| 127\.0\.0\.1:8081", "", there, flags=re.MULTILINE)
    return re.sub(r"(listen |bind :|^:)80\b", rf"\g<1>{port}", there, flags=re.MULTILINE).replace(
        "bind :", "bind 127.0.0.1:"
    )


@asynccontextmanager
async def proxy(name: str, machines: list[Machine], folder: Path) -> AsyncIterator[str]:
    """The proxy in front of the Machines; its address."""
    port = free_port()
    text = configuration(name, port, machines)
    config = folder / name
    account = "user root;" if os.getuid() == 0 else ""  # else nginx gives its folders away
    config.write_text(
        {"nginx": NGINX, "caddy": CADDY}.get(name, "{text}\n").format(folder=folder, account=account, text=text)
    )
    command = {
        "nginx": ["-c", str(config), "-e", str(folder / "error.log")],
        "haproxy": ["-db", "-f", str(config)],
        "caddy": ["run", "--adapter", "caddyfile", "--config", str(config)],
    }[name]
    with (folder / "output").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            program(name), *command, stdout=output, stderr=output, env={**os.environ, "HOME": str(folder)}
        )
        try:
            try:
                await _answers(f"http://127.0.0.1:{port}", process)
            except BaseException as error:
                error.add_note((folder / "output").read_text())
                raise
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            await process.wait()


async def _answers(url: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(60), httpx.AsyncClient(base_url=url, timeout=60) as http:
        while True:
            assert process.returncode is None
            try:
                if (await http.get("/health")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy"])
async def test_events_are_not_held_back_and_links_lead_back(name: str, database_url: str, tmp_path: Path) -> None:
    program(name)
    async with (
        Machine.start(database_url) as machine,
        proxy(name, [machine], tmp_path) as url,
        httpx.AsyncClient(base_url=url, timeout=60) as http,
    ):
        made = (await http.post("/runs", json={"id": "1"})).json()
        assert made["streamUrl"] == f"{url}/runs/1"
        async with http.stream("GET", "/runs/1?offset=-1&live=sse") as sse:
            lines = sse.aiter_lines()
            for word in ("first", "second"):  # each is read before the next is appended
                assert (await http.post("/runs/1", headers=JSON, json=word)).status_code == 204
                async with asyncio.timeout(60):
                    while await anext(lines) != f'data:["{word}"]':
                        pass
        large = ["x" * 500_000] * 4
        assert (await http.post("/runs/1", headers=JSON, json=large)).status_code == 204


@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy"])
async def test_where_no_machine_answers_a_page_is_told_to_come_back(
    name: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that lasts: an EventSource gives up for good on any status but 200."""
    at_once = manual("http").replace("lb_try_duration 10s", "lb_try_duration 1s")
    monkeypatch.setattr(sys.modules[__name__], "manual", lambda _: at_once)
    machine = Machine({"DATABASE_URL": database_url})
    await machine.launch()
    try:
        async with proxy(name, [machine], tmp_path) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
            await machine.kill()
            page = await http.get("/runs/r?offset=-1&live=sse", headers={"accept": "text/event-stream"})
            assert (page.status_code, page.headers["content-type"]) == (200, "text/event-stream")
            assert page.text == "retry: 1000\n\n"
            assert (await http.get("/runs/r")).status_code in (502, 503)
    finally:
        await machine.end()


@pytest.mark.parametrize("count", [2, 1], ids=["two Machines", "one Machine"])
@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy"])
async def test_pages_outlive_a_rolling_restart_and_a_kill(
    name: str, count: int, database_url: str, tmp_path: Path
) -> None:
    """While events are written: also as a Machine ends, and until there is one again."""
    npm_ci(CLIENTS)
    program(name)
    async with Machine.start(database_url) as a, Machine.start(database_url) as b:
        machines = [a, b][:count]
        async with proxy(name, machines, tmp_path) as url:
            writer = Writer("/runs/r", [machine.url for machine in machines])
            await writer.create()
            page = json.dumps({"url": f"{url}/runs/r?offset=-1&live=sse", "count": PAGES})
            async with Script.start(CLIENTS / "pages.mjs", page) as pages:

                async def written(*meanwhile: Callable[[], Awaitable[object]]) -> None:
                    """Events are written before this, meanwhile and after it, and all of them reach all pages."""
                    before, over = writer.acknowledged, False
                    async with asyncio.TaskGroup() as tasks:

                        async def write() -> None:
                            while not over or writer.acknowledged < before + 5:
                                await writer.write(1, pause=0.02, close=False)

                        tasks.create_task(write())
                        for step in meanwhile:
                            await step()
                        over = True
                    await pages.until(lambda lines: all(len(of(page, lines)) == writer.acknowledged for page in every))

                await written()
                for machine in machines:
                    await written(machine.restart)
                for machine in machines:
                    await written(machine.kill, *([] if count > 1 else [machine.launch]))
                    if count > 1:
                        await written(machine.launch)
                await writer.write(1)
                lines = await pages.end()
    for page_number in every:
        assert of(page_number, lines) == list(range(1, writer.acknowledged + 1))
    assert sorted(line["page"] for line in lines if line.get("end") == "closed") == list(every)


every = range(PAGES)


def of(page: int, lines: list[dict[str, object]]) -> list[int]:
    """The numbers of the events that a page was given."""
    return [event["n"] for line in lines if line["page"] == page for event in line.get("items", ())]  # type: ignore[attr-defined]
