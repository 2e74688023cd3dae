"""Two Machines at one address before an agent server, and all clients at once in the middle of their answers.

A fault is done once to all of them; what becomes of each is judged by itself. Whatever goes wrong with one client is
kept for its own test, and the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import httpx

from tests.machines import Machine
from tests.relay.agents import AgentServer, Case
from tests.relay.clients import Clients, Deed, Order, Told, comes_back
from tests.relay.outcomes import BACK, Back
from tests.tools.proxy import Proxy

PATHS: Final = {
    "ai-sdk": "/api/chat",
    "ai-sdk-workflow": "/api/workflow",
    "tanstack": "/tanstack",
    "tanstack-http": "/tanstack-http",
    "langgraph": "/",
    "openai-responses": "/v1/responses",
    "openai-chat": "/v1/chat/completions",
    "ag-ui": "/agent",
    "sse": "/events",
    "event-source": "/source",
    "ndjson": "/lines",
}
RELAY: Final = ",".join(f"{preset}:{path}" for preset, path in PATHS.items())


@dataclass
class Answer:
    """One client's answer under way. `before`: what it had of it when it came back where it was."""

    client: str
    case: Case
    told: Told
    before: str = ""
    problem: BaseException | None = None
    calls: int | None = None

    @property
    def text(self) -> str:
        """All that the app has by now."""
        return self.before + self.told.text

    async def has(self, text: str) -> None:
        """Waits until the app has this text, and nothing else."""
        assert text.startswith(self.before)
        await self.told.has(text.removeprefix(self.before))


@dataclass
class Stage:
    """`a` and `b` are two Machines, and `proxy` the address that clients know, which leads to `a` at first. Each fault
    has an address of its own: a connection that a client has kept would lead where it led before.
    """

    agent: AgentServer
    clients: Mapping[str, Clients]
    a: Machine
    b: Machine
    http: httpx.AsyncClient
    proxies: AsyncExitStack
    answers: list[Answer] = field(default_factory=list)
    proxy: Proxy = field(init=False)

    async def ask(self, *said: str, clients: Iterable[str] = BACK) -> None:
        """All of these clients ask; returns when each has `said`, in the middle of its answer."""
        self.proxy = await self.proxies.enter_async_context(Proxy(self.a.url))
        self.answers = []
        for client in clients:
            case = await self.agent.case().say(*said)
            order = Order(client, self.proxy.url, case.name, f"key-{case.name}")
            self.answers.append(Answer(client, case, await self.clients[client].carry_out(order)))
        await self.each(lambda answer: answer.has(answer.case.said))

    async def say(self, *texts: str) -> None:
        """The answers go on; returns when each client has all so far."""

        async def say(answer: Answer) -> None:
            await answer.case.say(*texts)
            await answer.has(answer.case.said)

        await self.each(say)

    async def finish(self, *texts: str) -> None:
        """The answers come to their end, and each client to its own."""

        async def finish(answer: Answer) -> None:
            await answer.case.finish(*texts)
            await answer.told.ended()

        await self.each(finish)

    async def come_back(self, do: Deed = "again") -> None:
        """Those that do not come back by themselves do so as their apps can."""
        await self.each(lambda answer: self._come_back(answer, do))

    async def _come_back(self, answer: Answer, do: Deed) -> None:
        back = BACK.get(answer.client, Back.START)
        if do == "again":
            if back is Back.ALONE:
                return
            assert (await answer.told.ended()).startswith("error"), f"it took {answer.text!r} for the whole"
        else:
            answer.told.close()
        answer.before = answer.text if back is Back.CURSOR and do == "again" else ""
        answer.told = await self.clients[answer.client].carry_out(comes_back(answer.told, do))

    async def note_calls(self) -> None:
        """Remembers how often the agent server was asked until now, for it is to forget it."""
        for answer in self.answers:
            answer.calls = await answer.case.calls()

    async def each(self, step: Callable[[Answer], Awaitable[object]]) -> None:
        """Does a step for all of them at once."""

        async def one(answer: Answer) -> None:
            try:
                await step(answer)
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError):
                    raise
                answer.problem = error

        await asyncio.gather(*(one(answer) for answer in self.answers if answer.problem is None))

    async def outcomes(self) -> dict[str, Outcome]:
        """What has become of each."""
        return {answer.client: await self._outcome(answer) for answer in self.answers}

    async def _outcome(self, answer: Answer) -> Outcome:
        calls = await answer.case.calls() if answer.calls is None else answer.calls
        return Outcome(answer.text, answer.case.said, answer.told.end or "", calls, answer.problem)


@dataclass(frozen=True)
class Outcome:
    """What a client has (`text`), what was said, how it ended, and how often the agent server was asked."""

    text: str
    said: str
    end: str
    calls: int
    problem: BaseException | None
