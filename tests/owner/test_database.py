"""The database is cut off from one Machine, or restarts for all: who may not believe any more writes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.databases import OwnPostgres
from tests.faults.network import distant
from tests.owner.scene import House, scene, until


async def test_who_is_cut_off_from_the_database_is_overtaken(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as those, distant(database_url) as (proxy, url):
        a, b = await those.house(database_url=url), await those.house()
        await a.say("cut")
        with proxy.refusing():
            proxy.cut()
            await until(lambda: refuses(a, "cut"))

            async def taken() -> bool:
                return bool((await b.say("cut", "taken over")).status_code == 202)

            await until(taken)
            refused = await a.say("cut", "of nobody")
            assert refused.status_code in (502, 503)

        async def follows() -> bool:
            return bool((await a.say("cut", "late")).json().get("pid") == b.pid)

        await until(follows)
        order = [line["pid"] for line in those.writes("cut") if line["what"] == "written"]
        assert order.index(b.pid) == order.count(a.pid)  # all of A's, and then all of B's
        assert await a.owner("cut") == b.pid


async def test_a_database_that_restarts_moves_nothing(
    own_postgres: Callable[[], Awaitable[OwnPostgres]], tmp_path: Path
) -> None:
    server = await own_postgres()
    async with server.database() as url, scene(url, tmp_path) as those:
        a, b = await those.house(), await those.house()
        await a.say("kept")
        await server.stop("immediate")
        await until(lambda: refuses(a, "kept"))
        assert (await a.http.get("/chat/kept")).json()["pid"] == a.pid  # whoever reads goes on
        await server.start()

        async def back() -> bool:
            return bool((await b.say("kept")).status_code == 202)

        await until(back)
        assert {line["pid"] for line in those.writes("kept")} == {a.pid}
        assert await a.metric("owner_lives") == 1


async def refuses(house: House, name: str) -> bool:
    """Whether a write is refused, since the belief is over. One that is under way as it ends may have been carried out,
    and is told so.
    """
    answer = await house.say(name, "by a belief that ends")
    if answer.status_code == 502:
        assert answer.json()["error"]["type"] == "owner_lost"
    else:
        assert answer.status_code == 503 or answer.json().get("pid") == house.pid, answer.text
    return answer.status_code == 503
