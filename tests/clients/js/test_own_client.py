"""`/client.js` reads and writes runs exactly once through killed Machines, deploys and cut connections, in Node."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.page import client as files
from tests.clients.conftest import Two
from tests.databases import Postgres
from tests.machines import Machine
from tests.manual import manual
from tests.node import Script, npm_ci, require_node
from tests.servers import until
from tests.tools.proxy import End

pytestmark = pytest.mark.asyncio(loop_scope="session")  # as the Machines that these tests share
HERE = Path(__file__).parent
JS = HERE.parents[2] / "gateway" / "client" / "js"
KEY = "a-key-of-sixteen-letters"


@pytest.fixture(autouse=True, scope="module")
def node() -> None:
    require_node()


def follow(url: str, keys: list[str] | None = None, **options: Any) -> Any:
    return Script.start(HERE / "follow.mjs", json.dumps({"url": url, "options": options, "keys": keys}))


def record(url: str, **options: Any) -> Any:
    return Script.start(HERE / "record.mjs", json.dumps({"url": url, "options": options}))


def items(lines: list[Any]) -> list[Any]:
    return [item for line in lines for item in line.get("items", [])]


def has_items(least: int) -> Any:
    return lambda lines: len(items(lines)) >= least


def says(line: Any, times: int = 1) -> Any:
    return lambda lines: lines.count(line) >= times


async def read(url: str) -> tuple[list[Any], dict[str, Any]]:
    """The events and the record of a run."""
    async with httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(url)).json(), (await http.get(f"{url}?meta")).json()


# Reading


async def test_a_run_is_followed_from_before_it_is_made_to_its_end(two: Two) -> None:
    run = two.run
    run.path += "-later"
    async with follow(two.url) as reader:
        await asyncio.sleep(0)
        await run.create()
        await run.append({"n": 0}, "text", ["a", ["nested"], None], 1.5, {"ünïcode": "\r\n\u2028 🏃"})
        await reader.until(has_items(5))
        await run.count(range(5, 20))
        await run.close({"last": True})
        lines = await reader.end()
    assert items(lines) == run.log
    assert lines[-1] == {"end": {"offset": run.end, "closed": True}}


async def test_every_offset_leads_to_exactly_the_rest(two: Two) -> None:
    run = two.run
    async with follow(two.url) as reader:
        for number in range(4):
            await run.append({"n": number}, {"m": number})
            await reader.until(has_items(len(run.log)))
        await run.close()
        lines = [line for line in await reader.end() if "items" in line]
    seen = 0
    for line in lines:
        seen += len(line["items"])
        async with follow(two.url, offset=line["offset"]) as later:
            assert items(await later.end()) == run.log[seen:]
    async with follow(two.url, tail=3) as last:
        assert items(await last.end()) == run.log[-3:]


async def test_a_kill_and_a_deploy_lose_and_repeat_nothing(two: Two) -> None:
    run = two.run
    await run.count(range(10))
    async with follow(two.url) as reader:
        await reader.until(has_items(10))
        await two.lose_a()
        await run.count(range(10, 50))
        await two.a.restart()
        await reader.until(has_items(50))
        await two.deploy()
        await run.append("after")
        await reader.until(has_items(51))
        await run.close()
        lines = await reader.end()
    assert items(lines) == run.log
    assert lines[-1]["end"]["closed"]


@pytest.mark.parametrize("end", ["reset", "end"])
@pytest.mark.parametrize("place", ["id:", "data:[", "event: control", "\n\n"])
async def test_a_connection_may_be_cut_at_any_place_of_a_frame(place: str, end: End, two: Two) -> None:
    run = two.run
    await run.append("before")
    async with follow(two.url) as reader:
        await reader.until(has_items(1))
        for number in range(2):
            trap = two.proxy.cut_before(place.encode(), end)
            await run.append({"n": number}, {"m": number})
            await trap.sprung()
            await run.append({"later": number})
            await reader.until(has_items(len(run.log)))
        await run.close()
        lines = await reader.end()
    assert items(lines) == run.log


async def test_a_connection_that_says_nothing_is_made_anew(two: Two) -> None:
    run = two.run
    await run.append("before")
    async with follow(two.url, silence=0.5) as reader:
        await reader.until(has_items(1))
        await until(lambda: two.proxy.lose() > 0)  # it may be between two connections
        await run.append("after")
        await run.close()
        lines = await reader.end()
    assert items(lines) == ["before", "after"]


async def test_a_token_that_has_expired_is_renewed(postgres: Postgres) -> None:
    env = {"AUTH": "keys", "GATEWAY_KEYS": f"agent:read,write:{KEY}"}
    async with (
        postgres.database() as url,
        Machine.start(url, env=env) as machine,
        httpx.AsyncClient(base_url=machine.url, headers={"authorization": f"Bearer {KEY}"}) as http,
    ):
        await http.post("/runs", json={"id": "1"})
        await http.post("/runs/1", json=[1])
        short = (await http.post("/runs/1/token", json={"ttl": 3})).json()["token"]
        async with (
            follow(f"{machine.url}/runs/1", keys=["not-valid-any-more", KEY]) as refused,
            follow(f"{machine.url}/runs/1", keys=[short, KEY]) as reader,
        ):
            await refused.until(has_items(1))
            await reader.until(says({"key": 2}))
            await http.post("/runs/1", json=[2], headers={"stream-closed": "true"})
            assert items(await reader.end()) == [1, 2]
            lines = await refused.end()
        assert items(lines) == [1, 2]
        assert any("401" in (line.get("why") or "") for line in lines)
        async with follow(f"{machine.url}/runs/1", keys=["wrong"]) as reader:
            assert (await reader.end())[-1]["refused"]["status"] == 401
        async with follow(f"{machine.url}/runs/2", keys=[short]) as reader:
            assert (await reader.end())[-1]["refused"]["status"] in (401, 403)


async def test_what_waiting_does_not_mend_is_an_error_that_says_so(two: Two) -> None:
    await two.run.append(1)
    async with httpx.AsyncClient(trust_env=False) as http:
        await http.delete(two.url)
    for address, options, name, status, words in (
        (f"{two.url}-never", {"wait": 0}, "Refused", 404, "There is no such"),
        (f"{two.url}-never", {"wait": 0.3}, "Refused", 404, "There is no such"),
        (two.url, {"offset": "nonsense"}, "Refused", 400, "offset must be"),
        (f"{two.b.url}/health", {}, "Refused", 200, "is this a run gateway?"),
        ("127.0.0.1:8080/runs/1", {}, "TypeError", None, "begins with http://"),
    ):
        async with follow(address, **options) as reader:
            refused = (await reader.end())[-1]["refused"]
        assert (refused["name"], refused.get("status")) == (name, status)
        assert words in refused["message"]


async def test_text_and_bytes_come_as_they_are(two: Two) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        closed = {"stream-closed": "true"}
        text, raw = f"{two.url}-text", f"{two.url}-raw"
        await http.put(text, headers=closed | {"content-type": "text/plain"}, content=" a\nevent: control\n\nb")
        await http.put(raw, headers=closed, content=b"\x00\xff\n")
    async with follow(text, json=False) as reader:
        assert items(await reader.end()) == [" a\nevent: control\n\nb"]
    async with follow(raw) as reader:
        assert items(await reader.end()) == [{"bytes": [0, 255, 10]}]


async def test_many_runs_come_over_one_connection_and_a_kill(two: Two) -> None:
    names = [f"{two.run.path.removeprefix('/')}-{n}" for n in range(20)]
    *there, later = names
    asked = {"url": two.proxy.url, "streams": names, "options": {}}
    async with httpx.AsyncClient(base_url=two.b.url, trust_env=False) as http:

        async def append(*events: int) -> None:
            for name in names:
                await http.post(f"/{name}", json=list(events))

        for name in there:
            await http.put(f"/{name}", headers={"content-type": "application/json"})
        async with Script.start(HERE / "follow.mjs", json.dumps(asked)) as reader:
            await reader.until(lambda lines: any("state" in line for line in lines))
            await http.put(f"/{later}", headers={"content-type": "application/json"})
            await append(0, 1)
            await reader.until(lambda lines: sum(len(line.get("events", [])) for line in lines) >= 40)
            await until(lambda: two.proxy.connections == 1)
            await two.lose_a()
            await append(2)
            await reader.until(lambda lines: sum(len(line.get("events", [])) for line in lines) >= 60)
            for name in names:
                await http.post(f"/{name}", json=[3], headers={"stream-closed": "true"})
            lines = await reader.end()
    got = {name: [event for line in lines if line.get("stream") == name for event in line["events"]] for name in names}
    assert got == {name: [0, 1, 2, 3] for name in names}
    assert sorted(line["stream"] for line in lines if line.get("closed")) == sorted(names)
    assert not any("error" in line for line in lines)


async def test_of_many_runs_one_that_does_not_come_is_told_of(two: Two) -> None:
    asked = {"url": two.proxy.url, "streams": ["runs/none"], "options": {"wait": 0.5}}
    async with Script.start(HERE / "follow.mjs", json.dumps(asked)) as reader:
        lines = await reader.end()
    assert [line["error"]["status"] for line in lines if "error" in line] == [404]


async def test_a_list_of_runs_lives_through_a_kill(two: Two) -> None:
    mine = f"{two.run.path.rpartition('/')[2]}-"

    def told(lines: list[Any]) -> list[tuple[str, str]]:
        changes = [each for line in lines for each in line.get("changes", [])]
        return [(each["change"], each["run"]["runId"].removeprefix(mine)) for each in changes]

    async with httpx.AsyncClient(base_url=two.b.url, trust_env=False) as http:

        async def make(name: str) -> None:
            assert (await http.post("/runs", json={"id": mine + name, "workflowName": mine})).status_code == 201

        await make("before")
        asked = {"url": f"{two.proxy.url}/runs?workflowName={mine}", "list": True, "options": {}}
        async with Script.start(HERE / "follow.mjs", json.dumps(asked)) as reader:
            await reader.until(lambda lines: any("list" in line for line in lines))
            assert [run["runId"] for line in reader.lines for run in line.get("list", [])] == [f"{mine}before"]
            await make("during")
            await reader.until(lambda lines: ("created", "during") in told(lines))
            await two.lose_a()
            await make("away")
            await http.post(f"/runs/{mine}away", headers={"stream-closed": "true"})
            await http.delete(f"/runs/{mine}before")
            await reader.until(lambda lines: {("ended", "away"), ("removed", "before")} <= set(told(lines)))
            lines = list(reader.lines)
    expected = [("created", "during"), ("created", "away"), ("ended", "away"), ("removed", "before")]
    assert sorted(told(lines)) == sorted(expected)
    assert sum("list" in line for line in lines) == 1


# Writing


async def test_an_agent_goes_on_through_a_kill_and_a_deploy(two: Two) -> None:
    url = two.url + "-recorded"
    async with record(url, workflow="chat", input={"q": 1}, metadata={"user": "u"}) as agent:
        await agent.say({"emit": list(range(50)), "flush": True})
        await agent.until(says({"flushed": 50}))
        await two.lose_a()
        await agent.say({"emit": list(range(50, 100))})
        await two.a.restart()
        await two.deploy()
        await agent.say({"emit": list(range(100, 150)), "flush": True})
        await agent.until(says({"flushed": 150}))
        await agent.say({"return": {"ok": True}})
        assert (await agent.end())[-1] == {"result": {"ok": True}}
    events, found = await read(url)
    assert events == [*range(150), {"type": "run_end", "isError": False, "result": {"ok": True}}]
    assert (found["status"], found["result"], found["workflowName"]) == ("completed", {"ok": True}, "chat")
    assert (found["input"], found["metadata"], found["lease"]) == ({"q": 1}, {"user": "u"}, 30)


@pytest.mark.parametrize("end", ["reset", "end"])
async def test_an_append_whose_answer_is_lost_is_in_the_log_once(end: End, two: Two) -> None:
    url = two.url + "-recorded"
    async with record(url) as agent:
        await agent.until(lambda lines: any("coordinates" in line for line in lines))
        for number in range(1, 5):
            trap = two.proxy.cut_before(b"HTTP/1.1", end)
            await agent.say({"emit": [number], "flush": True})
            await trap.sprung()
            await agent.until(says({"flushed": number}))
        two.proxy.cut_before(b"HTTP/1.1", end)
        await agent.say({"return": None})
        await agent.end()
    assert (await read(url))[0] == [1, 2, 3, 4, {"type": "run_end", "isError": False}]


async def test_how_a_run_ends_is_said_by_its_agent(two: Two) -> None:
    failed, lost, cancelled = f"{two.url}-failed", f"{two.url}-lost", f"{two.url}-cancelled"
    async with record(failed) as agent:
        await agent.say({"emit": [1]})
        await agent.say({"throw": "no"})
        assert (await agent.end())[-1] == {"refused": {"name": "RangeError", "message": "no"}}
    events, found = await read(failed)
    assert events[-1]["error"] == found["error"] == {"name": "RangeError", "message": "no"}

    async with record(failed) as again:
        assert "has ended" in (await again.end())[-1]["refused"]["message"]

    async with record(cancelled, lease=6) as agent, httpx.AsyncClient(trust_env=False) as http:
        await agent.say({"emit": [1], "flush": True})
        await agent.until(says({"flushed": 1}))
        await http.post(f"{cancelled}/cancel")
        assert (await agent.end())[-1]["refused"]["name"] == "RunCancelled"
    events, found = await read(cancelled)
    assert events == [1, {"type": "run_end", "isError": False, "status": "cancelled"}]
    assert (found["status"], found["isError"], "error" in found) == ("cancelled", False, False)

    async with record(lost, lease=6) as first:
        await first.say({"emit": [1], "flush": True})
        await first.until(says({"flushed": 1}))
        async with record(lost, lease=6) as second:
            await second.say({"emit": [2], "flush": True})
            await second.until(says({"flushed": 1}))
            assert (await first.end())[-1]["refused"]["name"] == "RunLost"
            await second.say({"return": 2})
            await second.end()
    assert (await read(lost))[0][:2] == [1, 2]
    assert (await read(lost))[1]["result"] == 2


async def test_a_lease_is_kept_while_the_agent_thinks(two: Two) -> None:
    url = two.url + "-thinking"
    async with record(url, lease=6) as agent:
        await agent.until(lambda lines: any("coordinates" in line for line in lines))
        before = two.proxy.turns
        await until(lambda: two.proxy.turns >= before + 3)  # signs of life, since it has nothing else to say
        assert (await read(url))[1]["status"] == "active"
        await agent.say({"return": None})
        await agent.end()
    assert (await read(url))[1]["status"] == "completed"


async def test_an_agent_without_a_gateway_is_told_so_soon() -> None:
    async with record("http://127.0.0.1:9/runs/1", contact=0.5) as agent:
        refused = (await agent.end())[-1]["refused"]
    assert refused["name"] in ("GaveUp", "TypeError")
    async with record("http://127.0.0.1:8080/elsewhere/1") as agent:
        assert "ends in /runs/<id>" in (await agent.end())[-1]["refused"]["message"]


# The files


async def test_typescript_takes_the_types_and_finds_the_mistakes() -> None:
    packages = npm_ci(HERE.parent)
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--lib", "es2023,dom,dom.iterable"]
    command = [require_node(), str(packages / "typescript" / "bin" / "tsc"), *options, str(HERE / "user.ts")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


async def test_the_types_name_what_the_client_exports() -> None:
    code, types = (files()[name].decode() for name in ("client.js", "client.d.ts"))
    exported = set(re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", code, re.MULTILINE))
    named = set(re.findall(r"^export (?:function|class|const) (\w+)", types, re.MULTILINE))
    assert exported == named
    assert "import " not in re.sub(r"//.*|/\*.*?\*/", "", code, flags=re.DOTALL), "it has no dependency"


@pytest.mark.parametrize("name", ["agent.mjs", "page.html"])
async def test_the_manual_shows_the_very_files(name: str) -> None:
    text = (JS / name).read_text()
    assert f"\n{text}```" in manual("client/js")
    assert len(text.splitlines()) <= 16


async def test_a_machine_serves_the_client_to_every_page(two: Two) -> None:
    async with httpx.AsyncClient(base_url=two.b.url, trust_env=False) as http:
        for name, type in (("client.js", "text/javascript"), ("client.d.ts", "application/typescript")):
            for address in (f"/{name}", f"/ui/{name}"):
                answer = await http.get(address)
                assert answer.content == files()[name]
                assert answer.headers["content-type"].startswith(type)
                assert answer.headers["access-control-allow-origin"] == "*"
