"""`run-gateway runs`, `show`, `cancel`, `delete` and `token` as processes, at a real Machine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import pytest_asyncio

from tests.cli.commands import command, running
from tests.databases import Postgres
from tests.machines import Machine

KEY = "0123456789abcdef0123"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database(postgres: Postgres) -> AsyncIterator[Postgres]:
    async with postgres.database() as url:
        yield Postgres(url)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def machine(database: Postgres) -> AsyncIterator[Machine]:
    env = {"AUTH": "keys", "GATEWAY_KEYS": f"op:read,write,control,admin:{KEY} writer:write:{KEY}w"}
    async with Machine.start(database.url, env=env) as machine:
        yield machine


@pytest_asyncio.fixture
async def http(machine: Machine) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=machine.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        yield client


async def make(http: httpx.AsyncClient, id: str, *events: object, **more: object) -> None:
    assert (await http.post("/runs", json={"id": id, **more})).status_code == 201
    if events:
        headers = {"content-type": "application/json"}
        assert (await http.post(f"/runs/{id}", content=json.dumps(events), headers=headers)).status_code == 204


async def at(machine: Machine, *arguments: str, token: str = KEY) -> tuple[int, str, str]:
    return await command(*arguments, "--url", machine.url, RUN_GATEWAY_TOKEN=token)


async def test_runs_are_listed_newest_first_over_many_pages(machine: Machine, http: httpx.AsyncClient) -> None:
    for number in range(103):
        await make(http, f"many-{number:03d}", workflowName="many")
    code, out, _ = await at(machine, "runs", "--workflow", "many", "--limit", "102", "--json")
    ids = [json.loads(line)["runId"] for line in out.splitlines()]
    assert (code, ids) == (0, [f"many-{number:03d}" for number in range(102, 0, -1)])


async def test_runs_are_listed_by_status_and_metadata(machine: Machine, http: httpx.AsyncClient) -> None:
    await make(http, "meant", workflowName="listed", metadata={"user": "u1"})
    await make(http, "other", workflowName="listed", metadata={"user": "u2"})
    code, out, err = await at(machine, "runs", "--metadata", "user=u1", "--status", "active")
    assert (code, out.split()[:3], len(out.splitlines())) == (0, ["meant", "active", "listed"], 1), err
    assert await at(machine, "runs", "--status", "errored") == (0, "", "No run is so.\n")


async def test_runs_are_followed_as_they_come_and_end(machine: Machine, http: httpx.AsyncClient) -> None:
    await make(http, "there", workflowName="followed")
    arguments = ("runs", "--workflow", "followed", "--follow", "--json", "--url", machine.url)
    async with running(*arguments, RUN_GATEWAY_TOKEN=KEY) as process:
        assert process.stdout is not None

        async def told() -> tuple[str, str]:
            assert process.stdout is not None
            line = json.loads(await process.stdout.readline())
            return line["change"], line["run"]["runId"]

        assert await told() == ("listed", "there")
        await make(http, "new", workflowName="followed")
        assert await told() == ("created", "new")
        assert (await http.post("/runs/new/cancel")).status_code == 202
        assert await told() == ("cancelled", "new")
        assert (await http.post("/runs/new", headers={"stream-closed": "true"})).status_code == 204
        assert await told() == ("ended", "new")
        assert (await http.delete("/runs/there")).status_code == 204
        assert await told() == ("removed", "there")


async def test_who_may_not_list_may_not_follow_either(machine: Machine) -> None:
    code, out, err = await at(machine, "runs", "--follow", token=f"{KEY}w")
    assert (code, out) == (1, "") and "403" in err


async def test_a_run_is_shown_with_both_of_its_ends(machine: Machine, http: httpx.AsyncClient) -> None:
    await make(http, "shown", *[{"n": number} for number in range(10)], workflowName="chat")
    code, out, _ = await at(machine, "show", "shown", "--json")
    shown = json.loads(out)
    assert (code, shown["events"], shown["closed"], shown["record"]["workflowName"]) == (0, 10, False, "chat")
    assert (shown["first"], shown["last"]) == ([{"n": 0}, {"n": 1}, {"n": 2}], [{"n": 7}, {"n": 8}, {"n": 9}])
    assert "… 4 more …" in (await at(machine, "show", "shown"))[1]


async def test_what_a_run_holds_and_who_is_there_is_shown(machine: Machine, http: httpx.AsyncClient) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)
    await make(http, "watched", {"text": "ä"}, [1], lease=60)
    async with http.stream("GET", "/runs/watched?offset=-1&live=sse") as reader:
        pieces = reader.aiter_bytes()
        await anext(pieces)
        shown = json.loads((await at(machine, "show", "watched", "--json"))[1])
        told = (await at(machine, "show", "watched"))[1]
    assert (shown["events"], shown["bytes"], shown["readersHere"]) == (2, len('{"text": "\\u00e4"}') + len("[1]"), 1)
    assert began <= datetime.fromisoformat(shown["lastSignOfLife"]) <= datetime.now(UTC) + timedelta(seconds=1)
    assert "events: 2 of 21 bytes, open at" in told
    assert "\nlast sign of life: 20" in told
    assert ": 1\n" in told.partition("\nreaders at ")[2]
    await http.post("/runs/watched", headers={"stream-closed": "true"})
    assert "sign of life" not in (await at(machine, "show", "watched"))[1]
    assert "activity" not in (await http.get("/runs/watched?meta")).json()


@pytest.mark.parametrize("count", [0, 1, 3, 4, 6])
async def test_no_event_is_shown_twice(machine: Machine, http: httpx.AsyncClient, count: int) -> None:
    events = [{"n": number} for number in range(count)]
    await make(http, f"short-{count}", *events)
    shown = json.loads((await at(machine, "show", f"short-{count}", "--json"))[1])
    assert shown["first"] + shown["last"] == events


async def test_a_run_of_two_epochs_is_shown(machine: Machine, http: httpx.AsyncClient, database: Postgres) -> None:
    await make(http, "moved", *[{"n": number} for number in range(10)])
    await database.execute(
        "UPDATE run_gateway.streams SET breaks = ARRAY[(1::bigint << 40) | 9] WHERE path = 'runs/moved'"
    )
    code, out, err = await at(machine, "show", "moved", "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert (shown["events"], shown["first"][0], shown["last"]) == (10, {"n": 0}, [])
    assert shown["nextOffset"].startswith("0000000000000001_")


async def test_a_cancel_reaches_the_producer(machine: Machine, http: httpx.AsyncClient) -> None:
    await make(http, "stopped")
    assert (await at(machine, "cancel", "stopped", "--reason", "too long"))[0] == 0
    (event,) = (await http.get("/runs/stopped/control")).json()
    assert (event["type"], event["reason"]) == ("cancel", "too long")


async def test_a_cancel_waits_for_the_end_if_asked(machine: Machine, http: httpx.AsyncClient) -> None:
    await make(http, "heeded")
    async with running("cancel", "heeded", "--wait", "60", "--url", machine.url, RUN_GATEWAY_TOKEN=KEY) as process:
        assert (await http.get("/runs/heeded/control?offset=-1&live=long-poll")).json()[0]["type"] == "cancel"
        assert (await http.post("/runs/heeded", headers={"stream-closed": "true"})).status_code == 204
        out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"It has ended: completed.\n")


async def test_a_cancel_that_is_not_heeded_is_told(machine: Machine, http: httpx.AsyncClient) -> None:
    await make(http, "deaf")
    code, _, err = await at(machine, "cancel", "deaf", "--wait", "0.1")
    assert code == 1
    assert "active still after 0.1 seconds" in err


async def test_a_run_is_deleted_once_that_is_confirmed(machine: Machine, http: httpx.AsyncClient) -> None:
    await make(http, "doomed")
    assert (await at(machine, "delete", "doomed"))[0] == 1  # nobody answers the question
    assert (await http.head("/runs/doomed")).status_code == 200
    assert await at(machine, "delete", "doomed", "--yes") == (0, "", "")
    assert (await http.head("/runs/doomed")).status_code == 404


async def test_a_token_opens_the_one_run(machine: Machine, http: httpx.AsyncClient) -> None:
    await make(http, "lent")
    await make(http, "kept")
    code, out, err = await at(machine, "token", "lent", "--ttl", "60")
    assert code == 0
    assert err.startswith("It is valid until ")
    assert (await at(machine, "show", "lent", token=out.strip()))[0] == 0
    assert (await at(machine, "show", "kept", token=out.strip()))[0] == 1


@pytest.mark.parametrize("what", [["show"], ["cancel"], ["delete", "--yes"], ["token"]])
async def test_what_is_not_there_is_one_line_and_code_1(machine: Machine, what: list[str]) -> None:
    code, out, err = await at(machine, *what, "nobody")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "404" in err


async def test_a_key_that_may_not_read_is_refused(machine: Machine, http: httpx.AsyncClient) -> None:
    await make(http, "private")
    code, _, err = await at(machine, "show", "private", token=f"{KEY}w")
    assert code == 1
    assert "403" in err
    assert "--token" in (await at(machine, "runs", token="wrong"))[2]


async def test_times_may_have_their_units(machine: Machine, http: httpx.AsyncClient) -> None:
    await make(http, "spanned")
    code, _, err = await at(machine, "token", "spanned", "--ttl", "1min")
    assert code == 0
    until = datetime.strptime(err, "It is valid until %Y-%m-%d %H:%M:%S UTC.\n").replace(tzinfo=UTC)
    assert until <= datetime.now(UTC) + timedelta(seconds=61)
    for wrong in ("soon", "nan", "0", "-1s"):
        code, _, err = await at(machine, "token", "spanned", "--ttl", wrong)
        assert (code, wrong in err) == (2, True)
    code, _, err = await at(machine, "cancel", "spanned", "--wait", "100ms")
    assert (code, "active still after 0.1 seconds" in err) == (1, True)


async def test_metadata_that_is_no_pair_is_misuse(machine: Machine) -> None:
    code, _, err = await at(machine, "runs", "--metadata", "user")
    assert code == 2
    assert "NAME=VALUE" in err
