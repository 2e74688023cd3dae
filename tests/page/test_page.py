"""`/ui` in a real browser: people see runs as they go on and steer them, whatever is killed or events hold."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.page import files
from tests.databases import Postgres
from tests.machines import Machine
from tests.tools.browser import Browser

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY = "0123456789abcdef0123"
JSON = {"content-type": "application/json"}
COUNT = "return document.querySelector('.count')?.textContent ?? ''"
TEXTS = "return [...document.querySelectorAll('.window .text')].map((each) => each.textContent)"
RUNS = "return [...document.querySelectorAll('tbody tr')].map((each) => each.dataset.run)"
SAID = "return document.getElementById('said').textContent"
ASKED = "return Boolean(document.querySelector('.ask'))"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def machine(postgres: Postgres) -> AsyncIterator[Machine]:
    env = {
        "AUTH": "keys",
        "GATEWAY_KEYS": f"op:read,write,control,admin:{KEY}",
        "GATEWAY_MAX_EVENT": "12MB",
        "GATEWAY_MAX_BODY": "16MB",
    }
    async with postgres.database() as url, Machine.start(url, env=env) as machine:
        yield machine


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared_browser() -> AsyncIterator[Browser]:
    async with Browser.start() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def browser(shared_browser: Browser, machine: Machine) -> Browser:
    """A tab in which the key was typed."""
    await shared_browser.open(f"{machine.url}/ui")
    await shared_browser.run("sessionStorage.setItem('run-gateway-key', arguments[0]); location.hash = '#/'", KEY)
    await shared_browser.reload()
    return shared_browser


@pytest_asyncio.fixture(loop_scope="session")
async def http(machine: Machine) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=machine.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        yield client


async def make(http: httpx.AsyncClient, id: str, *events: object, **more: object) -> None:
    assert (await http.post("/runs", json={"id": id, **more})).status_code == 201
    await append(http, id, *events)


async def append(http: httpx.AsyncClient, id: str, *events: object) -> None:
    if events:
        answer = await http.post(f"/runs/{id}", content=json.dumps(events), headers=JSON)
        assert answer.status_code == 204, answer.text


async def show(browser: Browser, id: str) -> None:
    await browser.run("location.hash = `#/runs/${encodeURIComponent(arguments[0])}`", id)


async def click(browser: Browser, selector: str) -> None:
    await browser.run("document.querySelector(arguments[0]).click()", selector)


def has(words: str) -> Any:
    return lambda seen: words in seen


async def test_a_run_appears_while_one_looks_and_its_tokens_come(browser: Browser, http: httpx.AsyncClient) -> None:
    await browser.until(RUNS, lambda runs: isinstance(runs, list))
    await make(http, "new", workflowName="chat")
    await browser.until(RUNS, lambda runs: "new" in runs)
    await show(browser, "new")
    for number, word in enumerate(("The ", "answer ", "comes."), 1):
        await append(http, "new", {"type": "text", "text": word})
        await browser.until(COUNT, has(f"{number} events"))
    assert await browser.run(TEXTS) == ["The answer comes."]
    await click(browser, ".fold")
    assert await browser.until(TEXTS, lambda texts: len(texts) == 3) == ["The ", "answer ", "comes."]
    assert (await http.post("/runs/new", headers={"stream-closed": "true"})).status_code == 204
    await browser.until(SAID, has("The run has ended."))
    assert await browser.run("return document.querySelector('.status').textContent") == "completed"


async def test_a_killed_machine_costs_a_page_no_event(
    browser: Browser, http: httpx.AsyncClient, machine: Machine
) -> None:
    await make(http, "survives", *[{"n": number} for number in range(5)])
    await show(browser, "survives")
    await browser.until(COUNT, has("5 events"))
    await machine.kill()
    await browser.until(SAID, has("The connection was lost"))
    await machine.restart()
    await append(http, "survives", {"n": 5}, {"n": 6})
    await browser.until(COUNT, has("7 events"))
    assert [json.loads(text)["n"] for text in await browser.run(TEXTS)] == list(range(7))


async def test_a_cancel_is_confirmed_and_reaches_the_producer(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "stopped")
    await show(browser, "stopped")
    await browser.until(COUNT, has("0 events"))
    await click(browser, ".cancel")
    await click(browser, "#sure button:not([value=yes])")
    await click(browser, ".cancel")
    await browser.until("return document.getElementById('sure').open", bool)
    assert (await http.get("/runs/stopped/control")).json() == []
    await click(browser, "#sure button[value=yes]")
    await browser.until(SAID, has("The producer is asked to stop."))
    (event,) = (await http.get("/runs/stopped/control")).json()
    assert event["type"] == "cancel"


async def test_a_key_is_asked_for_until_one_is_valid(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "guarded")
    await browser.run("document.getElementById('leave').click()")
    for key in ("wrong-wrong-wrong-wrong", KEY):
        await browser.until(ASKED, bool)
        assert "guarded" not in await browser.run("return document.body.textContent")
        await browser.run(
            "document.querySelector('.ask input').value = arguments[0]; document.querySelector('.ask button').click()",
            key,
        )
    await browser.until(RUNS, lambda runs: "guarded" in runs)


async def test_a_link_shows_one_run_and_nothing_else(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "lent", {"text": "seen"})
    await make(http, "kept", {"text": "hidden"})
    await show(browser, "lent")
    await browser.until(COUNT, has("1 events"))
    await click(browser, ".share")
    link = await browser.until("return document.querySelector('.link input').value", bool)
    await browser.open("about:blank")
    await browser.open(link)
    await browser.run("sessionStorage.clear()")
    await browser.reload()
    assert await browser.until(TEXTS, bool) == ["seen"]
    hidden = "return ['.cancel', '.delete', '.share', '#home'].every((each) => document.querySelector(each).hidden)"
    assert await browser.run(hidden)
    await browser.run("location.hash = location.hash.replace('lent', 'kept')")
    await browser.until(SAID, has("403"))
    assert await browser.run(TEXTS) == []


async def test_a_token_that_runs_out_is_asked_for_again(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "short", {"text": "seen"})
    token = (await http.post("/runs/short/token", json={"ttl": 2})).json()["token"]
    await browser.run("sessionStorage.clear(); location.hash = `#/shared/short/${arguments[0]}`", token)
    await browser.until(ASKED, bool)
    assert "not any more" in await browser.run(SAID)


async def test_what_events_hold_is_shown_and_not_done(browser: Browser, http: httpx.AsyncClient) -> None:
    marks = "\u202e turned \u0000 nothing"
    await make(
        http,
        "<img src=x onerror=hacked=1>",
        {"type": "<b>bold</b>", "text": "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"},
        {"type": "marks", "text": marks},
        {"type": "large", "text": "x" * 10_000_000},
        {"type": "plain", "__proto__": {"isError": True}, "constructor": None},
        *["text", 7, None, [1, 2], True],
        metadata={"<script>": "<i>"},
    )
    await show(browser, "<img src=x onerror=hacked=1>")
    await browser.until(COUNT, has("9 events"))
    texts = await browser.until(TEXTS, lambda texts: len(texts) == 9)
    assert texts[0].startswith("<script>")
    assert texts[1] == "\\u202e turned \\u0000 nothing"
    assert len(texts[2]) < 1000
    for number in range(9):
        await browser.run("document.querySelectorAll('.window li')[arguments[0]].click()", number)
    assert await browser.run("return window.hacked ?? null") is None
    assert await browser.run("return document.querySelectorAll('main img, main script, main b').length") == 0
    await browser.run("location.hash = '#/'")
    await browser.until(RUNS, bool)
    assert await browser.run("return window.hacked ?? null") is None


async def test_a_hundred_thousand_events_are_a_few_rows(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "large")
    for start in range(0, 100_000, 20_000):
        await append(http, "large", *[{"type": f"kind-{n % 7}", "n": n} for n in range(start, start + 20_000)])
    await show(browser, "large")
    await browser.until(COUNT, has("100000 events"))
    assert await browser.run("return document.querySelectorAll('.window li').length") < 200
    go = "const at = document.querySelector('.jump'); at.value = arguments[0]; at.dispatchEvent(new Event('change'))"
    chosen = "return document.querySelector('.window [aria-selected=true] .number')?.textContent"
    await browser.run(go, "77777")
    await browser.until(chosen, lambda number: number == "77777")
    assert json.loads(await browser.run("return document.querySelector('.raw').textContent"))["n"] == 77_776
    await browser.run(go, "0000000000000000_0000000000000042")
    await browser.until(chosen, lambda number: number == "42")


async def test_calls_of_tools_are_drawn_and_errors_found(browser: Browser, http: httpx.AsyncClient) -> None:
    calls = [
        {"type": "tool_start", "toolCallId": "a", "toolName": "search", "timestamp": 1_796_025_556_000},
        {"type": "tool_end", "toolCallId": "a", "timestamp": 1_796_025_557_500},
        {"type": "tool_start", "toolCallId": "b", "toolName": "fetch", "timestamp": 1_796_025_557_500},
        {"type": "tool_end", "toolCallId": "b", "isError": True, "timestamp": 1_796_025_558_000},
    ]
    await make(http, "tools", *calls)
    await show(browser, "tools")
    drawn = "return [...document.querySelectorAll('.calls li')].map((each) => each.textContent)"
    assert await browser.until(drawn, lambda lines: len(lines) == 2) == ["search1.5 s", "fetch500 ms"]
    await click(browser, ".next")
    chosen = "return document.querySelector('.window [aria-selected=true]')?.className"
    assert await browser.until(chosen, lambda name: name is not None) == "error"


async def test_the_keyboard_is_enough(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "typed", {"text": "one"}, {"type": "two"})
    await browser.until(RUNS, lambda runs: runs and runs[0] == "typed")
    press = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))"
    await browser.run(press, "j")
    await browser.run("document.activeElement.click()")
    await browser.until(COUNT, has("2 events"))
    await browser.run("document.querySelector('.window').focus()")
    await browser.run(press, "ArrowDown")
    await browser.until("return document.querySelector('.raw').textContent", has("one"))
    await browser.run(press, "Escape")
    await browser.until(RUNS, bool)


async def test_a_run_is_deleted_once_that_is_confirmed(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "doomed", {"text": "x"})
    await show(browser, "doomed")
    await browser.until(COUNT, has("1 events"))
    await click(browser, ".delete")
    await click(browser, "#sure button[value=yes]")
    await browser.until(RUNS, lambda runs: isinstance(runs, list) and bool(runs) and "doomed" not in runs)
    assert (await http.head("/runs/doomed")).status_code == 404


async def test_the_machine_that_answers_shows_what_it_does(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "measured", {"text": "x"})
    await browser.run("document.querySelector('#machines summary').click()")
    table = (
        "return [...document.querySelectorAll('#machines tr')]"
        ".map((row) => [...row.children].map((each) => each.textContent))"
    )
    seen = await browser.until(table, lambda rows: len(rows) > 1 and rows[1][2] != "")
    name = (await http.get("/ready")).json()["machine"]
    assert (seen[0][:3], seen[1][:2]) == (["Machine", "state", "SSE readers"], [name, "ready"])


async def test_subscriptions_are_shown_with_their_cursors(browser: Browser, http: httpx.AsyncClient) -> None:
    await http.put("/v1/stream/wakes", headers=JSON)
    await make(http, "watched", {"text": "x"})
    wanted = {"type": "pull-wake", "streams": ["runs/watched"], "wake_stream": "wakes", "description": "<b>mine</b>"}
    await http.put("/v1/stream/__ds/subscriptions/<i>billing", json=wanted)
    await browser.run("location.hash = '#/subscriptions'")
    cells = "return [...document.querySelectorAll('main tbody td')].map((each) => each.textContent)"
    assert (await browser.until(cells, bool))[:4] == ["<i>billing", "active", "wakes", "by name"]
    await click(browser, "main tbody a")
    assert await browser.until(cells, lambda seen: "runs/watched" in seen) == [
        "runs/watched",
        "explicit",
        "0000000000000000_0000000000000001",
    ]
    assert "<b>mine</b>" in await browser.run("return document.querySelector('main dl').textContent")
    await browser.run("location.hash = '#/subscriptions/none'")
    await browser.until(SAID, has("not there"))


async def test_the_page_asks_no_other_host(browser: Browser, http: httpx.AsyncClient, machine: Machine) -> None:
    await browser.until(RUNS, lambda runs: isinstance(runs, list))
    asked = await browser.run("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert asked
    assert all(name.startswith(machine.url) for name in asked)


async def test_the_description_of_the_api_asks_for_a_key(browser: Browser, machine: Machine) -> None:
    await browser.run("sessionStorage.clear()")
    await browser.open(f"{machine.url}/docs")
    await browser.until("return !document.getElementById('ask').hidden", bool)
    assert await browser.run("return document.querySelectorAll('.opblock').length") == 0
    await browser.run(
        "document.querySelector('#ask input').value = arguments[0]; document.querySelector('#ask button').click()", KEY
    )
    await browser.until("return document.querySelectorAll('.opblock').length", lambda count: count > 10)
    assert await browser.run("return document.getElementById('ask').hidden")


async def test_a_browser_is_sent_to_the_page_and_curl_is_not(machine: Machine) -> None:
    async with httpx.AsyncClient(base_url=machine.url) as anyone:
        sent = await anyone.get("/", headers={"accept": "text/html,*/*;q=0.8"})
        assert (sent.status_code, sent.headers["location"]) == (307, "ui")  # relative: it stays below a path prefix
        assert (await anyone.get("/")).json()["ui"] == "/ui"
        for name in files():
            answer = await anyone.get("/ui" if name == "index.html" else f"/ui/{name}")
            assert answer.status_code == 200
            assert "'unsafe" not in answer.headers["content-security-policy"]
        assert (await anyone.get("/ui/nothing.js")).status_code == 404
