"""The README's pictures of the page: `python -m tests.page.pictures` takes them anew, of runs that it makes."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any, Final

import httpx

from tests.machines import Machine
from tests.tools.browser import Browser

FOLDER: Final = Path(__file__).parents[2] / "gateway" / "page" / "pictures"
_CLOSED: Final = {"stream-closed": "true"}
_SIZES: Final = {"runs": (900, 420), "run": (900, 820)}
_ANSWER: Final = (
    "Three Machines hold the run. One was killed at 12:04:31; its readers went on at the next, and missed nothing."
)
_RUNS: Final = (
    ("chat-1041", "chat", {"user": "ada"}, "completed"),
    ("report-77", "research", {"user": "grace", "team": "ops"}, "errored"),
    ("chat-1042", "chat", {"user": "ada"}, "active"),
    ("research-12", "research", {"user": "alan"}, "active"),
)


def events() -> list[dict[str, Any]]:
    """A run as agents write it: tokens, and calls of tools with their times."""
    began = 1_796_025_556_000
    tools = [("search", "a", 0, 1500, False), ("fetch", "b", 1500, 2100, True), ("fetch", "c", 2200, 4000, False)]
    found: list[dict[str, Any]] = [{"type": "run_start", "input": "What survived?", "timestamp": began}]
    for name, call, start, end, bad in tools:
        found.append({"type": "tool_start", "toolCallId": call, "toolName": name, "timestamp": began + start})
        found.append({"type": "tool_error" if bad else "tool_end", "toolCallId": call, "timestamp": began + end})
    for number, word in enumerate(_ANSWER.split(" ")):
        found.append({"type": "text", "text": word + " ", "timestamp": began + 4100 + 40 * number})
    return found


async def take() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        env = {"GATEWAY_DATA_DIR": data}
        async with (
            Machine.start(None, env=env) as machine,
            httpx.AsyncClient(base_url=machine.url) as http,
            Browser.start() as browser,
        ):
            for id, workflow, metadata, end in _RUNS:
                run = {"id": id, "workflowName": workflow, "metadata": metadata}
                (await http.post("/runs", json=run)).raise_for_status()
                (await http.post(f"/runs/{id}", json=events())).raise_for_status()
                if end != "active":
                    failed = {"isError": True, "error": {"message": "no page there"}} if end == "errored" else {}
                    closing = await http.post(f"/runs/{id}", json={"type": "run_end", **failed}, headers=_CLOSED)
                    closing.raise_for_status()
            await browser.open(f"{machine.url}/ui")
            rows = "return document.querySelectorAll('tbody tr').length"
            await browser.until(rows, lambda count: count == len(_RUNS))
            (FOLDER / "runs.png").write_bytes(await browser.picture(*_SIZES["runs"]))
            await browser.run("location.hash = '#/runs/chat-1042'")
            texts = "return document.querySelector('.window').textContent"
            await browser.until(texts, lambda text: "missed nothing" in text)
            (FOLDER / "run.png").write_bytes(await browser.picture(*_SIZES["run"]))


if __name__ == "__main__":
    asyncio.run(take())
