"""Readers of conversations that are answered from rows: only those whom the app has answered, by nothing that somebody
else can say, and never with what the app keeps from them. Each attempt is a row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from gateway.flue.conversations.wire import ALL, FIRST_PAGE
from tests.databases import Postgres
from tests.flue.conversations.recorded import recording
from tests.flue.conversations.rig import Client, Room, room, tables

CHAT = recording("chat")
FROM = 20  # batches that are there
HIDDEN = b"gateway"  # a word that the app keeps from some
LET_IN = {"authorization": "Bearer ada", "host": "app.example", "cookie": "session=1", "x-forwarded-for": "203.0.113.7"}
ADDRESS = "192.0.2.1"
LIVE = f"view=updates&offset={0:016}_{FROM - 1:016}&live="
READS = ("", "view=history", "view=updates&offset=-1", f"view=updates&offset={0:016}_{3:016}", f"{LIVE}long-poll")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(postgres: Postgres) -> AsyncIterator[str]:
    async with tables(postgres) as url:
        yield url


@pytest_asyncio.fixture
async def there(url: str) -> AsyncIterator[Room]:
    async with room(url, CHAT, FROM) as there:
        yield there


def with_(**headers: str) -> Mapping[str, str]:
    return LET_IN | {name.replace("_", "-"): value for name, value in headers.items()}


def without(name: str) -> Mapping[str, str]:
    return {each: value for each, value in LET_IN.items() if each != name}


OTHERS: tuple[tuple[Mapping[str, str], str], ...] = (
    *((without(name), ADDRESS) for name in LET_IN),
    *((with_(authorization=value), ADDRESS) for value in ("Bearer bob", "bearer ada", "Bearer ada ", "Basic ada", "")),
    *((with_(cookie=value), ADDRESS) for value in ("session=2", "session=1; session=2", "SESSION=1", "")),
    *((with_(host=value), ADDRESS) for value in ("other.example", "APP.example", "app.example:80")),
    *((LET_IN, address) for address in ("192.0.2.2", "::ffff:192.0.2.1", "")),
    *((with_(x_forwarded_for=value), ADDRESS) for value in ("203.0.113.8", "203.0.113.7, 203.0.113.8")),
    (with_(x_real_ip="203.0.113.8"), ADDRESS),
    (with_(forwarded="for=203.0.113.8"), ADDRESS),
    (with_(x_api_key="1"), ADDRESS),
    (with_(proxy_authorization="Bearer ada"), ADDRESS),
    (with_(origin="https://evil.example"), ADDRESS),
    (with_(referer="https://evil.example"), ADDRESS),
    (with_(baggage="user=ada"), ADDRESS),
    (with_(x_http_method_override="POST"), ADDRESS),
    (with_(x_original_url="/agents/chat/other"), ADDRESS),
    (with_(run_gateway_tenant="rival"), ADDRESS),
    (with_(run_gateway_owner="v1.1.1.x"), ADDRESS),
    (with_(range="bytes=0-1"), ADDRESS),
    (with_(user_agent="another"), ADDRESS),
    *(
        (with_(connection=value), ADDRESS)
        for value in ("authorization", "Authorization", "close, authorization", "cookie", "keep-alive,cookie", "x")
    ),
)
"""All but the first client: by another credential, from another place, or with another's word for it."""


@pytest.mark.parametrize(("headers", "address"), OTHERS)
async def test_another_client_is_for_the_app(there: Room, headers: Mapping[str, str], address: str) -> None:
    """It refuses who is not the first; nobody who is refused is shown a byte of the rows, in any way to read."""
    first = await Client(there.behind, there.id, "", headers=LET_IN, address=ADDRESS).whole()
    assert await Client(there.behind, there.id, "", headers=LET_IN, address=ADDRESS).whole() == first
    known = dict(there.by)
    assert known["rows"] == 1
    there.app.status, there.app.alter = 403, lambda _: b"refused"
    for query in (*READS, f"{LIVE}sse"):
        other = Client(there.behind, there.id, query, headers=headers, address=address)
        assert (await other.whole(), other.status) == (b"refused", 403)
    assert there.by["rows"] == known["rows"]
    again = Client(there.behind, there.id, "", headers=LET_IN, address=ADDRESS)
    assert await again.whole() == first, "what others are told takes nothing from who is known"


BODIES: tuple[Mapping[str, str], ...] = (
    {"content-length": "1"},
    {"content-length": "00"},
    {"transfer-encoding": "chunked"},
    {"content-length": "0", "transfer-encoding": "chunked"},
)


@pytest.mark.parametrize("headers", BODIES)
async def test_what_a_body_may_say_is_for_the_app(there: Room, headers: Mapping[str, str]) -> None:
    """Of a GET, which some apps read: it says what no header does."""
    await there.ask().whole()
    for query in READS:
        await Client(there.behind, there.id, query, headers=headers).whole()
    assert there.by == {"rows": 0, "app": 1}
    assert there.app.asked == [b"", *(query.encode() for query in READS)]


PARTS = (
    *(f"view=updates&offset={0:016}_{at:016}" for at in (0, FROM // 2, FROM - 2, FROM - 1)),
    f"view=updates&offset={0:016}_{FROM - 2:016}",
)


async def test_no_part_of_a_conversation_opens_the_rest(there: Room) -> None:
    """The app hides a word from this client, which asks only for parts that do not have it."""

    def hide(body: bytes) -> bytes:
        return body.replace(HIDDEN, b"*" * len(HIDDEN))

    there.app.alter = hide
    shown = 0
    for query in PARTS:
        for _ in range(2):
            shown += HIDDEN not in await there.ask(query).whole()
        assert HIDDEN not in await there.ask().whole(), query
        assert HIDDEN not in await there.ask("view=updates&offset=-1").whole(), query
    assert shown == 2 * len(PARTS)
    assert there.by["rows"] == 0


async def test_what_the_first_page_lacks_is_asked_for_too(there: Room) -> None:
    """Of a long conversation the app shows a page, and what it hides is behind that."""
    there.app.page = FROM // 2
    there.app.alter = lambda body: body if body.startswith(b"[") else body.replace(HIDDEN, b"*" * len(HIDDEN))
    reader = there.ask(f"{LIVE}sse")
    await reader.whole()
    assert there.app.asked == [FIRST_PAGE, ALL, f"{LIVE}sse".encode()]
    assert there.by == {"rows": 0, "app": 1}
    there.app.alter = bytes
    reader = there.ask(f"{LIVE}sse")
    await reader.until(b"upToDate")
    assert there.by == {"rows": 1, "app": 1}
    reader.leave()
    await reader.whole()
