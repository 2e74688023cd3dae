"""The relay in front of conversations with owners: the owner records, keeps what it records, and hands it on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.owner.scene import House, Scene, scene, until

RELAY = """
[[relay]]
name   = "able"
start  = "POST /chat/{id}/answer"
key    = "path:id"
resume = ["GET /chat/{key}/back"]
stop   = "POST /chat/{key}/stop"
lost   = 'data: lost'
cancel = "POST /chat/{id}/abort"
rejoin = { ask = "GET /chat/{id}/answer", by = "header:last-event-id" }

[[relay]]
name   = "lone"
start  = "POST /chat/{id}/lone"
key    = "path:id"
resume = ["GET /chat/{key}/of-the-lone"]
lost   = 'data: lost'
"""


@asynccontextmanager
async def recording(database_url: str, folder: Path, houses: int = 2) -> AsyncIterator[Scene]:
    """Houses whose gateways record answers."""
    (folder / "relay.toml").write_text(RELAY)
    async with scene(database_url, folder) as those:
        for _ in range(houses):
            await those.house({"GATEWAY_RELAY_FILE": str(folder / "relay.toml"), "GATEWAY_RELAY_LEASE": "2"})
        yield those


async def begun(house: House, name: str, path: str = "answer") -> None:
    """An answer is under way, whose client has left."""
    async with house.http.stream("POST", f"/chat/{name}/{path}", json={}) as answer:
        assert answer.status_code == 200, await answer.aread()
        await anext(answer.aiter_raw())


async def whole(house: House, name: str, path: str = "back") -> list[str]:
    """All that an answer has become, as its client gets it here."""
    answer = await house.http.get(f"/chat/{name}/{path}", headers={"accept": "text/event-stream"})
    return [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data")]


def asked(those: Scene, name: str, what: str) -> list[int]:
    """Where an answer was asked for, or for its rest."""
    return [line["pid"] for line in those.writes(name) if line["what"] == what]


async def sure(house: House, name: str, text: str) -> int:
    """Says something until it was taken, as the owner may be lost meanwhile. Returns whose application has it."""

    async def taken() -> int:
        answer = await house.say(name, text)
        return int(answer.json()["pid"]) if answer.status_code == 202 else 0

    return int(await until(taken))


async def test_the_owner_records_and_all_machines_replay(database_url: str, tmp_path: Path) -> None:
    async with recording(database_url, tmp_path) as those:
        a, b = those.houses
        await a.say("one", "first")
        await begun(b, "one")  # by way of the other Machine
        assert asked(those, "one", "asked") == [a.pid]
        assert [await house.metric("recordings ") for house in (a, b)] == [1, 0]
        passed = await b.metric("owner_requests", "relayed")
        back = asyncio.ensure_future(whole(b, "one"))
        await a.say("one", "end")
        assert await back == await whole(a, "one") == ["first", "end"]
        assert await b.metric("owner_requests", "relayed") == passed  # it came out of the log

        await a.say("two", "first")
        await begun(b, "two")
        assert (await b.http.post("/chat/two/stop")).json() == {"id": "two", "status": "cancelled"}
        assert await whole(b, "two") == ["first"]

        async def told() -> bool:
            return [line["pid"] for line in those.writes("two") if line["what"] == "begun"] == [a.pid] * 2

        await until(told)  # what was said, and the upstream's own cancel


async def test_what_is_recorded_keeps_its_conversation(database_url: str, tmp_path: Path) -> None:
    """A Machine drains while it records, and no client is there: the conversation stays until the answer has ended."""
    async with recording(database_url, tmp_path) as those:
        a, b = those.houses
        await a.say("busy", "first")
        await begun(a, "busy")
        await a.say("idle")
        ending = asyncio.ensure_future(a.gateway.terminate())

        async def moved() -> bool:
            return bool((await b.say("idle")).json().get("pid") == b.pid)

        await until(moved)
        assert (await b.say("busy", "while it drains")).json()["pid"] == a.pid
        assert not ending.done()
        assert (await b.say("busy", "end")).json()["pid"] == a.pid
        assert await ending == 0
        assert await whole(b, "busy") == ["first", "while it drains", "end"]
        assert "2 were given away, and 0 were still busy" in a.gateway.log
        assert (await b.say("busy")).json()["pid"] == b.pid


async def test_the_next_owner_goes_on_with_what_is_recorded(database_url: str, tmp_path: Path) -> None:
    """A Machine is killed: of what is written to, and of what is not, the one that owns it next asks for the rest."""
    async with recording(database_url, tmp_path, 3) as those:
        a, b, c = those.houses
        for name in ("said", "idle", "lone"):
            await a.say(name, "first")
            await begun(a, name, "lone" if name == "lone" else "answer")
        await a.gateway.kill()
        await a.app.kill()
        owner = await sure(b, "said", "second")

        async def gone_on() -> bool:
            return bool(asked(those, "said", "asked again") and asked(those, "idle", "asked again"))

        await until(gone_on)
        assert asked(those, "said", "asked again") == [owner]
        (heir,) = asked(those, "idle", "asked again")
        for name, whose in (("said", owner), ("idle", heir)):
            assert await sure(c, name, "end") == whose
        assert await whole(b, "said") == await whole(c, "said") == ["first", "second", "end"]
        assert await whole(b, "idle") == ["first", "end"]
        assert await whole(c, "lone", "of-the-lone") == ["first", "lost"]  # nobody can


async def test_a_frozen_owner_records_no_more(database_url: str, tmp_path: Path) -> None:
    async with recording(database_url, tmp_path) as those:
        a, b = those.houses
        await a.say("frozen", "first")
        await begun(a, "frozen")
        a.freeze()
        try:
            assert await sure(b, "frozen", "second") == b.pid

            async def gone_on() -> bool:
                return asked(those, "frozen", "asked again") == [b.pid]

            await until(gone_on)
            await sure(b, "frozen", "third")
        finally:
            a.thaw()
        assert await sure(a, "frozen", "end") == b.pid
        assert await whole(a, "frozen") == await whole(b, "frozen") == ["first", "second", "third", "end"]

        async def left() -> bool:
            return await a.metric("recordings ") == 0

        await until(left)


async def test_a_second_process_of_the_app_ends_recordings(database_url: str, tmp_path: Path) -> None:
    """The answer of one that is gone is gone on with by whoever owns its conversation then."""
    async with recording(database_url, tmp_path) as those:
        a, b = those.houses
        await a.say("again", "first")
        await begun(b, "again")
        await a.app.kill()
        await a.app.launch()
        owner = await sure(b, "again", "second")
        await sure(a, "again", "end")
        assert await whole(b, "again") == ["first", "second", "end"]
        assert set(asked(those, "again", "asked again")) == {owner}


async def test_the_owners_application_says_who_comes_back(database_url: str, tmp_path: Path) -> None:
    """Another one does not know the session."""
    (tmp_path / "authorized.toml").write_text(RELAY.replace("lost   =", 'authorize = "GET /chat/{key}"\nlost   =', 1))
    env = {"GATEWAY_RELAY_FILE": str(tmp_path / "authorized.toml")}
    async with scene(database_url, tmp_path) as those:
        a, b = await those.house(env), await those.house(env)
        await a.say("mine", "first")
        await begun(b, "mine")
        await a.say("mine", "end")
        assert await whole(b, "mine") == await whole(a, "mine") == ["first", "end"]
