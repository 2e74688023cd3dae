"""`/ui` in a real browser: people see runs as they go on and steer them, whatever is killed or events hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.page import files
from tests.databases import Postgres
from tests.machines import Machine
from tests.node import npm_ci
from tests.tools.browser import Browser
from tests.tools.nginx import nginx

CLIENTS = Path(__file__).parents[1] / "clients"

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY = "0123456789abcdef0123"
READER = "fedcba98765432103210"
JSON = {"content-type": "application/json"}
TAB, ENTER, ESCAPE, DOWN, SPACE = "\ue004", "\ue007", "\ue00c", "\ue015", " "  # as WebDriver calls keys
COUNT = "return document.querySelector('.count')?.textContent ?? ''"
TEXTS = "return [...document.querySelectorAll('.window .text')].map((each) => each.textContent)"
RUNS = "return [...document.querySelectorAll('tbody tr')].map((each) => each.dataset.run)"
SAID = "return document.getElementById('said').textContent"
ASKED = "return Boolean(document.querySelector('.ask'))"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def machine(postgres: Postgres) -> AsyncIterator[Machine]:
    env = {
        "AUTH": "keys",
        "GATEWAY_KEYS": f"op:read,write,control,admin:{KEY} looks:read:{READER}",
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
    """A tab in which the key was typed, of a usual size."""
    await shared_browser.emulate("Emulation.clearDeviceMetricsOverride")
    await shared_browser.emulate("Emulation.setEmulatedMedia", features=[])
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


async def answer(browser: Browser, key: str) -> None:
    """Gives the key that is asked for."""
    await browser.until(ASKED, bool)
    script = "document.querySelector('.ask input').value = arguments[0]; document.querySelector('.ask button').click()"
    await browser.run(script, key)


async def answer_docs(browser: Browser) -> None:
    """Gives the key that /docs asks for, and has it shown what the gateway can do."""
    await browser.until("return !document.getElementById('ask').hidden", bool)
    assert await browser.run("return document.querySelectorAll('.opblock').length") == 0
    await browser.run(
        "document.querySelector('#ask input').value = arguments[0]; document.querySelector('#ask button').click()", KEY
    )
    await browser.until("return document.querySelectorAll('.opblock').length", lambda count: count > 10)


async def type_in(browser: Browser, field: str, text: str) -> None:
    script = "const field = document.querySelector('form')[arguments[0]]; field.value = arguments[1];"
    await browser.run(f"{script} field.dispatchEvent(new Event('input', {{bubbles: true}}))", field, text)


async def select(browser: Browser, status: str) -> None:
    await type_in(browser, "status", status)


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


async def test_the_list_asks_once_and_is_told_of_changes(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "first", workflowName="lists")
    await make(http, "second", workflowName="lists")
    await type_in(browser, "workflowName", "lists")
    await browser.until(RUNS, lambda runs: runs == ["second", "first"])
    await make(http, "third", workflowName="lists")
    await make(http, "elsewhere", workflowName="others")
    await browser.until(RUNS, lambda runs: runs == ["third", "second", "first"])
    await browser.run("document.querySelector('tr[data-run=second] a').focus()")
    status = "return document.querySelector(`tr[data-run=${arguments[0]}] td:nth-child(2)`)?.textContent"
    assert (await http.post("/runs/first/cancel")).status_code == 202
    await browser.until(status, lambda text: text == "active (cancel asked)", lambda: ("first",))
    assert (await http.post("/runs/first", headers={"stream-closed": "true"})).status_code == 204
    await browser.until(status, lambda text: text == "completed", lambda: ("first",))
    await http.delete("/runs/first")
    await browser.until(RUNS, lambda runs: runs == ["third", "second"])
    assert await browser.run("return document.activeElement.textContent") == "second"
    await select(browser, "active")
    await browser.until(RUNS, lambda runs: runs == ["third", "second"])
    await http.post("/runs/third", headers={"stream-closed": "true"})
    await browser.until(RUNS, lambda runs: runs == ["second"])
    asked = await browser.run("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in asked if "/runs?" in name and "live=sse" not in name] == []


async def test_the_list_goes_on_after_a_killed_machine(
    browser: Browser, http: httpx.AsyncClient, machine: Machine
) -> None:
    await make(http, "stays")
    await make(http, "goes")
    await browser.until(RUNS, lambda runs: runs and runs[:2] == ["goes", "stays"])
    await machine.kill()
    await browser.until(SAID, has("The connection was lost"))
    await machine.restart()
    await http.delete("/runs/goes")
    await make(http, "comes")
    await browser.until(RUNS, lambda runs: runs[:2] == ["comes", "stays"])
    await browser.until(SAID, lambda said: said == "")


async def test_older_runs_are_had_and_looked_through(browser: Browser, http: httpx.AsyncClient) -> None:
    for number in range(120):
        await make(http, f"old-{number:03}", workflowName="many")
    await type_in(browser, "workflowName", "many")
    await browser.until(RUNS, lambda runs: len(runs) == 50)
    await click(browser, ".more")
    newest = [f"old-{number:03}" for number in range(119, 19, -1)]
    await browser.until(RUNS, lambda runs: runs == newest)
    await type_in(browser, "text", "d-00")
    empty = "return document.querySelector('.empty').textContent"
    await browser.until(empty, lambda words: words == "None of the newest 100 is so.")
    await click(browser, ".more")
    await browser.until(RUNS, lambda runs: len(runs) == 10)
    assert await browser.run("return document.querySelector('.more').hidden")
    await type_in(browser, "text", "old-007")
    await browser.run("document.querySelector('form').text.focus()")
    await browser.press(ENTER)
    await browser.until(COUNT, has("0 events"))
    assert await browser.run("return location.hash") == "#/runs/old-007"


async def test_a_tab_that_nobody_sees_lets_go_and_comes_back(
    browser: Browser, http: httpx.AsyncClient, machine: Machine
) -> None:
    async def readers() -> float:
        text = (await http.get("/metrics", headers={"accept": "text/plain"})).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("run_gateway_readers{"))

    async def readers_are(count: int) -> None:
        async with asyncio.timeout(60):
            while await readers() != count:  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0.02)

    seen = (
        "Object.defineProperty(document, 'hidden', {value: arguments[0], configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    await make(http, "unseen", {"n": 0})
    for view in ("#/", "#/runs/unseen"):
        await browser.run("location.hash = arguments[0]", view)
        await readers_are(1)
        await browser.run(seen, True)
        await readers_are(0)
        await append(http, "unseen", {"n": 1})
        await browser.run(seen, False)
        await readers_are(1)
    await browser.until(COUNT, has("3 events"))


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
        await answer(browser, key)
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
    await answer(browser, KEY)
    assert await browser.until(TEXTS, bool) == ["seen"]


async def test_what_a_key_may_not_do_is_refused_in_words(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "looked-at", {"text": "seen"})
    await browser.run("sessionStorage.setItem('run-gateway-key', arguments[0]); location.hash = '#/'", READER)
    await browser.reload()
    await browser.until(RUNS, lambda runs: "looked-at" in runs)
    await show(browser, "looked-at")
    await browser.until(COUNT, has("1 events"))
    await click(browser, ".cancel")
    await click(browser, "#sure button[value=yes]")
    await browser.until(SAID, has("It could not be cancelled: 403"))
    await browser.run("location.hash = '#/subscriptions'")
    await browser.until(SAID, has("403"))
    assert not await browser.run(ASKED)


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
    await browser.press("j", ENTER)
    await browser.until(COUNT, has("2 events"))
    focused = "return document.activeElement.className || document.activeElement.id"
    for _ in range(30):
        await browser.press(TAB)
        if await browser.run(focused) == "window":
            break
    await browser.press(DOWN)
    await browser.until("return document.querySelector('.raw').textContent", has("one"))
    described = "return document.querySelector('.chosen dl').textContent"
    assert "offset0000000000000000_0000000000000001" in await browser.run(described)
    await browser.press("j")
    await browser.until(described, has("0000000000000000_0000000000000002"))
    chosen = "return document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))?.textContent"
    assert "two" in await browser.until(chosen, bool)
    await browser.run("document.querySelector('.cancel').focus()")
    await browser.press(ENTER)
    await browser.until("return document.getElementById('sure').open", bool)
    await browser.press(ESCAPE)
    await browser.until("return document.getElementById('sure').open", lambda shown: not shown)
    await browser.press(ESCAPE)
    await browser.until(RUNS, bool)
    await browser.press("/", *"typ")
    await browser.until(RUNS, lambda runs: runs == ["typed"])


async def test_events_can_be_looked_at_while_others_come(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "paused", *[{"n": number} for number in range(500)])
    await show(browser, "paused")
    await browser.until(COUNT, has("500 events"))
    last = "return [...document.querySelectorAll('.window .number')].map((each) => each.textContent).at(-1)"
    await browser.until(last, lambda number: number == "500")
    await click(browser, ".follow")
    await append(http, "paused", *[{"n": number} for number in range(500, 1000)])
    await browser.until(COUNT, has("1000 events"))
    assert int(await browser.run(last)) < 600
    await click(browser, ".follow")
    await browser.until(last, lambda number: number == "1000")


async def test_a_run_is_downloaded_as_it_was_written(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "saved")
    lines = [b'{"id":12345678901234567890}', b'{"a":1,"a":1.0}', b'"\\ud83d"'] + [b"%d" % n for n in range(30_000)]
    for start in range(0, len(lines), 10_000):
        body = b"[%b]" % b",".join(lines[start : start + 10_000])
        assert (await http.post("/runs/saved", content=body, headers=JSON)).status_code == 204
    await show(browser, "saved")
    await browser.until(COUNT, has("30003 events"))
    await browser.run(
        "URL.createObjectURL = (blob) => { blob.text().then((all) => { window.saved = all; }); return '#'; }"
    )
    await click(browser, ".save")
    assert (await browser.until("return window.saved", bool)).encode() == b"".join(line + b"\n" for line in lines)


async def test_a_cancel_by_others_and_the_control_stream_are_shown(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "steered")
    await show(browser, "steered")
    await browser.until(COUNT, has("0 events"))
    assert (await http.post("/runs/steered/cancel", json={"reason": "<i>enough</i>"})).status_code == 202
    await browser.until("return document.querySelector('main dl').textContent", has("cancelRequestedAt"))
    assert await browser.run("return document.querySelector('.cancel').disabled")
    await click(browser, ".control summary")
    await browser.until("return document.querySelector('.control pre').textContent", has("<i>enough</i>"))


async def test_it_fits_a_phone(browser: Browser, http: httpx.AsyncClient) -> None:
    await make(http, "w" * 200, {"type": "k" * 200, "text": "t" * 5000}, metadata={"m" * 100: "v" * 300})
    phone = {"width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    await browser.emulate("Emulation.setDeviceMetricsOverride", **phone)
    too_wide = "return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth"
    for view in ("#/", "#/subscriptions", f"#/runs/{'w' * 200}"):
        await browser.run("location.hash = arguments[0]", view)
        await browser.until("return document.querySelector('main').childElementCount", bool)
        await browser.until(too_wide, lambda pixels: pixels <= 0)
    await browser.until(COUNT, has("1 events"))
    await click(browser, ".window li")
    heights = "return ['.window', '.chosen'].map((each) => document.querySelector(each).getBoundingClientRect().height)"
    assert min(await browser.run(heights)) > 80


async def test_axe_finds_nothing_that_bars_anybody(browser: Browser, http: httpx.AsyncClient) -> None:
    call = {"type": "tool_start", "toolCallId": "a", "toolName": "search"}
    await make(http, "heard", call, {"type": "error"}, {"n": 1})
    wakes = {"type": "pull-wake", "streams": ["runs/heard"], "wake_stream": "heard-wakes"}
    await http.put("/v1/stream/heard-wakes", headers=JSON)
    await http.put("/v1/stream/__ds/subscriptions/heard", json=wakes)
    await browser.run((npm_ci(CLIENTS) / "axe-core" / "axe.min.js").read_text())
    views = {
        "#/": "tbody tr",
        "#/runs/heard": ".window li",
        "#/subscriptions": "main tbody tr",
        "#/subscriptions/heard": "main tbody tr",
        "#/shared/heard/none": ".ask",
    }
    look = (
        "window.found = null; axe.run(document).then(({violations}) => { window.found = violations.map("
        "(each) => [each.id, each.help, each.nodes.map((node) => node.html)]); })"
    )
    colours = set()
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await browser.emulate("Emulation.setEmulatedMedia", features=features)
        for view, there in views.items():
            await browser.run("location.hash = arguments[0]", view)
            await browser.until(f"return Boolean(document.querySelector('{there}'))", bool)
            if there == ".window li":
                await click(browser, there)
            await browser.run(look)
            assert await browser.until("return window.found", lambda found: found is not None) == [], (scheme, view)
        colours.add(await browser.run("return getComputedStyle(document.documentElement).color"))
    assert len(colours) == 2, "a dark room has other colours"


async def test_it_works_below_a_prefix_of_a_proxy(
    browser: Browser, http: httpx.AsyncClient, machine: Machine, tmp_path: Path
) -> None:
    await make(http, "below", {"text": "seen"})
    async with nginx(tmp_path, f"location /gate/ {{ proxy_pass {machine.url}/; proxy_buffering off; }}") as url:
        await browser.open(f"{url}/gate/ui")
        await answer(browser, KEY)
        await browser.until(RUNS, lambda runs: "below" in runs)
        await show(browser, "below")
        assert await browser.until(TEXTS, bool) == ["seen"]
        await click(browser, ".share")
        link = await browser.until("return document.querySelector('.link input').value", bool)
        assert link.startswith(f"{url}/gate/ui#/shared/below/")
        asked = await browser.run("return performance.getEntriesByType('resource').map((each) => each.name)")
        assert all(name.startswith(f"{url}/gate/") for name in asked)
        await browser.open(f"{url}/gate/docs")
        await browser.until("return document.querySelectorAll('.opblock').length", lambda count: count > 10)


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
    await answer_docs(browser)
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
